const fs = require('fs');
// Fills /tmp with bytes, then with empty files, and says how far it got.
exports.handler = async () => {
  let bytes = 0, files = 0, why = null, filesWhy = null;
  const block = Buffer.alloc(1 << 16, 7);
  const fd = fs.openSync('/tmp/big', 'w');
  try { for (;;) bytes += fs.writeSync(fd, block); } catch (e) { why = e.code; }
  fs.closeSync(fd);
  fs.unlinkSync('/tmp/big');
  try { for (; files < 3e6; files++) fs.closeSync(fs.openSync('/tmp/f' + files, 'w')); } catch (e) { filesWhy = e.code; }
  return { body: { bytes, why, files, filesWhy } };
};
