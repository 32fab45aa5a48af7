# Answers at once, or after the milliseconds in the body; says which instance this is and how many calls it has begun.
require "securerandom"

$begun = 0
BORN = SecureRandom.uuid

def handler(req)
  $begun += 1
  answer = { begun: $begun, born: BORN, asked: req.body }
  sleep(req.body.to_i / 1000.0) unless req.body.empty?
  { body: answer }
end
