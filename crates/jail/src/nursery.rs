//! The nursery: a small process with one thread that starts programs in boxes and reaps them. It is PID 1 of a PID
//! namespace, so that everything it ever started dies with it, and it dies with its control socket. It never runs
//! anything but what the server asks for, and holds no state that outlives it.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use crate::descriptors;
use crate::enter::{self, How};
use crate::filter::Filter;
use crate::frame;
use crate::ids;
use crate::init;
use crate::root;
use crate::spec::{Answer, BOX_FAILED, Request, USER};
use crate::sys::{self, ChildBell, Error, Gate, Result, cstr};

/// The descriptor of the control socket.
pub const CONTROL: RawFd = 3;

/// Serves the control socket on descriptor 3 until it closes. Returns only when the nursery could not be made; the
/// process must have one thread, and must not have joined anything that its programs should not be in.
///
/// `freezer` names a directory of version 1 freezer groups: what lies frozen in them could not die with the nursery, so
/// it is thawed at the end.
pub fn run(freezer: Option<PathBuf>) -> Result<Infallible> {
    sys::close_from(descriptors::FIRST_OTHER)?;
    // Away from the terminal of whoever started the server: its Ctrl-C is the server's business.
    sys::new_session();
    if sys::euid() == 0 {
        Gate::default().unshare("make the nursery's PID namespace", libc::CLONE_NEWPID)?;
    } else {
        ids::become_inner_root(libc::CLONE_NEWPID)?;
    }
    // SAFETY: this process has one thread, by contract of this function.
    match unsafe { sys::fork()? } {
        0 => {
            // If the outer process is killed first. (At the server's end the control socket closes.)
            sys::prctl("die with the parent", libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0)?;
            Nursery::new(freezer)?.serve()
        }
        pid => mirror(pid),
    }
}

/// The outer process: nothing but somebody outside the namespace for the server to wait for.
fn mirror(pid: libc::c_int) -> ! {
    sys::close(CONTROL);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: SIG_IGN is a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let status = sys::reap(pid, 0).map_or(1, |(_, status)| status);
    sys::leave(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) })
}

/// Keeps a namespace open to return to, and sends the next child into a new one.
pub(crate) struct PidNamespace(OwnedFd);

impl PidNamespace {
    pub(crate) fn open() -> Result<Self> {
        let step = |e| Error::new("open /proc/self/ns/pid", e);
        sys::openat(libc::AT_FDCWD, c"/proc/self/ns/pid", libc::O_RDONLY, 0).map(Self).map_err(step)
    }

    pub(crate) fn new_for_next_child(&self) -> Result<()> {
        Gate::default().unshare("make a PID namespace", libc::CLONE_NEWPID)
    }

    pub(crate) fn back(&self) -> Result<()> {
        sys::setns(self.0.as_fd(), libc::CLONE_NEWPID)
    }

    #[cfg(feature = "clone-lib")]
    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    #[cfg(feature = "clone-lib")]
    pub(crate) fn into_number(self) -> RawFd {
        std::os::fd::IntoRawFd::into_raw_fd(self.0)
    }
}

/// The children that a control socket's other end knows by the number of its request.
#[derive(Default)]
pub(crate) struct Children(Vec<(libc::c_int, u64)>);

impl Children {
    /// Tells of a new child, with its pidfd.
    pub(crate) fn started(&mut self, control: RawFd, pid: libc::c_int, id: u64) -> Result<()> {
        let pidfd = sys::pidfd_open(pid)?;
        self.know(pid, id);
        answer(control, &Answer::Started { id }, &[pidfd.as_raw_fd()])
    }

    /// Remembers a child that somebody else tells of.
    pub(crate) fn know(&mut self, pid: libc::c_int, id: u64) {
        self.0.push((pid, id));
    }

    /// Reaps whatever has ended. Strangers (orphans of programs) are reaped in silence.
    pub(crate) fn reap(&mut self, control: RawFd) -> Result<()> {
        while let Some((pid, status)) = sys::reap(-1, libc::WNOHANG) {
            if let Some(at) = self.0.iter().position(|(known, _)| *known == pid) {
                let (_, id) = self.0.swap_remove(at);
                answer(control, &Answer::Exited { id, status }, &[])?;
            }
        }
        Ok(())
    }
}

pub(crate) fn answer(control: RawFd, answer: &Answer, fds: &[RawFd]) -> Result<()> {
    frame::send(control, &answer.header(), &[], fds).map_err(|e| Error::new("send on the control socket", e))
}

/// Reads a request and overwrites the bytes it came in, which may hold a secret.
pub(crate) fn receive(control: RawFd) -> Result<Option<(Request, Vec<OwnedFd>)>> {
    let Some(mut frame) = frame::recv(control, 0).map_err(|e| Error::new("receive on the control socket", e))? else {
        return Ok(None);
    };
    let request = serde_json::from_slice::<Request>(&frame.header);
    sys::wipe(&mut frame.header);
    let request = request.map_err(|e| Error::new("read a request", e.into()))?;
    Ok(Some((request, frame.fds)))
}

struct Nursery {
    bell: ChildBell,
    own: PidNamespace,
    filter: Filter,
    children: Children,
    freezer: Option<PathBuf>,
}

impl Nursery {
    fn new(freezer: Option<PathBuf>) -> Result<Self> {
        Ok(Self {
            freezer,
            bell: ChildBell::hang()?,
            own: PidNamespace::open()?,
            filter: Filter::compile(None),
            children: Children::default(),
        })
    }

    /// A frozen process of version 1 cannot be killed, and the kernel would wait for it before it lets this process end.
    fn thaw_all(&self) {
        let groups = self.freezer.as_ref().and_then(|dir| std::fs::read_dir(dir).ok());
        for group in groups.into_iter().flatten().flatten() {
            // A group that is not frozen takes the word too; one that is gone has nothing to thaw.
            let _ = std::fs::write(group.path().join("freezer.state"), "THAWED");
        }
    }

    fn serve(mut self) -> ! {
        let closed = self.serve_until_closed();
        self.thaw_all();
        let status = match closed {
            Ok(()) => 0,
            // The server has gone in the middle of something.
            Err(e) if e.code() == libc::EPIPE || e.code() == libc::ECONNRESET => 0,
            Err(e) => {
                eprintln!("nursery: {e}");
                1
            }
        };
        sys::leave(status)
    }

    fn serve_until_closed(&mut self) -> Result<()> {
        loop {
            let [request, child] = sys::poll_readable([CONTROL, self.bell.number()], -1)?;
            if child {
                self.bell.hush();
                self.children.reap(CONTROL)?;
            }
            if request {
                match receive(CONTROL)? {
                    Some((request, fds)) => self.spawn(&request, &fds)?,
                    None => return Ok(()),
                }
            }
        }
    }

    fn spawn(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<()> {
        let id = request.id;
        match self.try_spawn(request, fds) {
            Ok(pid) => self.children.started(CONTROL, pid, id),
            Err(e) => answer(CONTROL, &Answer::Failed { id, error: e.to_string() }, &[]),
        }
    }

    fn try_spawn(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<libc::c_int> {
        let what = if request.init { request.sandbox.is_some() } else { !request.argv.is_empty() };
        if request.t != "spawn" || !what || fds.len() < descriptors::GIVEN {
            return Err(Error::invalid("a nursery takes `spawn` with a program and four descriptors or more"));
        }
        let boxed = request.sandbox.is_some();
        if boxed {
            self.own.new_for_next_child()?;
        }
        // SAFETY: the nursery has one thread.
        let forked = unsafe { sys::fork() };
        if let Ok(0) = forked {
            self.child(request, fds);
        }
        if boxed {
            self.own.back()?;
        }
        forked
    }

    /// The new process, to its end.
    fn child(&self, request: &Request, fds: &[OwnedFd]) -> ! {
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        // Without its channel in place it has nowhere to say more than its exit status does.
        // The channel of an init is its own: no program that it runs inherits it.
        let flags = if request.init { libc::O_CLOEXEC } else { 0 };
        if let Some((given, cgroups)) = numbers.split_first_chunk()
            && descriptors::place(*given, flags).is_ok()
        {
            let Err(e) = self.become_program(request, cgroups);
            report_box_error(&e);
        }
        sys::leave(BOX_FAILED)
    }

    fn become_program(&self, request: &Request, cgroups: &[RawFd]) -> Result<Infallible> {
        descriptors::join_cgroups(cgroups)?;
        sys::close_from(descriptors::FIRST_OTHER)?;
        let plain = request.sandbox.as_ref().filter(|spec| !spec.userns && !spec.rootless);
        root::build(&request.root, plain.map_or(USER, |spec| spec.uid))?;
        if let Some(spec) = &request.sandbox {
            let mut spec = spec.clone();
            let writable = request.root.binds.iter().filter(|b| b.writable);
            spec.writable.extend(writable.map(|b| b.to.clone()));
            let gate = Gate(spec.cookie.map_or([0; 3], |cookie| cookie.0));
            if request.init {
                enter::prepare(&spec, How::Boot, &gate)?;
                init::open_listener(spec.network)?;
                enter::seal(&spec, How::Boot, &gate, &self.filter)?;
                return init::serve();
            }
            enter::enter(&spec, How::Boot, &gate, &self.filter)?;
        } else {
            sys::umask(0o022);
            sys::new_session();
            sys::reset_signals(true);
        }
        execute(&request.argv, &request.env)
    }
}

/// On this process's own channel: its box could not be made.
pub(crate) fn report_box_error(error: &Error) {
    let header = Answer::BoxError { error: error.to_string() }.header();
    // Nobody is left to tell if this fails too; the exit status says the rest.
    let _ = frame::send(3, &header, &[], &[]);
}

/// Becomes this program, with this environment.
pub(crate) fn execute(argv: &[String], env: &[String]) -> Result<Infallible> {
    let strings = |list: &[String]| list.iter().map(|s| cstr(s)).collect::<Result<Vec<CString>>>();
    let (argv, env) = (strings(argv)?, strings(env)?);
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(&argv), pointers(&env));
    // SAFETY: NUL-terminated strings in NULL-terminated arrays, all of which live across the call.
    unsafe { libc::execve(arguments[0], arguments.as_ptr(), environment.as_ptr()) };
    let source = std::io::Error::last_os_error();
    Err(Error::new(format!("execute {}", argv[0].to_string_lossy()), source))
}
