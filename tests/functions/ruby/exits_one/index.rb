def handler(req)
  exit 1
end
