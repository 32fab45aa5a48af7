CIRCLE = {}
CIRCLE["self"] = CIRCLE

class Thrower
  def to_json(*)
    raise "asked to be JSON"
  end
end

VALUES = {
  "circle" => CIRCLE, "not_a_number" => { a: Float::NAN }, "endless" => [Float::INFINITY], "bad_text" => ["\xff"], "thrower" => Thrower.new
}.freeze

def handler(req)
  { body: VALUES.fetch(req.body) }
end
