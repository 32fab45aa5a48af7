# A reply of as many bytes as the body says.
def handler(req)
  { headers: { "Content-Type" => "text/plain" }, body: "x" * Integer(req.body) }
end
