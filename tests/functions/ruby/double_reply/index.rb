# Answers on the channel behind the worker's back, then answers as one should.
require "json"

def handler(req)
  head = { t: "reply", id: req.id, http: { status: 200, headers: [] } }.to_json
  IO.for_fd(3, "r+b", autoclose: false).syswrite([head.bytesize, 6].pack("VV") + head + "forged")
  { body: "honest" }
end
