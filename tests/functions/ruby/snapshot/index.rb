# State made once, before the snapshot; hooks on both sides of it.
require "securerandom"

INITIALISED = SecureRandom.uuid
HOOKS = []
$before = $after = $calls = 0

Offshoot.register_before_snapshot do
  $before += 1
  HOOKS << "before 1"
end
Offshoot.register_before_snapshot(-> { HOOKS << "before 2" })
Offshoot.register_after_restore do
  $after += 1
  HOOKS << "after 1"
end
Offshoot.register_after_restore(-> { HOOKS << "after 2" })

def handler(req)
  $calls += 1
  if req.body == "leave"
    Thread.new do
      sleep 0.005
      exit!(0)
    end
  end
  kind = ENV["AWS_LAMBDA_INITIALIZATION_TYPE"]
  { body: { initialised: INITIALISED, before: $before, after: $after, hooks: HOOKS, calls: $calls, kind: kind } }
end
