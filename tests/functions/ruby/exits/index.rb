def handler(req)
  exit!(0)
end
