const fs = require('fs');
// Answers on the channel behind the worker's back, then answers as one should.
exports.handler = async (req) => {
  const head = JSON.stringify({ t: 'reply', id: req.id, http: { status: 200, headers: [] } });
  const frame = Buffer.alloc(8 + head.length + 6);
  frame.writeUInt32LE(head.length, 0);
  frame.writeUInt32LE(6, 4);
  frame.write(head + 'forged', 8);
  fs.writeSync(3, frame);
  return { body: 'honest' };
};
