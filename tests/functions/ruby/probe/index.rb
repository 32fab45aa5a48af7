# Tries to get out of the box. Answers {attempts: {what: outcome}, facts: {...}}; an outcome that starts with "got" is an
# escape. System calls are made by number, past everything that a library might refuse by itself.
require "fiddle"
require "open3"
require "socket"

def attempt
  "got #{yield.inspect[0, 200]}"
rescue SystemCallError => e
  "refused #{e.class.name.split("::").last}"
rescue EOFError, SocketError => e
  "refused #{e.class}: #{e.message}"
rescue StandardError, NotImplementedError => e
  "got nothing but a mistake of this probe: #{e.class}: #{e.message}"
end

SYSCALL = Fiddle::Function.new(Fiddle::Handle::DEFAULT["syscall"], [Fiddle::TYPE_LONG] * 7, Fiddle::TYPE_LONG)

# A system call: texts are given by their address.
def call(number, *arguments)
  whole = arguments.map { |value| value.is_a?(String) ? Fiddle::Pointer[value].to_i : value }
  result = SYSCALL.call(number, *whole, *[0] * (6 - whole.size))
  raise SystemCallError.new(nil, Fiddle.last_error) if result.negative?

  result
end

def files(asked, attempts)
  host_file, data_dir, server, other = asked.values_at("hostFile", "dataDir", "serverPid", "otherPid")
  read = %w[/etc/shadow /etc/sudoers /root/.bashrc /proc/kcore /dev/mem /dev/kmsg /dev/vda /dev/sda /proc/self/map_files/x]
  read += [host_file, "/proc/1/root#{host_file}", "/proc/self/root#{host_file}", "/proc/self/cwd/../../../../../..#{host_file}"]
  read += ["/proc/#{server}/environ", "/proc/#{other}/environ", "/proc/#{other}/maps", "/proc/#{other}/mem", "/proc/#{server}/root#{host_file}"]
  read += %w[/dev/fd/4 /dev/fd/5 /dev/fd/6].select { |path| File.file?(path) }
  read.each do |path|
    attempts["read #{path}"] = attempt { File.open(path, "rb") { |f| f.readpartial(200) } }
  end
  [data_dir, "#{data_dir}/code", "/root", "/home", "/var/lib", "/run/offshoot/code", "/sys/fs/cgroup", "/boot", "/mnt"].each do |path|
    attempts["list #{path}"] = attempt { Dir.children(path).tap { |found| raise Errno::ENOENT if found.empty? } }
  end
  write = %w[
    /usr/x /usr/bin/x /var/task/x /var/runtime/x /etc/x /etc/passwd /x /lib/x /bin/x /opt/x /dev/x /sys/fs/cgroup/x
    /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
    /sys/kernel/uevent_helper /sys/fs/cgroup/release_agent /proc/self/attr/current
  ]
  (write + [host_file]).each { |path| attempts["write #{path}"] = attempt { File.binwrite(path, "x") } }
  %w[/var/task /usr / /etc].each { |path| attempts["chmod #{path}"] = attempt { File.chmod(0o777, path) } }
  File.write("/tmp/own", "")
  attempts["chown to root"] = attempt { File.chown(0, 0, "/tmp/own") }
  attempts["link a file of the system"] = attempt { File.link("/usr/bin/id", "/tmp/linked") }
  attempts["setuid program of its own"] = attempt do
    File.binwrite("/tmp/id", File.binread("/usr/bin/id"))
    File.chmod(0o6755, "/tmp/id")
    uid = Open3.capture2("/tmp/id", "-u").first.strip
    uid == "0" ? uid : raise(Errno::EPERM)
  end
end

def syscalls(attempts, other)
  return unless RbConfig::CONFIG["host_cpu"] == "x86_64"

  tmp, root, none, area = "/tmp\0", "/\0", "none\0", "\0" * 4096
  handle = [128, 1].pack("Vl") + "\0" * 128
  table = {
    "mount tmpfs" => [165, none, tmp, "tmpfs\0", 0, 0], "mount proc" => [165, none, tmp, "proc\0", 0, 0],
    "mount bind" => [165, root, tmp, 0, 4096, 0], "remount writable" => [165, 0, "/usr\0", 0, 4096 | 32, 0],
    "make shared" => [165, 0, root, 0, 1 << 20, 0], "umount proc" => [166, "/proc\0", 2], "pivot_root" => [155, tmp, tmp],
    "chroot" => [161, tmp], "open_tree" => [428, -100, root, 1], "move_mount" => [429, -100, tmp, -100, root, 0],
    "fsopen" => [430, "tmpfs\0", 0], "fspick" => [433, -100, root, 0], "mount_setattr" => [442, -100, root, 0, area, 32],
    "mknod disk" => [133, "/tmp/disk\0", 0o60666, 0xfe00], "mknod mem" => [133, "/tmp/mem\0", 0o20666, 0x101],
    "clone newuser" => [56, 0x10000000 | 17, 0, 0, 0, 0], "clone newns" => [56, 0x20000 | 17, 0, 0, 0, 0],
    "clone newpid" => [56, 0x20000000 | 17, 0, 0, 0, 0], "clone3" => [435, area, 88], "ptrace traceme" => [101, 0, 0, 0, 0],
    "ptrace attach 1" => [101, 16, 1, 0, 0], "ptrace attach other" => [101, 16, other, 0, 0],
    "process_vm_readv" => [310, 1, area, 1, area, 1, 0], "process_vm_writev" => [311, 1, area, 1, area, 1, 0],
    "pidfd_getfd" => [438, 3, 0, 0], "kcmp" => [312, 1, 1, 0, 0, 0], "keyctl session" => [250, 1, 0],
    "add_key" => [248, "user\0", "k\0", "v", 1, -4], "bpf" => [321, 0, area, 48], "perf_event_open" => [298, area, 0, -1, -1, 0],
    "userfaultfd" => [323, 0], "io_uring_setup" => [425, 8, area], "open_by_handle_at" => [304, -100, handle, 0],
    "init_module" => [175, area, 16, "\0"], "kexec_load" => [246, 0, 0, 0, 0], "reboot" => [169, 0xFEE1DEAD, 672_274_793, 0, 0],
    "swapon" => [167, tmp, 0], "acct" => [163, tmp], "syslog" => [103, 3, area, 100], "settimeofday" => [164, area, 0],
    "clock_settime" => [227, 0, area], "iopl" => [172, 3], "modify_ldt" => [154, 1, area, 16], "sethostname" => [170, "owned", 5],
    "personality" => [135, 0x0400000], "setns" => [308, 3, 0], "move_pages" => [279, 1, 0, 0, 0, 0, 0], "x32 getpid" => [0x40000000 | 39],
    "a call of tomorrow" => [1000], "setuid" => [105, 0], "setgid" => [106, 0], "setresuid" => [117, 0, 0, 0], "setgroups" => [116, 1, area],
    "setpriority" => [141, 0, 0, -20], "prctl keep caps up" => [157, 47, 2, 21, 0, 0]
  }
  { user: 0x10000000, mnt: 0x20000, net: 0x40000000, pid: 0x20000000, ipc: 0x8000000, uts: 0x4000000, cgroup: 0x2000000 }.each do |name, flag|
    table["unshare #{name}"] = [272, flag]
  end
  table.each { |name, arguments| attempts["call #{name}"] = attempt { call(*arguments) } }
end

def network(asked, attempts)
  {
    "packet" => [17, 3, 768], "raw icmp" => [2, 3, 1], "raw tcp" => [2, 3, 6], "netlink audit" => [16, 3, 9], "vsock" => [40, 1, 0], "alg" => [38, 5, 0]
  }.each { |name, (family, kind, protocol)| attempts["socket #{name}"] = attempt { Socket.new(family, kind, protocol) } }
  attempts["connect to the server"] = attempt { Socket.tcp("127.0.0.1", asked["port"], connect_timeout: 2) }
  attempts["connect to the metadata service"] = attempt { Socket.tcp("169.254.169.254", 80, connect_timeout: 2) }
  { "abstract" => "\0#{asked["abstract"]}", "file" => "#{asked["hostFile"]}.sock" }.each do |name, address|
    attempts["connect to the host's #{name} socket"] = attempt { Socket.new(:UNIX, :STREAM).connect(Socket.pack_sockaddr_un(address)) }
  end
end

def others(asked, attempts)
  attempts["kill the server"] = attempt { Process.kill(0, asked["serverPid"]) }
  attempts["kill another instance"] = attempt { Process.kill(:KILL, asked["otherPid"]) }
  attempts["kill everybody"] = attempt { Process.kill(:KILL, -1) }
  attempts["raise the limit of open files"] = attempt { Process.setrlimit(:NOFILE, 1 << 20, 1 << 20) }
  attempts["raise the limit of processes"] = attempt { Process.setrlimit(:NPROC, Process::RLIM_INFINITY, Process::RLIM_INFINITY) }
  attempts["shared memory of the host"] = attempt { call(29, asked["shmKey"], 0, 0) }
end

def handler(req)
  asked = req.json
  attempts = {}
  files(asked, attempts)
  syscalls(attempts, asked["otherPid"])
  network(asked, attempts)
  others(asked, attempts)
  links = Dir.children("/proc/self/fd").filter_map do |fd|
    File.readlink("/proc/self/fd/#{fd}")
  rescue SystemCallError
    nil
  end
  facts = {
    status: File.readlines("/proc/self/status").to_h { |line| line.chomp.split(":\t", 2).then { |k, v| [k, v.to_s] } },
    spaces: %w[mnt ipc uts pid net].to_h { |kind| [kind, File.readlink("/proc/self/ns/#{kind}")] },
    # Every thread of the process, not only the one that asks, holds nothing.
    threads: Dir.children("/proc/self/task").map { |id| File.read("/proc/self/task/#{id}/status").scan(/^(?:CapPrm|CapBnd|Seccomp):\t(\S+)/).flatten },
    links: links, env: ENV.to_h, environ: File.read("/proc/self/environ"), argv: ARGV, hostname: Socket.gethostname,
    mounts: File.read("/proc/self/mountinfo"), uid: Process.uid, pids: Dir.children("/proc").grep(/\A\d+\z/).size,
    cwd: Dir.pwd, cgroup: File.read("/proc/self/cgroup"), cmdline: File.read("/proc/self/cmdline")
  }
  { body: { attempts: attempts, facts: facts } }
end
