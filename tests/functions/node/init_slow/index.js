Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
exports.handler = async () => ({ body: 'ready at last' });
