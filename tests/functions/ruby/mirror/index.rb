# Answers exactly what the body's JSON says, whatever that is.
def handler(req)
  req.json
end
