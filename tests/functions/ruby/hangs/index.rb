def handler(req)
  sleep
end
