require "securerandom"

$count = 0
BORN = SecureRandom.uuid

def handler(req)
  $count += 1
  { body: { count: $count, born: BORN } }
end
