# Leaves a process behind that tries to outlive everything.
def handler(req)
  pid = fork do
    Process.setsid
    exit!(0) if fork
    %w[TERM HUP INT].each { |name| trap(name, "IGNORE") }
    loop { sleep 0.1 }
  end
  Process.wait(pid)
  { body: "left behind" }
end
