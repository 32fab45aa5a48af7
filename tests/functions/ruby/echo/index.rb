# Gives back what it was called with; below /raw, the body's bytes as they came.
def handler(req)
  return { headers: { "Content-Type" => "application/octet-stream" }, body: req.bytes } if req.path.start_with?("/raw")

  { body: { method: req.method, path: req.path, query: req.query, headers: req.headers, body: req.body, id: req.id } }
end
