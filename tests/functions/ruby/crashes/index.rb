require "fiddle"

SEGV = 11
RT_SIGACTION = RbConfig::CONFIG["host_cpu"] == "x86_64" ? 13 : 134
SYSCALL = Fiddle::Function.new(Fiddle::Handle::DEFAULT["syscall"], [Fiddle::TYPE_LONG] * 5, Fiddle::TYPE_LONG)

def handler(req)
  # Ruby would write a report first, which takes it a second and more.
  SYSCALL.call(RT_SIGACTION, SEGV, Fiddle::Pointer["\0" * 32].to_i, 0, 8)
  Fiddle::Pointer.new(8)[0]
end
