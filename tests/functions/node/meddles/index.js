// Closes descriptors that it did not open and replaces what it may; says which instance this is.
const fs = require('fs');
const born = require('crypto').randomUUID();
try { fs.closeSync(4); } catch {}
for (const name of ['readSync', 'writeSync', 'writevSync']) fs[name] = () => { throw new Error('mocked'); };
let begun = 0;
exports.handler = async (req) => ({ body: { begun: (begun += 1), born, asked: req.body } });
