const fs = require('fs');
const kept = [];
// The body says where the memory goes: heap, buffers (outside of the heap), tmp.
exports.handler = async (req) => {
  if (req.body === 'tmp') {
    for (let i = 0; ; i++) fs.writeFileSync('/tmp/' + i, Buffer.alloc(1 << 20, 1));
  }
  if (req.body === 'heap') {
    for (;;) kept.push(new Array(1000).fill(Math.random()));
  }
  for (;;) kept.push(Buffer.alloc(1 << 20, 1));
};
