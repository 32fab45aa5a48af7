const fs = require('fs');
const net = require('net');
globalThis.canary ??= null;
// Leaves marks wherever something could outlive an invocation, or reports the marks that it finds.
exports.handler = async (req) => {
  const places = ['/tmp/canary', '/dev/shm/canary', '/var/tmp/canary', '/run/canary', '/var/task/canary', '/opt/canary'];
  if (req.body === 'leave') {
    globalThis.canary = 'here';
    process.env.CANARY = 'here';
    process.umask(0o777);
    return { body: places.filter((p) => { try { fs.writeFileSync(p, 'here'); return true; } catch { return false; } }) };
  }
  const found = places.filter((p) => fs.existsSync(p));
  if (globalThis.canary) found.push('global');
  if (process.env.CANARY) found.push('env');
  if (process.umask() === 0o777) found.push('umask');
  return { body: found };
};
