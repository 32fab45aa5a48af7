# As many MiB on standard output as the body says, without a line feed.
def handler(req)
  block = "x" * (1 << 16)
  (Integer(req.body) * 16).times { $stdout.write(block) }
  { body: "survived" }
end
