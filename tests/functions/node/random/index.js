const crypto = require('crypto');
const kept = Math.random; // a reference kept from before a snapshot
// The first values of every source of randomness; then this instance ends, so that the next call gets a fresh one.
exports.handler = async () => {
  setImmediate(() => process.exit(0));
  return {
    body: {
      'Math.random': String(Math.random()) + String(Math.random()),
      'Math.random kept': String(kept()) + String(kept()),
      'crypto.randomUUID': crypto.randomUUID(),
      'crypto.randomBytes': crypto.randomBytes(16).toString('hex'),
      'crypto.randomInt': [0, 1, 2].map(() => crypto.randomInt(2 ** 47)).join(),
      'getRandomValues': Buffer.from(globalThis.crypto.getRandomValues(new Uint8Array(16))).toString('hex'),
      'globalThis.randomUUID': globalThis.crypto.randomUUID(),
      'generateKey': crypto.generateKeySync('hmac', { length: 128 }).export().toString('hex'),
      'mkdtemp': require('fs').mkdtempSync('/tmp/x'),
      'kernel': require('fs').readFileSync('/proc/sys/kernel/random/uuid', 'utf8'),
    },
  };
};
