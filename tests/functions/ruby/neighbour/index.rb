# Leaves marks wherever something could outlive an invocation, or reports the marks that it finds.
require "socket"

PLACES = %w[/tmp/canary /dev/shm/canary /var/tmp/canary /run/canary /var/task/canary /opt/canary].freeze
HELD = []
ABSTRACT = Socket.pack_sockaddr_un("\0offshoot-canary")

def leave
  $canary = "here"
  ENV["CANARY"] = "here"
  left = PLACES.select do |place|
    File.write(place, "here")
  rescue SystemCallError
    false
  end
  abstract = Socket.new(:UNIX, :STREAM)
  abstract.bind(ABSTRACT)
  abstract.listen(1)
  HELD << abstract
  File.umask(0o777)
  left
end

def find
  found = PLACES.select { |place| File.exist?(place) }
  found << "global" if $canary
  found << "env" if ENV.key?("CANARY")
  begin
    Socket.new(:UNIX, :STREAM).connect(ABSTRACT)
    found << "abstract socket"
  rescue SystemCallError
    nil
  end
  found << "umask" if File.umask(0o022) == 0o777
  found
end

def handler(req)
  { body: req.body == "leave" ? leave : find }
end
