"""Tries to get out of the box. Answers {attempts: {what: outcome}, facts: {...}}; an outcome that starts with "got" is an
escape. System calls are made by number, past everything that libc might refuse by itself."""
import ctypes
import errno
import os
import platform
import resource
import shutil
import signal
import socket
import struct
import subprocess

libc = ctypes.CDLL(None, use_errno=True)
P = ctypes.c_void_p


def attempt(action):
    try:
        value = action()
    except OSError as error:
        return "refused " + errno.errorcode.get(error.errno, str(error))
    except Exception as error:
        return "refused %s: %s" % (type(error).__name__, error)
    return "got " + repr(value)[:200]


def call(number, *args):
    """A system call; an errno is an OSError."""

    def action():
        ctypes.set_errno(0)
        whole = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
        result = libc.syscall(ctypes.c_long(number), *whole)
        if result < 0:
            raise OSError(ctypes.get_errno(), "")
        return result

    return action


def read(path):
    def action():
        with open(path, "rb") as f:
            data = f.read(200)
        if not data:
            raise OSError(errno.ENODATA, "")
        return data

    return action


def write(path):
    def action():
        with open(path, "wb") as f:
            f.write(b"x")

    return action


def names(path):
    def action():
        found = os.listdir(path)
        if not found:
            raise OSError(errno.ENOENT, "")
        return found

    return action


def files(asked, attempts):
    host_file, data_dir, server, other = asked["hostFile"], asked["dataDir"], asked["serverPid"], asked["otherPid"]
    for path in (
        "/etc/shadow /etc/sudoers /root/.bashrc /proc/kcore /dev/mem /dev/kmsg /dev/vda /dev/sda /proc/self/map_files/x".split()
        + [host_file, "/proc/1/root" + host_file, "/proc/self/root" + host_file, "/proc/self/cwd/../../../../../.." + host_file]
        + ["/proc/%s/environ" % server, "/proc/%s/environ" % other, "/proc/%s/maps" % other, "/proc/%s/mem" % other]
        + ["/proc/%s/root%s" % (server, host_file), "/dev/fd/4", "/dev/fd/5", "/dev/fd/6"]
    ):
        attempts["read " + path] = attempt(read(path))
    for path in [data_dir, data_dir + "/code", "/root", "/home", "/var/lib", "/run/offshoot/code", "/sys/fs/cgroup", "/boot", "/mnt"]:
        attempts["list " + path] = attempt(names(path))
    for path in (
        "/usr/x /usr/bin/x /var/task/x /var/runtime/x /etc/x /etc/passwd /x /lib/x /bin/x /opt/x /dev/x /sys/fs/cgroup/x "
        "/proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups "
        "/sys/kernel/uevent_helper /sys/fs/cgroup/release_agent /proc/self/attr/current"
    ).split() + [host_file]:
        attempts["write " + path] = attempt(write(path))
    for path in ("/var/task", "/usr", "/", "/etc"):
        attempts["chmod " + path] = attempt(lambda path=path: os.chmod(path, 0o777))
    open("/tmp/own", "w").close()
    attempts["chown to root"] = attempt(lambda: os.chown("/tmp/own", 0, 0))
    attempts["mknod disk"] = attempt(lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(254, 0)))
    attempts["mknod mem"] = attempt(lambda: os.mknod("/tmp/mem", 0o20666, os.makedev(1, 1)))
    attempts["link a file of the system"] = attempt(lambda: os.link("/usr/bin/id", "/tmp/linked"))
    attempts["hold a capability in a file"] = attempt(lambda: os.setxattr("/tmp/own", "security.capability", b"\1\0\0\2\xff\xff\xff\xff" + b"\0" * 12))

    def setuid_program():
        shutil.copy("/usr/bin/id", "/tmp/id")
        os.chmod("/tmp/id", 0o6755)
        uid = subprocess.run(["/tmp/id", "-u"], stdout=subprocess.PIPE, timeout=5).stdout.strip()
        if uid != b"0":
            raise OSError(errno.EPERM, "")
        return uid

    attempts["setuid program of its own"] = attempt(setuid_program)


def syscalls(attempts, other):
    if platform.machine() != "x86_64":
        return
    s = lambda text: ctypes.create_string_buffer(text.encode())
    tmp, root, none = s("/tmp"), s("/"), s("none")
    area = ctypes.create_string_buffer(4096)
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 1) + b"\0" * 128)
    mount_id = ctypes.c_int()
    table = {
        "mount tmpfs": (165, none, tmp, s("tmpfs"), 0, None),
        "mount proc": (165, none, tmp, s("proc"), 0, None),
        "mount bind": (165, root, tmp, None, 4096, None),
        "remount writable": (165, None, s("/usr"), None, 4096 | 32, None),
        "make shared": (165, None, root, None, 1 << 20, None),
        "umount proc": (166, s("/proc"), 2),
        "pivot_root": (155, tmp, tmp),
        "chroot": (161, tmp),
        "open_tree": (428, -100, root, 1),
        "move_mount": (429, -100, tmp, -100, root, 0),
        "fsopen": (430, s("tmpfs"), 0),
        "fsmount": (432, 3, 0, 0),
        "fspick": (433, -100, root, 0),
        "mount_setattr": (442, -100, root, 0, area, 32),
        "clone newuser": (56, 0x10000000 | 17, 0, 0, 0, 0),
        "clone newns": (56, 0x00020000 | 17, 0, 0, 0, 0),
        "clone newpid": (56, 0x20000000 | 17, 0, 0, 0, 0),
        "clone3": (435, area, 88),
        "ptrace traceme": (101, 0, 0, 0, 0),
        "ptrace attach 1": (101, 16, 1, 0, 0),
        "ptrace attach other": (101, 16, other, 0, 0),
        "process_vm_readv": (310, 1, area, 1, area, 1, 0),
        "process_vm_writev": (311, 1, area, 1, area, 1, 0),
        "pidfd_getfd": (438, 3, 0, 0),
        "kcmp": (312, 1, 1, 0, 0, 0),
        "process_madvise": (440, 3, area, 1, 4, 0),
        "keyctl session": (250, 1, 0),
        "keyctl read": (250, 11, -4, 0, 0),
        "add_key": (248, s("user"), s("k"), s("v"), 1, -4),
        "request_key": (249, s("user"), s("k"), None, 0),
        "bpf": (321, 0, area, 48),
        "perf_event_open": (298, area, 0, -1, -1, 0),
        "userfaultfd": (323, 0),
        "userfaultfd user mode": (323, 1),
        "io_uring_setup": (425, 8, area),
        "io_uring_enter": (426, 3, 0, 0, 0, 0),
        "io_uring_register": (427, 3, 0, 0, 0),
        "open_by_handle_at": (304, -100, handle, 0),
        "name_to_handle_at": (303, -100, root, handle, ctypes.byref(mount_id), 0),
        "init_module": (175, area, 16, s("")),
        "finit_module": (313, 0, s(""), 0),
        "delete_module": (176, s("x"), 0),
        "kexec_load": (246, 0, 0, 0, 0),
        "kexec_file_load": (320, -1, -1, 0, 0, 0),
        "reboot": (169, 0xFEE1DEAD, 672274793, 0, 0),
        "swapon": (167, tmp, 0),
        "swapoff": (168, tmp),
        "acct": (163, tmp),
        "syslog": (103, 3, area, 100),
        "quotactl": (179, 0, none, 0, area),
        "settimeofday": (164, area, 0),
        "clock_settime": (227, 0, area),
        "clock_adjtime": (305, 0, area),
        "adjtimex": (159, area),
        "iopl": (172, 3),
        "ioperm": (173, 0, 16, 1),
        "modify_ldt": (154, 1, area, 16),
        "sethostname": (170, s("owned"), 5),
        "setdomainname": (171, s("owned"), 5),
        "fanotify_init": (300, 0, 0),
        "vhangup": (153,),
        "personality": (135, 0x0400000),
        "setns": (308, 3, 0),
        "migrate_pages": (256, 0, 0, 0, 0),
        "move_pages": (279, 1, 0, 0, 0, 0, 0),
        "lookup_dcookie": (212, 0, area, 100),
        "nfsservctl": (180, 0, 0, 0),
        "uselib": (134, tmp),
        "ustat": (136, 0, area),
        "sysfs": (139, 1, s("proc")),
        "x32 getpid": (0x40000000 | 39,),
        "a call of tomorrow": (1000,),
        "setuid": (105, 0),
        "setgid": (106, 0),
        "setresuid": (117, 0, 0, 0),
        "setgroups": (116, 1, area),
        "setpriority": (141, 0, 0, -20),
        "sched_setscheduler fifo": (144, 0, 1, ctypes.create_string_buffer(struct.pack("<i", 50))),
        "prctl keep caps up": (157, 47, 2, 21, 0, 0),
    }
    for flag, name in ((0x10000000, "user"), (0x20000, "mnt"), (0x40000000, "net"), (0x20000000, "pid"), (0x8000000, "ipc"), (0x4000000, "uts"), (0x2000000, "cgroup")):
        table["unshare " + name] = (272, flag)
    for name, arguments in table.items():
        attempts["call " + name] = attempt(call(*arguments))
    for kind in ("mnt", "net", "pid", "user"):
        for pid in (1, other):
            def enter(kind=kind, pid=pid):
                fd = os.open("/proc/%s/ns/%s" % (pid, kind), os.O_RDONLY)
                try:
                    return call(308, fd, 0)()
                finally:
                    os.close(fd)

            attempts["setns %s of %s" % (kind, "1" if pid == 1 else "another")] = attempt(enter)


def network(asked, attempts):
    for name, family, kind, protocol in (
        ("packet", 17, socket.SOCK_RAW, 768),
        ("packet dgram", 17, socket.SOCK_DGRAM, 768),
        ("raw icmp", 2, socket.SOCK_RAW, 1),
        ("raw tcp", 2, socket.SOCK_RAW, 6),
        ("raw v6", 10, socket.SOCK_RAW, 58),
        ("netlink audit", 16, socket.SOCK_RAW, 9),
        ("netlink netfilter", 16, socket.SOCK_RAW, 12),
        ("netlink uevent", 16, socket.SOCK_RAW, 15),
        ("vsock", 40, socket.SOCK_STREAM, 0),
        ("alg", 38, socket.SOCK_SEQPACKET, 0),
        ("bluetooth", 31, socket.SOCK_RAW, 0),
        ("can", 29, socket.SOCK_RAW, 1),
        ("tipc", 30, socket.SOCK_STREAM, 0),
        ("rds", 21, socket.SOCK_SEQPACKET, 0),
        ("xdp", 44, socket.SOCK_RAW, 0),
        ("sctp", 2, socket.SOCK_STREAM, 132),
        ("mptcp", 2, socket.SOCK_STREAM, 262),
    ):
        attempts["socket " + name] = attempt(lambda: socket.socket(family, kind, protocol))

    def connect(host, port):
        s = socket.socket()
        s.settimeout(2)
        s.connect((host, port))
        return "connected"

    attempts["connect to the server"] = attempt(lambda: connect("127.0.0.1", asked["port"]))
    attempts["connect to the metadata service"] = attempt(lambda: connect("169.254.169.254", 80))
    attempts["connect to a public address"] = attempt(lambda: connect("1.1.1.1", 53))
    for name, address in (("abstract", "\0" + asked["abstract"]), ("file", asked["hostFile"] + ".sock")):
        def unix(address=address):
            socket.socket(socket.AF_UNIX).connect(address)

        attempts["connect to the host's %s socket" % name] = attempt(unix)


def others(asked, attempts):
    attempts["kill the server"] = attempt(lambda: os.kill(asked["serverPid"], 0))
    attempts["kill another instance"] = attempt(lambda: os.kill(asked["otherPid"], signal.SIGKILL))
    attempts["pidfd of another instance"] = attempt(call(434, asked["otherPid"], 0))
    attempts["kill everybody"] = attempt(lambda: os.kill(-1, signal.SIGKILL))
    attempts["raise the limit of open files"] = attempt(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)))
    attempts["raise the limit of processes"] = attempt(lambda: resource.setrlimit(resource.RLIMIT_NPROC, (resource.RLIM_INFINITY,) * 2))
    attempts["dump core"] = attempt(lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)))
    attempts["shared memory of the host"] = attempt(lambda: libc_shmget(asked["shmKey"]))
    attempts["own a terminal's input"] = attempt(lambda: __import__("fcntl").ioctl(0, 0x5412, b"x"))


def libc_shmget(key):
    ctypes.set_errno(0)
    if libc.shmget(key, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "")


def text(path):
    with open(path, errors="replace") as f:
        return f.read()


def handler(req):
    asked = req.json()
    attempts = {}
    files(asked, attempts)
    syscalls(attempts, asked["otherPid"])
    network(asked, attempts)
    others(asked, attempts)
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink("/proc/self/fd/" + fd))
        except OSError:
            pass
    facts = {
        "status": dict(line.split(":\t", 1) for line in text("/proc/self/status").splitlines() if ":\t" in line),
        "spaces": {kind: os.readlink("/proc/self/ns/" + kind) for kind in ("mnt", "ipc", "uts", "pid", "net")},
        "links": links,
        "env": dict(os.environ),
        "environ": text("/proc/self/environ"),
        "argv": __import__("sys").argv,
        "hostname": socket.gethostname(),
        "mounts": text("/proc/self/mountinfo"),
        "uid": os.getuid(),
        "pids": len([name for name in os.listdir("/proc") if name.isdigit()]),
        "cwd": os.getcwd(),
        "cgroup": text("/proc/self/cgroup"),
        "cmdline": text("/proc/self/cmdline"),
    }
    return {"body": {"attempts": attempts, "facts": facts}}
