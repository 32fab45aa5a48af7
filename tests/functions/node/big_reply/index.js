// A reply of as many bytes as the body says.
exports.handler = async (req) => ({ headers: { 'Content-Type': 'text/plain' }, body: 'x'.repeat(Number(req.body)) });
