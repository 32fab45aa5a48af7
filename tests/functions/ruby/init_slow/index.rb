sleep 0.5

def handler(req)
  { body: "ready at last" }
end
