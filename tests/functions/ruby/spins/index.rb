def handler(req)
  nil while true
end
