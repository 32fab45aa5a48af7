# The body says where the memory goes: heap, objects, tmp.
KEPT = []

def handler(req)
  how = req.body.empty? ? "heap" : req.body
  number = 0
  loop do
    number += 1
    case how
    when "heap" then KEPT << "\1" * (1 << 20)
    when "objects" then KEPT << Array.new(10_000) { |i| "the object number #{i} of many" }
    when "tmp" then File.binwrite("/tmp/#{number}", "\1" * (1 << 20))
    end
  end
end
