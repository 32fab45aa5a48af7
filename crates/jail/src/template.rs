//! A template's side of the control socket, as C functions that its language calls: wait for a request, prepare the fork,
//! and in the clone enter the box. A *language template* has the nursery's privilege; a *function template* has none and
//! makes its clones' boxes with the secret that comes with the first request. It never forks by itself (the language does,
//! which knows what it must do around a fork), but for the second step of a function template's clone.
//!
//! `ofs_init(OFS_KEEPS_DESCRIPTORS)` is for engines that own descriptors which must stay valid (libuv, CRuby);
//! `OFS_ENTERS_IN_FORK` for engines that may start a thread before their fork returns (CRuby, `at_fork`).

use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::at_fork;
use crate::descriptors::{self, FIRST_OTHER, GIVEN, Kind};
use crate::enter::{self, How};
use crate::filter::Filter;
use crate::frame;
use crate::holes;
use crate::nursery::{self, CONTROL, Children, PidNamespace, answer};
use crate::spec::{Answer, Assign, BOX_FAILED, BoxSpec};
use crate::sys::{self, ChildBell, Error, Gate, Result};

/// Flag of `ofs_init`: the engine's descriptors are renewed in a clone, not closed.
pub const OFS_KEEPS_DESCRIPTORS: c_int = 1;

/// Flag of `ofs_init`: the clone enters its box inside of the C library's `fork`; `ofs_after_fork_child` has nothing left to do.
pub const OFS_ENTERS_IN_FORK: c_int = 2;

static STATE: Mutex<Option<Template>> = Mutex::new(None);

/// A function template's secret: in a language template only while that clone is being made, in the function template from
/// its first request on, in a clone never. It lies in this one place so that it can be wiped from it.
static GATE: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

fn gate() -> Gate {
    Gate([0, 1, 2].map(|i| GATE[i].load(Ordering::SeqCst)))
}

fn set_gate(words: [u64; 3]) {
    GATE.iter().zip(words).for_each(|(place, word)| place.store(word, Ordering::SeqCst));
}

struct Template {
    flags: c_int,
    control: RawFd,
    /// Present while it waits; a clone has its engine's own handler of `SIGCHLD`.
    bell: Option<ChildBell>,
    /// Present in a language template: the namespace to return to after a child got a new one.
    own: Option<PidNamespace>,
    filter: Filter,
    children: Children,
    /// The engine's descriptors, listed once: the template runs nothing between two clones.
    shared: Option<Vec<(RawFd, Kind)>>,
    copied: bool,
    /// Its heap is ready to be shared.
    settled: bool,
    pending: Option<Pending>,
}

/// The clone that is being made.
struct Pending {
    id: u64,
    spec: BoxSpec,
    fds: Vec<RawFd>,
    /// Where a function template reads its clone's number, and where the process in between writes it.
    pipe: Option<(RawFd, RawFd)>,
}

fn state() -> MutexGuard<'static, Option<Template>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with<T>(run: impl FnOnce(&mut Template) -> Result<T>) -> Result<T> {
    let mut state = state();
    let template = state.as_mut().ok_or_else(|| Error::invalid("ofs_init was not called"))?;
    run(template)
}

fn number(result: Result<c_int>) -> c_int {
    result.unwrap_or_else(|e| -e.code())
}

impl Template {
    fn new(flags: c_int, filter: Option<Filter>) -> Result<Self> {
        Ok(Self {
            flags,
            control: CONTROL,
            bell: None,
            own: if may_make_namespaces()? { Some(PidNamespace::open()?) } else { None },
            filter: filter.unwrap_or_else(|| Filter::compile(None)),
            children: Children::default(),
            shared: None,
            copied: false,
            settled: false,
            pending: None,
        })
    }

    /// Blocks until a clone is asked for (true) or the socket closes (false).
    fn wait(&mut self, control: RawFd) -> Result<bool> {
        self.control = control;
        WAITED.store(sys::own_pid(), Ordering::SeqCst);
        if !std::mem::replace(&mut self.settled, true) {
            holes::fill();
        }
        if self.shared.is_none() && !self.closes_descriptors() {
            let known = self.own.as_ref().map(PidNamespace::number);
            self.shared = Some(descriptors::list(&[control, known.unwrap_or(control)])?);
        }
        let bell = match self.bell.take() {
            Some(hung) => hung,
            None => ChildBell::hang()?,
        };
        let result = self.wait_with(control, &bell);
        self.bell = Some(bell);
        result
    }

    fn wait_with(&mut self, control: RawFd, bell: &ChildBell) -> Result<bool> {
        // A child may have ended before there was a bell.
        self.children.reap(control)?;
        loop {
            let [request, child] = sys::poll_readable([control, bell.number()], -1)?;
            if child {
                bell.hush();
                self.children.reap(control)?;
            }
            if request {
                match nursery::receive(control)? {
                    None => return Ok(false),
                    Some((request, fds)) => {
                        let id = request.id;
                        match self.accept(request, fds) {
                            Ok(()) => return Ok(true),
                            Err(e) => self.failed(id, &e)?,
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self, request: crate::spec::Request, fds: Vec<OwnedFd>) -> Result<()> {
        let (true, Some(mut spec), true) = (request.t == "clone", request.sandbox, fds.len() >= GIVEN) else {
            return Err(Error::invalid("a template takes `clone` with a box and four descriptors or more"));
        };
        if spec.nested != self.own.is_none() {
            return Err(Error::invalid("`nested` is for clones of function templates, and for all of them"));
        }
        let mut numbers = Vec::with_capacity(fds.len());
        for fd in fds {
            // Room for those that a worker has, should the program have closed one of its own.
            let given = fd.into_raw_fd();
            if given < FIRST_OTHER {
                numbers.push(sys::dup_above(given, FIRST_OTHER)?);
                sys::close(given);
            } else {
                numbers.push(given);
            }
        }
        if let Some(cookie) = spec.cookie {
            set_gate(cookie.0);
        }
        spec.wipe();
        self.pending = Some(Pending { id: request.id, spec, fds: numbers, pipe: None });
        Ok(())
    }

    fn before_fork(&mut self) -> Result<()> {
        if self.flags & OFS_KEEPS_DESCRIPTORS != 0 && !self.copied {
            copy_on_fork()?;
            self.copied = true;
        }
        let pending = self.pending.as_mut().ok_or_else(|| Error::invalid("no clone was asked for"))?;
        match &self.own {
            Some(own) => own.new_for_next_child()?,
            None => pending.pipe = Some(sys::pipe()?),
        }
        if self.flags & OFS_ENTERS_IN_FORK != 0 {
            at_fork::arm();
        }
        Ok(())
    }

    fn after_fork_parent(&mut self, pid: c_int) -> Result<()> {
        at_fork::disarm();
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let back = self.own.as_ref().map_or(Ok(()), PidNamespace::back);
        let result = if pid < 0 {
            Err(Error::errno("fork", libc::EAGAIN))
        } else if let Some((read, write)) = pending.pipe {
            sys::close(write);
            // The process in between answers for itself; here only the number to reap by is needed.
            if let Ok(Some(bytes)) = sys::read_exact::<4>(read) {
                self.children.know(c_int::from_ne_bytes(bytes), pending.id);
            }
            sys::close(read);
            Ok(())
        } else {
            self.children.started(self.control, pid, pending.id)
        };
        pending.fds.iter().for_each(|fd| sys::close(*fd));
        if self.own.is_some() {
            set_gate([0; 3]);
        }
        if let Err(e) = result {
            self.failed(pending.id, &e)?;
        }
        back
    }

    /// Python has nothing of its own open in a language template. libuv has, and a function template may have anything,
    /// under numbers that live on in its clones' memory.
    fn closes_descriptors(&self) -> bool {
        self.flags & OFS_KEEPS_DESCRIPTORS == 0 && self.own.is_some()
    }

    fn failed(&self, id: u64, error: &Error) -> Result<()> {
        answer(self.control, &Answer::Failed { id, error: error.to_string() }, &[])
    }
}

/// Whether this process has the capability to make namespaces: a language template does, a function template does not.
fn may_make_namespaces() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| Error::new("read /proc/self/status", e))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    const CAP_SYS_ADMIN: u32 = 21;
    Ok(u64::from_str_radix(effective.trim(), 16).is_ok_and(|caps| caps >> CAP_SYS_ADMIN & 1 == 1))
}

/// V8 tells the kernel to leave its pages out of a fork. A clone needs them.
fn copy_on_fork() -> Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| Error::new("read /proc/self/maps", e))?;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(permissions)) = (fields.next(), fields.next()) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let hex = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        let (start, end) = (hex(start), hex(end));
        if permissions.ends_with('p') && !line.ends_with("[vsyscall]") && end > start {
            // SAFETY: changes only what a fork does with this mapping of ours, not its contents or protection; mappings
            // for which that is not possible refuse.
            unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DOFORK) };
        }
    }
    Ok(())
}

/// The clone's side: from right after the fork to a process in its box.
fn become_clone(mut template: Template, pending: &Pending) -> Result<Template> {
    let gate = gate();
    if pending.spec.nested {
        second_fork(template.control, pending, &gate);
    }
    descriptors::place([0, 1, 2, 3].map(|at| pending.fds[at]), libc::O_CLOEXEC)?;
    let how = if pending.spec.nested {
        How::Nested
    } else {
        descriptors::join_cgroups(&pending.fds[GIVEN..])?;
        How::Clone
    };
    leave_descriptors(&mut template, pending)?;
    SPARE.store(pending.spec.waits, Ordering::SeqCst);
    if pending.spec.waits && how == How::Clone {
        enter::prepare(&pending.spec, how, &gate)?;
        *unsealed() = Some(pending.spec.clone());
    } else {
        enter::enter(&pending.spec, how, &gate, &template.filter)?;
    }
    // The children are not its own; what it needs to be a template itself it makes when it begins to wait.
    Ok(Template { control: CONTROL, children: Children::default(), copied: false, settled: false, ..template })
}

/// The box of a spare clone: it has its namespaces, and still the privilege that the rest takes. No code of a user runs
/// before `seal`.
static UNSEALED: Mutex<Option<BoxSpec>> = Mutex::new(None);

/// Whether this clone was made ahead of need.
static SPARE: AtomicBool = AtomicBool::new(false);

fn unsealed() -> MutexGuard<'static, Option<BoxSpec>> {
    UNSEALED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a spare: waits until it is told what it is for, and seals its box. In any other clone there is nothing to do.
pub(crate) fn seal() {
    let Some(spec) = unsealed().take() else { return };
    let _ = name_thread(c"spare");
    let sealed = wait_for_assignment(spec).and_then(|spec| match state().as_ref() {
        Some(template) => enter::seal(&spec, How::Clone, &Gate::default(), &template.filter),
        None => Err(Error::invalid("a spare without a filter")),
    });
    let _ = name_thread(c"worker");
    if let Err(e) = sealed {
        nursery::report_box_error(&e);
        sys::leave(BOX_FAILED)
    }
}

/// For people who look at the list of processes.
fn name_thread(name: &CStr) -> Result<c_int> {
    sys::prctl("name a spare", libc::PR_SET_NAME, name.as_ptr() as libc::c_ulong, 0)
}

fn wait_for_assignment(spec: BoxSpec) -> Result<BoxSpec> {
    let frame = match frame::recv(CONTROL, 0) {
        Ok(Some(frame)) => frame,
        // The server is gone, or has no use for this spare.
        Ok(None) => sys::leave(0),
        Err(e) => return Err(Error::invalid(format!("read an assignment: {e}"))),
    };
    let assign: Assign = match serde_json::from_slice(&frame.header) {
        Ok(assign) => assign,
        Err(e) => return Err(Error::invalid(format!("an assignment: {e}"))),
    };
    Ok(BoxSpec {
        code: Some(assign.code),
        opt: assign.opt,
        tmp_bytes: assign.tmp_bytes,
        tmp_inodes: assign.tmp_inodes,
        nofile: assign.nofile,
        nproc: assign.nproc,
        listens: assign.listens,
        ..spec
    })
}

/// Lets go of everything that is the template's.
fn leave_descriptors(template: &mut Template, pending: &Pending) -> Result<()> {
    let shared = template.shared.take();
    let closes = template.closes_descriptors();
    if let Some(bell) = template.bell.take() {
        bell.take_down();
    }
    let own = template.own.take().map(PidNamespace::into_number);
    if closes {
        return sys::close_from(FIRST_OTHER);
    }
    let pipe = pending.pipe.map(|(read, write)| [read, write]);
    let control = (template.control != CONTROL).then_some(template.control);
    let known = pending.fds.iter().copied().chain(pipe.into_iter().flatten());
    known.chain(own).chain(control).for_each(sys::close);
    descriptors::renew(&shared.unwrap_or_default())
}

/// In the first child of a function template: makes the namespaces, forks the clone into them as PID 1, tells the server
/// and the template about it and goes; the clone becomes the template's child. Returns only in the clone.
fn second_fork(control: RawFd, pending: &Pending, gate: &Gate) {
    let result = descriptors::join_cgroups(&pending.fds[GIVEN..])
        .and_then(|()| enter::split(&pending.spec, gate))
        .and_then(|()| at_fork::fork_again());
    let pid = match result {
        Ok(0) => return,
        Ok(pid) => pid,
        Err(e) => {
            let _ = answer(control, &Answer::Failed { id: pending.id, error: e.to_string() }, &[]);
            sys::leave(BOX_FAILED)
        }
    };
    let told = Children::default().started(control, pid, pending.id);
    if let Some((_, write)) = pending.pipe {
        let _ = sys::write_all(write, &pid.to_ne_bytes());
    }
    sys::leave(if told.is_ok() { 0 } else { BOX_FAILED })
}

#[inline(never)]
pub(crate) fn enter_clone() {
    let taken = state().take();
    let Some(mut template) = taken else { sys::leave(BOX_FAILED) };
    let Some(pending) = template.pending.take() else { sys::leave(BOX_FAILED) };
    let result = become_clone(template, &pending);
    set_gate([0; 3]);
    match result {
        Ok(fresh) => *state() = Some(fresh),
        Err(e) => {
            nursery::report_box_error(&e);
            sys::leave(BOX_FAILED)
        }
    }
}

/// Sends a language template's announcement on its control socket.
pub(crate) fn announce(version: &str) -> Result<()> {
    find_generators();
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|e| Error::new("list /proc/self/task", e))?;
    let threads = tasks.count() as u32;
    answer(CONTROL, &Answer::Template { version: version.to_owned(), threads }, &[])
}

/// The random generators of one OpenSSL that this process has loaded.
#[derive(PartialEq)]
struct Generator {
    /// The address of `RAND_add`, which mixes bytes in and, from OpenSSL 1.1.1 on, asks the kernel for more.
    add: usize,
    /// OpenSSL 3 compares `getpid()` before it gives out anything, and asks the kernel again when it differs
    /// (its `RAND(7)`, "the CSPRNG … is automatically reseeded after a fork").
    notices_forks: bool,
}

type Generators = Vec<Generator>;

/// Looked for before a fork, since a look costs a search through the library path; clones use what was found.
static GENERATORS: Mutex<Option<Generators>> = Mutex::new(None);

/// The process that waited last for a request, by its number in its own PID namespace: a clone's template. 0 before anyone has.
static WAITED: AtomicI32 = AtomicI32::new(0);

fn generators() -> MutexGuard<'static, Option<Generators>> {
    GENERATORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks again: a function that initialises may have loaded another one.
pub(crate) fn find_generators() {
    let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
    let mut found = Generators::new();
    for library in [None, Some(c"libcrypto.so.3"), Some(c"libcrypto.so.1.1")] {
        let handle = match library {
            None => libc::RTLD_DEFAULT,
            // SAFETY: a NUL-terminated name; with RTLD_NOLOAD the call only asks for a library that is loaded already.
            Some(name) => unsafe { libc::dlopen(name.as_ptr(), flags) },
        };
        // RTLD_DEFAULT is NULL too, but is asked for on purpose.
        if library.is_some() && handle.is_null() {
            continue;
        }
        // SAFETY: a handle from dlopen or RTLD_DEFAULT, and a NUL-terminated name.
        let find = |name: &CStr| unsafe { libc::dlsym(handle, name.as_ptr()) } as usize;
        let one = Generator { add: find(c"RAND_add"), notices_forks: find(c"OPENSSL_version_major") != 0 };
        if one.add != 0 && !found.contains(&one) {
            found.push(one);
        }
    }
    *generators() = Some(found);
}

/// Mixes `seed` into OpenSSL's random generators, wherever this process has OpenSSL and would not do it by itself. Clones of a
/// function template often have the number of their template, each in its own namespace; those of a language template never do.
/// To make the generators work for nothing would copy 150 pages of the template.
pub(crate) fn reseed(seed: &[u8]) -> Reseeded {
    type Add = unsafe extern "C" fn(*const c_void, c_int, f64);
    if generators().is_none() {
        find_generators();
    }
    let alike = [0, sys::own_pid()].contains(&WAITED.load(Ordering::SeqCst));
    let mut done = if alike { Reseeded::Unknown } else { Reseeded::ByThemselves };
    for Generator { add, notices_forks } in generators().iter().flatten() {
        if alike || !notices_forks {
            // SAFETY: the function has had this signature in every OpenSSL since 1.0; `seed` lives across the call, and the library was
            // loaded when it was found and is never unloaded.
            unsafe {
                std::mem::transmute::<usize, Add>(*add)(seed.as_ptr().cast(), seed.len() as c_int, seed.len() as f64)
            };
            done = Reseeded::Here;
        }
    }
    done
}

/// What became of OpenSSL's generators.
#[derive(Clone, Copy)]
pub(crate) enum Reseeded {
    /// They notice the fork by themselves (from OpenSSL 3 on; an older one that was not found does not).
    ByThemselves = 0,
    /// They have been given fresh bytes.
    Here = 1,
    /// None was found, and one that there may be would not notice: this process has the number of its template.
    Unknown = 2,
}

/// Opens what later steps need: once in a language template, and again (it does no harm) in a function template.
#[unsafe(no_mangle)]
pub extern "C" fn ofs_init(flags: c_int) -> c_int {
    let filter = state().take().map(|template| {
        if let Some(bell) = template.bell {
            bell.take_down();
        }
        template.filter
    });
    let prepared = if flags & OFS_ENTERS_IN_FORK == 0 { Ok(()) } else { at_fork::prepare() };
    match prepared.and_then(|()| Template::new(flags, filter)) {
        Ok(template) => {
            *state() = Some(template);
            find_generators();
            0
        }
        Err(e) => -e.code(),
    }
}

/// Serves the control socket: 1 when a clone is asked for, 0 at end of file, −errno.
#[unsafe(no_mangle)]
pub extern "C" fn ofs_wait(control: c_int) -> c_int {
    let result = number(with(|template| template.wait(control).map(c_int::from)));
    sys::wipe_stack();
    result
}

/// Prepares the fork. After −errno the request has been answered with `failed`, and there is nothing to fork.
#[unsafe(no_mangle)]
pub extern "C" fn ofs_before_fork() -> c_int {
    number(with(|template| match template.before_fork() {
        Ok(()) => Ok(0),
        Err(e) => {
            if let Some(pending) = template.pending.take() {
                pending.fds.iter().for_each(|fd| sys::close(*fd));
                template.failed(pending.id, &e)?;
            }
            Err(e)
        }
    }))
}

/// In the template after the fork: `pid` as fork gave it, negative when it failed.
#[unsafe(no_mangle)]
pub extern "C" fn ofs_after_fork_parent(pid: c_int) -> c_int {
    let result = number(with(|template| template.after_fork_parent(pid).map(|()| 0)));
    sys::wipe_stack();
    result
}

/// In the clone after the fork, but for engines of `OFS_ENTERS_IN_FORK`, whose clones have done it by then. A clone whose box cannot
/// be made says so on its channel and ends here.
#[unsafe(no_mangle)]
pub extern "C" fn ofs_after_fork_child() -> c_int {
    enter_clone();
    sys::wipe_stack();
    0
}

/// Serves the control socket and forks for every request: for an engine that has a single thread, and nothing to do around a fork.
/// 1 in a clone that is in its box, 0 at end of file, −errno.
#[unsafe(no_mangle)]
pub extern "C" fn ofs_clones(control: c_int) -> c_int {
    loop {
        let asked = ofs_wait(control);
        if asked <= 0 {
            return asked;
        }
        if ofs_before_fork() < 0 {
            continue; // it has been answered
        }
        // SAFETY: the engine has one thread, by contract of this function.
        match unsafe { sys::fork() } {
            Ok(0) => {
                ofs_after_fork_child();
                return 1;
            }
            Ok(pid) => ofs_after_fork_parent(pid),
            Err(e) => ofs_after_fork_parent(-e.code()),
        };
    }
}

/// Whether this clone is a spare: made ahead of need, so that it has time. (That of a language template is not sealed yet.)
#[unsafe(no_mangle)]
pub extern "C" fn ofs_spare() -> c_int {
    c_int::from(SPARE.load(Ordering::SeqCst))
}

/// In a spare clone, before anything of the function is loaded: waits to be assigned and seals the box. Does nothing in
/// other clones. On failure writes `box_error` and exits.
#[unsafe(no_mangle)]
pub extern "C" fn ofs_seal() -> c_int {
    seal();
    sys::wipe_stack();
    0
}

/// Announces a language template with its version.
///
/// # Safety
/// `version` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ofs_announce(version: *const c_char) -> c_int {
    // SAFETY: by contract of this function.
    let version = unsafe { CStr::from_ptr(version) };
    number(announce(&version.to_string_lossy()).map(|()| 0))
}

/// Mixes fresh bytes into OpenSSL's generators where they would not notice the fork. Returns a `Reseeded`.
///
/// # Safety
/// `seed` points at `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ofs_reseed(seed: *const c_uchar, length: usize) -> c_int {
    // SAFETY: by contract of this function.
    reseed(unsafe { std::slice::from_raw_parts(seed, length) }) as c_int
}
