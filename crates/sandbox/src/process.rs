//! The driver of sandbox kind `process`: boxes are processes in namespaces of their own, started by the nursery or cloned
//! from a template.
//!
//! It makes what a box needs from outside (sockets, pipes, control group, user id) and supervises the process to its end.
//! It never knows which language or function runs inside, and never decides when to start or stop.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::cgroup::{Cgroups, Group, GroupLimits};
use crate::channel::{Channel, Claims, watch};
use crate::control::{Control, Started, State};
use crate::served::{Listener, first_frame};
use crate::uids::{Uid, Uids};
use crate::{SandboxError, control};

/// What a driver needs to know of its machine.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The program that becomes the nursery when started with `__nursery`.
    pub nursery: PathBuf,
    /// The directory that holds one directory of unpacked code per digest.
    pub code_dir: PathBuf,
    /// User ids for boxes.
    pub uids: std::ops::Range<u32>,
    /// The server itself has no privilege: boxes are made inside a user namespace.
    pub rootless: bool,
    /// Features that the operator accepts to do without.
    pub without: Without,
    /// Largest body of a frame from a worker, in bytes.
    pub max_body: usize,
}

/// Parts of the box that the operator has explicitly given up, because this machine cannot have them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Without {
    /// Landlock rules.
    pub landlock: bool,
    /// A user namespace per box.
    pub userns: bool,
    /// Limits on memory and processes.
    pub cgroup: bool,
}

/// A program and the files it needs, as data.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// What to execute, as seen from inside.
    pub argv: Vec<String>,
    /// Its environment, whole.
    pub env: Vec<(String, String)>,
    /// Directories and files to show inside besides the system's own.
    pub binds: Vec<Bind>,
}

/// One directory or file of the machine, shown in boxes.
#[derive(Debug, Clone, Serialize)]
pub struct Bind {
    /// Where it is on the machine.
    pub from: PathBuf,
    /// Where it is inside.
    pub to: PathBuf,
    /// Whether it may be written.
    pub writable: bool,
}

/// What one box is to be.
#[derive(Debug, Clone)]
pub struct BoxRequest {
    /// The directory below `code_dir` that becomes `/var/task`.
    pub code: String,
    /// The directory below `code_dir` that becomes `/opt`.
    pub opt: Option<String>,
    /// Memory limit in bytes.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Open files.
    pub nofile: u64,
    /// Size of `/tmp` in bytes.
    pub tmp: u64,
    /// Whether it shares the machine's network.
    pub host_network: bool,
    /// Whether it is going to be a function template.
    pub snapshot: bool,
    /// Whether a clone gets a listener in its network.
    pub listens: bool,
}

impl BoxRequest {
    /// What a spare is until it is needed: the parts that depend on a function are set when it is assigned.
    pub fn spare() -> Self {
        BoxRequest {
            code: String::new(),
            opt: None,
            memory: 128 << 20,
            pids: 64,
            nofile: 1024,
            tmp: 1 << 20,
            host_network: false,
            snapshot: false,
            listens: false,
        }
    }
}

/// Where a start comes from.
#[derive(Debug)]
pub enum Origin<'a> {
    /// The program is started from nothing.
    Boot(&'a Program),
    /// The box gets an init and a listener, and runs programs when it is told (`served`).
    Init(&'a Program),
    /// A live template is cloned.
    Clone(&'a Template),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Its parent died before it could be told.
    Unknown,
}

/// The end of a process, with what the kernel says of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub exit: Exit,
    /// Whether the kernel killed something in its group for want of memory.
    pub out_of_memory: bool,
}

/// The maker of boxes.
#[derive(Debug)]
pub struct Driver {
    config: DriverConfig,
    nursery: Mutex<Control>,
    cgroups: Cgroups,
    uids: Uids,
    names: AtomicU64,
    closed: AtomicBool,
}

/// A live warmed process to clone.
#[derive(Debug)]
pub struct Template {
    control: Control,
    process: Arc<Process>,
    /// Set for function templates: the word that lets them make namespaces for their clones, and the id they share.
    family: Option<Family>,
    /// Clones made ahead of need, in boxes that are not sealed yet.
    spares: Mutex<Vec<Sandbox>>,
    /// How many of them are being made.
    brewing: AtomicUsize,
}

#[derive(Debug, Clone)]
pub(crate) struct Family {
    cookie: String,
    uid: Arc<Uid>,
}

/// A box with its process. Dropped before it has been kept (`keep`, `into_template`), it is ended.
#[derive(Debug)]
pub struct Sandbox {
    /// The conversation with the worker.
    pub channel: Channel,
    /// Who may begin a call that was sent while another ran; without it none is sent.
    pub claims: Option<Claims>,
    /// What it prints: standard output and standard error, until somebody takes them.
    pub logs: Option<(pipe::Receiver, pipe::Receiver)>,
    /// Its process and group.
    pub process: Arc<Process>,
    /// Where its programs reach the server, where a clone was asked for one.
    pub listener: Option<Listener>,
    /// The user id of its programs, as the machine sees it; without privilege it is the server's own.
    pub uid: u32,
    pub(crate) family: Option<Family>,
    pub(crate) guard: Guard,
}

/// Ends a process when dropped, unless it has been let go of: whoever was to use a box may be gone before it is there.
#[derive(Debug)]
pub(crate) struct Guard(Option<Arc<Process>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.kill();
        }
    }
}

/// Where the highest memory use is read, and what was read last: asking the kernel costs as much as a short call.
#[derive(Debug)]
struct Peak {
    file: Option<File>,
    read: Option<(Instant, u64)>,
}

/// How old a peak may be that is reported. Calls that take longer than this always read it anew.
const PEAK_AGE: Duration = Duration::from_millis(2);

/// A process in a group, supervised to its end.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    group: Option<Group>,
    frozen: AtomicBool,
    /// How often it was frozen, and who waits until it is not.
    freezes: AtomicU64,
    thawed: tokio::sync::Notify,
    peak: Mutex<Peak>,
    ended: watch::Receiver<Option<End>>,
    /// Whoever says good-bye to its programs when it is retired.
    farewell: Mutex<Option<tokio::sync::oneshot::Sender<()>>>,
}

impl Driver {
    /// Starts the nursery. Must be called inside a tokio runtime.
    pub fn start(config: DriverConfig, cgroups: Cgroups) -> Result<Arc<Self>, SandboxError> {
        let nursery = Mutex::new(start_nursery(&config, &cgroups)?);
        let uids = Uids::new(config.uids.clone());
        let (names, closed) = (AtomicU64::new(1), AtomicBool::new(false));
        Ok(Arc::new(Driver { nursery, cgroups, uids, config, names, closed }))
    }

    /// The live nursery. When it has died, everything it ever started has died with it, and another takes its place.
    fn nursery(&self) -> Result<Control, SandboxError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SandboxError::Gone("nursery"));
        }
        let mut nursery = self.nursery.lock().unwrap_or_else(PoisonError::into_inner);
        if *nursery.state().borrow() == State::Gone {
            tracing::error!("the nursery is gone, and every instance with it; another is started");
            self.cgroups.thaw_all();
            *nursery = start_nursery(&self.config, &self.cgroups)?;
        }
        Ok(nursery.clone())
    }

    /// The control groups in use.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Whether boxes are made without privilege, and so share one user.
    pub fn rootless(&self) -> bool {
        self.config.rootless
    }
    /// Whether programs find their own user among the box's accounts: without a user namespace each box has another number.
    pub fn names_users(&self) -> bool {
        self.config.rootless || !self.config.without.userns
    }

    /// Ends everything that was ever started.
    pub fn shut_down(&self) {
        self.closed.store(true, Ordering::Release);
        self.nursery.lock().unwrap_or_else(PoisonError::into_inner).close();
    }

    /// Boots a language template: a trusted process that keeps its privilege and runs none of the user's code.
    pub async fn template(&self, program: &Program) -> Result<Template, SandboxError> {
        let (ours, theirs) = socket_pair()?;
        let null =
            File::options().read(true).write(true).open("/dev/null").map_err(SandboxError::io("open /dev/null"))?;
        let stderr = rustix::io::dup(rustix::stdio::stderr()).map_err(|e| SandboxError::io("dup")(e.into()))?;
        let header = |id| self.spawn_header(id, program, false, None);
        let fds = [theirs.as_fd(), null.as_fd(), stderr.as_fd(), null.as_fd()];
        let started = self.nursery()?.start(header, &fds).await?;
        let process = Process::supervise(started, None, None);
        Ok(Template::new(Control::new("template", control_socket(ours)?), process, None))
    }

    /// Starts a box: with a spare of the template, when there is one that fits, else from the origin now.
    pub async fn start_box(
        self: &Arc<Self>,
        origin: Origin<'_>,
        request: &BoxRequest,
    ) -> Result<Sandbox, SandboxError> {
        if let Origin::Clone(template) = &origin
            && let Some(mut spare) = template.spare_for(request)
        {
            // A function template's spares are whole: they wait for nothing but their first frame.
            if template.family.is_some() || self.assign(&mut spare, request).await.is_ok() {
                return Ok(spare);
            }
        }
        self.make_box(origin, request, false).await
    }

    /// A channel over this socket, with the limit of all channels.
    pub(crate) fn channel(&self, socket: OwnedFd) -> Result<Channel, SandboxError> {
        Channel::new(socket, self.config.max_body).map_err(SandboxError::io("watch a socket"))
    }

    /// Tells a spare what it is for.
    async fn assign(&self, spare: &mut Sandbox, request: &BoxRequest) -> Result<(), SandboxError> {
        if let Some(group) = &spare.process.group {
            let limits = GroupLimits { memory: request.memory, pids: request.pids };
            group.limit(limits).map_err(SandboxError::io("limit a control group"))?;
        }
        let assign = serde_json::json!({
            "t": "assign", "code": request.code, "opt": request.opt, "tmp_bytes": request.tmp, "tmp_inodes": inodes(request.tmp),
            "nofile": request.nofile, "nproc": request.pids, "listens": request.listens,
        });
        let sent = spare.channel.writer.send(&json(&assign), &[]).await;
        sent.map_err(|e| SandboxError::Failed(e.to_string()))?;
        if request.listens {
            spare.listener = Some(first_frame(&mut spare.channel.reader).await?);
        }
        Ok(())
    }

    /// Makes spares of a template until there are `wanted`; returns at once. What they are is `request` for the template of
    /// a function, and decided when they are needed for that of a language.
    pub fn brew_spares(self: &Arc<Self>, template: &Arc<Template>, request: &BoxRequest, wanted: usize) {
        let there = template.spares.lock().unwrap_or_else(PoisonError::into_inner).len();
        for _ in there + template.brewing.load(Ordering::Acquire)..wanted {
            template.brewing.fetch_add(1, Ordering::AcqRel);
            let (driver, template, request) = (self.clone(), template.clone(), request.clone());
            tokio::spawn(async move {
                match driver.make_box(Origin::Clone(&template), &request, true).await {
                    Ok(spare) => template.spares.lock().unwrap_or_else(PoisonError::into_inner).push(spare),
                    Err(error) => tracing::debug!(%error, "no spare could be made"),
                }
                template.brewing.fetch_sub(1, Ordering::AcqRel);
            });
        }
    }

    async fn make_box(
        self: &Arc<Self>,
        origin: Origin<'_>,
        request: &BoxRequest,
        waits: bool,
    ) -> Result<Sandbox, SandboxError> {
        let family = match &origin {
            Origin::Clone(Template { family: Some(family), .. }) => Some(family.clone()),
            _ => None,
        };
        let nested = family.is_some();
        let uid = match family.as_ref() {
            Some(family) => family.uid.clone(),
            None => Arc::new(
                self.uids.take().ok_or_else(|| SandboxError::NoRoom("all user ids of uid_range are taken".into()))?,
            ),
        };
        let outside = self.make_outside(request).await?;
        let cookie = match family.as_ref() {
            Some(family) => Some(family.cookie.clone()),
            None if request.snapshot => Some(random_cookie()?),
            None => None,
        };
        let mut spec = self.box_spec(request, uid.value(), &outside.name, nested, cookie.clone());
        spec.waits = waits;
        // A box with an init has one in any case.
        spec.listens = request.listens && matches!(origin, Origin::Clone(_));
        let mut fds = vec![
            outside.theirs.as_fd(),
            outside.stdout_in.as_fd(),
            outside.stderr_in.as_fd(),
            outside.claims_in.as_fd(),
        ];
        fds.extend(outside.doors.iter().map(OwnedFd::as_fd));
        let started = match &origin {
            Origin::Boot(program) | Origin::Init(program) => match self.nursery() {
                Ok(nursery) => {
                    let init = matches!(origin, Origin::Init(_));
                    nursery.start(|id| self.spawn_header(id, program, init, Some(&spec)), &fds).await
                }
                Err(error) => Err(error),
            },
            Origin::Clone(template) => template.control.start(|id| clone_header(id, &spec), &fds).await,
        };
        drop(fds);
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                outside.abandon();
                return Err(error);
            }
        };
        let family = cookie.filter(|_| request.snapshot).map(|cookie| Family { cookie, uid: uid.clone() });
        let number = if self.config.rootless { rustix::process::geteuid().as_raw() } else { uid.value() };
        let process = Process::supervise(started, outside.group, Some(uid));
        let listens = spec.listens;
        let mut made = Sandbox {
            uid: number,
            listener: None,
            channel: outside.ours,
            claims: Some(outside.claims),
            logs: Some((outside.stdout_out, outside.stderr_out)),
            guard: Guard(Some(process.clone())),
            process,
            family,
        };
        if listens {
            made.listener = Some(first_frame(&mut made.channel.reader).await?);
        }
        Ok(made)
    }

    /// Sockets, pipes and the control group. The group is files in the kernel: made off the event loop.
    async fn make_outside(self: &Arc<Self>, request: &BoxRequest) -> Result<Outside, SandboxError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SandboxError::Gone("server"));
        }
        let name = format!("i{}", self.names.fetch_add(1, Ordering::Relaxed));
        let limits = GroupLimits { memory: request.memory, pids: request.pids };
        let group = if self.cgroups.limits() {
            let (driver, name) = (self.clone(), name.clone());
            let made = tokio::task::spawn_blocking(move || {
                let group = driver.cgroups.create(&name, limits)?;
                match group.doors() {
                    Ok(doors) => Ok((group, doors)),
                    Err(error) => {
                        group.remove();
                        Err(SandboxError::io("open a control group")(error))
                    }
                }
            });
            Some(made.await.map_err(|e| SandboxError::Failed(e.to_string()))??)
        } else if self.config.without.cgroup {
            None
        } else {
            return Err(SandboxError::Failed("this machine has no control groups for memory and processes".into()));
        };
        let (group, doors) = group.map_or((None, Vec::new()), |(group, doors)| (Some(group), doors));
        let made = Outside::pipes(name, group, doors, self.config.max_body);
        if let Err(Some(group)) = made.as_ref().map_err(|(group, _)| group) {
            group.remove();
        }
        made.map_err(|(_, error)| error)
    }

    fn box_spec(&self, request: &BoxRequest, uid: u32, name: &str, nested: bool, cookie: Option<String>) -> BoxSpec {
        BoxSpec {
            uid,
            hostname: format!("offshoot-{name}"),
            network: if request.host_network { "host" } else { "none" },
            code: request.code.clone(),
            opt: request.opt.clone(),
            tmp_bytes: request.tmp,
            tmp_inodes: inodes(request.tmp),
            nofile: request.nofile,
            // Counted per user, which the family of a function template shares: there the control group alone limits.
            nproc: if (request.snapshot || nested) && self.cgroups.limits() {
                1 << 20
            } else {
                u64::from(request.pids)
            },
            core: 0,
            userns: !self.config.without.userns,
            landlock: !self.config.without.landlock,
            nested,
            may_snapshot: request.snapshot && !nested,
            rootless: self.config.rootless,
            waits: false,
            listens: false,
            cookie,
        }
    }

    fn spawn_header(&self, id: u64, program: &Program, init: bool, r#box: Option<&BoxSpec>) -> Vec<u8> {
        let env: Vec<String> = program.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        json(&serde_json::json!({
            "t": "spawn", "id": id, "argv": program.argv, "env": env, "init": init,
            "root": {
                "binds": program.binds, "code_dir": self.config.code_dir,
                // AWS's name for the environment itself, where extensions listen.
                "hosts": init.then_some("127.0.0.1 sandbox.localdomain sandbox\n"),
            },
            "box": r#box,
        }))
    }
}

/// A file of `/tmp` for every page of it, within reason.
fn inodes(tmp: u64) -> u64 {
    (tmp >> 12).clamp(1024, 1 << 20)
}

fn clone_header(id: u64, spec: &BoxSpec) -> Vec<u8> {
    json(&serde_json::json!({"t": "clone", "id": id, "box": spec}))
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn random_cookie() -> Result<String, SandboxError> {
    let mut bytes = [0u8; 24];
    getrandom::fill(&mut bytes).map_err(|e| SandboxError::Failed(format!("random bytes: {e}")))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The `BOX` of docs/design/002-channel.md.
#[derive(Debug, Serialize)]
struct BoxSpec {
    uid: u32,
    hostname: String,
    network: &'static str,
    code: String,
    opt: Option<String>,
    tmp_bytes: u64,
    tmp_inodes: u64,
    nofile: u64,
    nproc: u64,
    core: u64,
    userns: bool,
    landlock: bool,
    nested: bool,
    may_snapshot: bool,
    rootless: bool,
    waits: bool,
    listens: bool,
    cookie: Option<String>,
}

/// What a box needs from outside.
struct Outside {
    name: String,
    group: Option<Group>,
    doors: Vec<OwnedFd>,
    ours: Channel,
    theirs: OwnedFd,
    claims: Claims,
    claims_in: OwnedFd,
    stdout_out: pipe::Receiver,
    stdout_in: OwnedFd,
    stderr_out: pipe::Receiver,
    stderr_in: OwnedFd,
}

impl Outside {
    #[allow(clippy::result_large_err)]
    fn pipes(
        name: String,
        group: Option<Group>,
        doors: Vec<OwnedFd>,
        max_body: usize,
    ) -> Result<Self, (Option<Group>, SandboxError)> {
        let made = (|| {
            let (ours, theirs) = socket_pair()?;
            let ours = Channel::new(ours, max_body).map_err(SandboxError::io("watch a socket"))?;
            let (claims, claims_in) = Claims::new().map_err(SandboxError::io("make a pipe"))?;
            let (stdout_out, stdout_in) = log_pipe()?;
            let (stderr_out, stderr_in) = log_pipe()?;
            Ok((ours, theirs, (claims, claims_in), stdout_out, stdout_in, stderr_out, stderr_in))
        })();
        match made {
            Ok((ours, theirs, (claims, claims_in), stdout_out, stdout_in, stderr_out, stderr_in)) => Ok(Outside {
                name,
                group,
                doors,
                ours,
                theirs,
                claims,
                claims_in,
                stdout_out,
                stdout_in,
                stderr_out,
                stderr_in,
            }),
            Err(error) => Err((group, error)),
        }
    }

    /// Takes back what was made for a box that never came to be.
    fn abandon(self) {
        if let Some(group) = self.group {
            tokio::task::spawn_blocking(move || remove_group(&group));
        }
    }
}

/// Our end, which does not block, and the other.
pub(crate) fn socket_pair() -> Result<(OwnedFd, OwnedFd), SandboxError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| SandboxError::io("make a socket pair")(e.into()))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|e| SandboxError::io("make a socket non-blocking")(e.into()))?;
    Ok((ours, theirs))
}

fn control_socket(ours: OwnedFd) -> Result<UnixStream, SandboxError> {
    UnixStream::from_std(ours.into()).map_err(SandboxError::io("watch a socket"))
}

pub(crate) fn log_pipe() -> Result<(pipe::Receiver, OwnedFd), SandboxError> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| SandboxError::io("make a pipe")(e.into()))?;
    Ok((pipe::Receiver::from_owned_fd(read).map_err(SandboxError::io("watch a pipe"))?, write))
}

fn start_nursery(config: &DriverConfig, cgroups: &Cgroups) -> Result<Control, SandboxError> {
    let (ours, theirs) = socket_pair()?;
    std::process::Command::new(&config.nursery)
        .arg("__nursery")
        .args(cgroups.freezer())
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(SandboxError::io("start the nursery"))
        .map(reap_in_background)?;
    Ok(Control::new("nursery", control_socket(ours)?))
}

/// The nursery is our child: when it ends, somebody has to take note, or it stays a zombie.
fn reap_in_background(mut child: std::process::Child) {
    std::thread::spawn(move || child.wait());
}

/// How long a group's directory may resist removal after its last process was seen to end.
const REMOVAL_TRIES: u32 = 400;

fn remove_group(group: &Group) {
    for turn in 0..REMOVAL_TRIES {
        if group.remove() {
            return;
        }
        if turn % 40 == 39 {
            group.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    tracing::warn!("a control group stays behind: processes in it do not die");
}

impl Template {
    fn new(control: Control, process: Arc<Process>, family: Option<Family>) -> Self {
        Template { control, process, family, spares: Mutex::default(), brewing: AtomicUsize::new(0) }
    }

    /// A spare that can become this box and whose process lives, if there is one.
    fn spare_for(&self, request: &BoxRequest) -> Option<Sandbox> {
        if self.family.is_none() && (request.snapshot || request.host_network) {
            return None;
        }
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(spare) = spares.pop() {
            if spare.process.ended.borrow().is_none() {
                return Some(spare);
            }
        }
        None
    }

    /// What the template says of itself.
    pub fn state(&self) -> watch::Receiver<State> {
        self.control.state()
    }

    /// Its process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let spares = self.spares.get_mut().unwrap_or_else(PoisonError::into_inner);
        spares.iter().for_each(|spare| spare.process.kill());
        self.control.close();
        self.process.kill();
    }
}

impl Sandbox {
    /// From now on somebody else answers for its end.
    pub fn keep(&mut self) {
        self.guard.0 = None;
    }

    /// Turns a box whose worker has loaded its function for a snapshot into a template. `None` when it was not made for it.
    pub fn into_template(mut self) -> Option<Template> {
        let family = self.family.take()?;
        let control = Control::new("function template", self.channel.into_stream()?);
        self.guard.0 = None;
        Some(Template::new(control, self.process, Some(family)))
    }
}

impl Process {
    fn supervise(started: Started, group: Option<Group>, uid: Option<Arc<Uid>>) -> Arc<Self> {
        let (tell, ended) = watch::channel(None);
        let peak = Mutex::new(Peak { file: group.as_ref().and_then(Group::peak_file), read: None });
        let pidfd = started.pidfd;
        let process = Arc::new(Process {
            pidfd,
            group,
            frozen: AtomicBool::new(false),
            freezes: AtomicU64::new(0),
            thawed: tokio::sync::Notify::new(),
            peak,
            ended,
            farewell: Mutex::default(),
        });
        tokio::spawn(process.clone().watch_end(started.exit, tell, uid));
        process
    }

    /// Waits for the end, tells everyone, then removes the group and gives the user id back.
    async fn watch_end(
        self: Arc<Self>,
        exit: tokio::sync::oneshot::Receiver<i32>,
        tell: watch::Sender<Option<End>>,
        uid: Option<Arc<Uid>>,
    ) {
        match watch(self.pidfd.as_fd(), tokio::io::Interest::READABLE) {
            Ok(watched) => watched.readable().await.map(|_| ()).unwrap_or_default(),
            // No room to watch it: ask now and then.
            Err(_) => {
                while !self.is_over() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        // The parent reaps it within microseconds; when the parent itself is dead, nobody will say.
        let status = tokio::time::timeout(Duration::from_millis(200), exit).await.ok().and_then(Result::ok);
        let out_of_memory = self.group.as_ref().is_some_and(|group| group.oom_kills() > 0);
        let exit = match status {
            None => Exit::Unknown,
            Some(w) if w & 0x7f == 0 => Exit::Code((w >> 8) & 0xff),
            Some(w) => Exit::Signal(w & 0x7f),
        };
        tell.send_replace(Some(End { exit, out_of_memory }));
        if self.group.is_some() {
            let process = self.clone();
            tokio::task::spawn_blocking(move || process.group.as_ref().map(remove_group)).await.ok();
        }
        drop(uid);
    }

    /// Its end, once it has come.
    pub fn ended(&self) -> watch::Receiver<Option<End>> {
        self.ended.clone()
    }

    /// Whether it has ended, asked of the kernel: the news of an end takes a moment to come in by itself.
    pub fn is_over(&self) -> bool {
        let mut asked = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut asked, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Ends it and everything in its process-id namespace, now.
    pub fn kill(&self) {
        let sent = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        if let Some(group) = &self.group {
            // Where the signal did not go through, whatever is in the group is ended; ESRCH means that it is over already.
            match sent {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(_) => group.kill(),
            }
            if self.frozen.swap(false, Ordering::AcqRel) {
                group.thaw();
                self.thawed.notify_waiters();
            }
        }
    }

    /// Ends it because it is not needed any more. Where its programs are owed a notice (`on_retire`), whoever gives it ends
    /// it within the window that they have; otherwise it ends now.
    pub fn retire(&self) {
        let farewell = self.farewell.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.thaw();
        if farewell.is_none_or(|tell| tell.send(()).is_err()) {
            self.kill();
        }
    }

    /// What is told when it is retired. Whoever holds this has to end it then; when it is dropped, `retire` kills.
    pub fn on_retire(&self) -> tokio::sync::oneshot::Receiver<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        *self.farewell.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        told
    }

    /// Asks its first process to end (SIGTERM), which a program without a handler does not notice: it is process 1 there.
    pub fn terminate(&self) {
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::TERM).ok();
    }

    /// Stops it where it stands, at no cost of CPU. `false` when this machine cannot.
    pub fn freeze(&self) -> bool {
        // Said before it is done: whoever kills it meanwhile has to thaw it.
        self.frozen.store(true, Ordering::Release);
        self.freezes.fetch_add(1, Ordering::AcqRel);
        let done = self.group.as_ref().is_some_and(Group::freeze);
        if !done {
            self.frozen.store(false, Ordering::Release);
            self.thawed.notify_waiters();
        } else if self.is_over() || !self.frozen.load(Ordering::Acquire) {
            // Killed in between.
            self.thaw_now();
        }
        done
    }

    fn thaw_now(&self) {
        if let Some(group) = &self.group {
            group.thaw();
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        if self.frozen.swap(false, Ordering::AcqRel)
            && let Some(group) = &self.group
        {
            group.thaw();
            self.thawed.notify_waiters();
        }
    }

    /// Waits until it is not frozen.
    pub async fn running(&self) {
        loop {
            let thawed = self.thawed.notified();
            tokio::pin!(thawed);
            // From here on no notice is missed.
            thawed.as_mut().enable();
            if !self.frozen.load(Ordering::Acquire) {
                return;
            }
            thawed.await;
        }
    }

    /// How often it has been frozen, or nearly. The same number before and after some time: it was not frozen meanwhile.
    pub fn freezes(&self) -> u64 {
        self.freezes.load(Ordering::Acquire)
    }

    /// Puts the CPU limit in force: initialisation runs without one, as on AWS Lambda.
    pub fn settle(&self, cpu_millis: u64) {
        if let Some(group) = &self.group
            && let Err(error) = group.set_cpu(cpu_millis)
        {
            tracing::warn!(%error, "a CPU limit could not be set");
        }
    }

    /// Highest memory use so far, in bytes; 0 when this machine cannot tell. At most `PEAK_AGE` old.
    pub fn peak_memory(&self) -> u64 {
        let mut peak = self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, bytes)) = peak.read
            && when.elapsed() < PEAK_AGE
        {
            return bytes;
        }
        let Some(file) = peak.file.as_ref() else { return 0 };
        let mut text = [0u8; 32];
        let read = rustix::io::pread(file, &mut text, 0).unwrap_or(0);
        let bytes = std::str::from_utf8(&text[..read]).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        peak.read = Some((Instant::now(), bytes));
        bytes
    }

    /// Memory in use now, in bytes; 0 when this machine cannot tell.
    pub fn memory_used(&self) -> u64 {
        self.group.as_ref().and_then(Group::memory_used).unwrap_or(0)
    }

    /// How often the kernel has killed something in its group for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.group.as_ref().map_or(0, Group::oom_kills)
    }

    /// Its process id on this machine, for people and benchmarks; `None` once it has ended.
    pub fn pid(&self) -> Option<u32> {
        use std::os::fd::AsRawFd;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd())).ok()?;
        info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
    }
}

/// Waits until a language template is ready, for at most `limit`.
pub async fn ready(template: &Template, limit: Duration) -> Result<String, SandboxError> {
    let mut state = template.state();
    let wait = state.wait_for(|s| *s != control::State::Starting);
    match tokio::time::timeout(limit, wait).await {
        Ok(Ok(state)) => match &*state {
            control::State::Ready { version } => Ok(version.clone()),
            _ => Err(SandboxError::Gone("template")),
        },
        Ok(Err(_)) => Err(SandboxError::Gone("template")),
        Err(_) => Err(SandboxError::Failed(format!("a template was not ready after {} s", limit.as_secs()))),
    }
}
