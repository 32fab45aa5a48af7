//! Entering a box inside of `fork`, for engines that may start a thread before their own fork returns (CRuby from 3.3 on has a timer
//! thread). Ids, capabilities, Landlock and filters belong to a thread: one that exists when a box is sealed would keep what its process
//! gives up. In a handler of `pthread_atfork` there is exactly one thread, whatever the engine does afterwards. It never acts in
//! a fork that `ofs_before_fork` has not announced, such as a function's own.

use std::ffi::{CStr, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::{self, Error, Result};
use crate::template;

/// Whether the next fork of this process makes a clone.
static ARMED: AtomicBool = AtomicBool::new(false);

/// Whether the C library calls the handler: once per process, its clones included.
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// `_Fork`: a fork without handlers, which may be called in a handler (POSIX.1-2024; glibc 2.34, musl 1.2.3).
type Fork = unsafe extern "C" fn() -> libc::pid_t;
static FORK: OnceLock<Option<Fork>> = OnceLock::new();

/// Once in a process that is going to be a template.
pub fn prepare() -> Result<()> {
    FORK.get_or_init(|| find(c"_Fork"));
    if REGISTERED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    // SAFETY: the handler is a function of this library, which is never unloaded.
    match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
        0 => Ok(()),
        error => Err(Error::errno("pthread_atfork", error)),
    }
}

/// The next fork makes a clone.
pub fn arm() {
    ARMED.store(true, Ordering::SeqCst);
}

/// In the template, after it.
pub fn disarm() {
    ARMED.store(false, Ordering::SeqCst);
}

/// The second fork of a function template's clone, where the first one may still be under way.
pub fn fork_again() -> Result<c_int> {
    if !REGISTERED.load(Ordering::SeqCst) {
        // SAFETY: a template has one thread, and the child of its fork has too.
        return unsafe { sys::fork() };
    }
    let Some(Some(fork)) = FORK.get() else {
        return Err(Error::invalid("the C library has no _Fork: clones of a snapshot need glibc 2.34 or newer"));
    };
    // SAFETY: this process has one thread, since it is inside of a fork.
    match unsafe { fork() } {
        pid if pid >= 0 => Ok(pid),
        _ => Err(Error::new("fork", std::io::Error::last_os_error())),
    }
}

unsafe extern "C" fn in_child() {
    if ARMED.swap(false, Ordering::SeqCst) {
        template::enter_clone();
        // A spare waits here for its function: it never runs the engine before its box is sealed.
        template::seal();
        sys::wipe_stack();
    }
}

fn find(name: &CStr) -> Option<Fork> {
    // SAFETY: the C library's function of that name has this type.
    sys::symbol(name).map(|address| unsafe { std::mem::transmute::<*mut libc::c_void, Fork>(address) })
}
