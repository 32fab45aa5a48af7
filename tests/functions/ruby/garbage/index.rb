# Writes what no worker may say on the channel; the body names it.
def frame(head, body = "")
  [head.bytesize, body.bytesize].pack("VV") + head + body
end

SAY = {
  "noise" => -> { "\xff\xfe\xfd this is no frame at all \x00\x01".b * 8 },
  "huge_header" => -> { [0xFFFFFFFF, 0].pack("VV") },
  "huge_body" => -> { [13, 0xFFFFFFF0].pack("VV") + '{"t":"reply"}' },
  "not_json" => -> { frame('{"t":') },
  "unknown" => -> { frame('{"t":"format_disk"}') },
  "again_ready" => -> { frame('{"t":"ready","init_us":1,"version":"1"}') },
  "foreign" => -> { frame('{"t":"reply","id":"00000000-0000-4000-8000-000000000000"}', "for you") },
  "deep" => -> { frame('{"t":' + "[" * 200_000 + "]" * 200_000 + "}") },
  "many" => -> { frame('{"t":"ready","init_us":1}') * 5000 },
  "partial" => -> { [100, 100].pack("VV") }
}.freeze

def handler(req)
  channel = IO.for_fd(3, "r+b", autoclose: false)
  channel.sync = true
  channel.write(SAY.fetch(req.body).call)
  sleep
end
