# Sleeps for the milliseconds in the body and says what else ran here meanwhile.
LOCK = Mutex.new
$active = $most = 0

def handler(req)
  LOCK.synchronize do
    $active += 1
    $most = [$most, $active].max
  end
  sleep(Integer(req.body) / 1000.0)
  LOCK.synchronize { $active -= 1 }
  { body: { slept: Integer(req.body), most: $most, env: ENV["MARK"] } }
end
