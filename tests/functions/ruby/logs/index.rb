# Writes the lines that the body's JSON lists to standard output, and one to standard error.
def handler(req)
  asked = req.body.empty? ? {} : req.json
  lines = asked.fetch("lines", [])
  lines.each { |line| puts line }
  $stdout.write(asked["raw"].unpack1("m")) if asked["raw"]
  warn "and one to stderr"
  { body: { written: lines.size } }
end
