// Gives back what it was called with; below /raw, the body's bytes as they came.
exports.handler = async (req) => {
  if (req.path.startsWith('/raw')) {
    return { headers: { 'Content-Type': 'application/octet-stream' }, body: req.rawBody };
  }
  return { body: { method: req.method, path: req.path, query: req.query, headers: req.headers, body: req.body, id: req.id } };
};
