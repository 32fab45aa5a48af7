# Closes descriptors that it did not open; says which instance this is.
require "securerandom"

begin
  IO.for_fd(4).close
rescue SystemCallError
  nil
end
$begun = 0
BORN = SecureRandom.uuid

def handler(req)
  $begun += 1
  { body: { begun: $begun, born: BORN, asked: req.body } }
end
