# Starts processes until the machine says no. By system calls: Ruby's own `fork` and `spawn` would wait for a free place and try again.
# fork and pause; where there are no such calls, clone and ppoll.
FORK, PAUSE = RbConfig::CONFIG["host_cpu"] == "x86_64" ? [[57], [34]] : [[220, 17, 0, 0, 0, 0], [73, 0, 0, 0, 0]]

def handler(req)
  $VERBOSE = nil # Ruby warns of `syscall`
  made = 0
  while made < 20_000
    begin
      if syscall(*FORK).zero?
        syscall(*PAUSE) while true
      end
    rescue SystemCallError => e
      return { body: { made: made, error: e.class.name.split("::").last } }
    end
    made += 1
  end
  { body: { made: made, error: nil } }
end
