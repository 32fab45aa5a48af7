//! How a program runs in a box: a driver makes a `Sandbox` (the box and its process) and a `Channel` (the conversation
//! with what runs in it), by booting a program or by cloning a template.
//!
//! This floor never contains a language, a function's name or a policy. The system calls themselves are in `crates/jail`,
//! which runs in other processes: the nursery and the templates.

pub mod cgroup;
pub mod channel;
pub mod control;
pub mod frames;
pub mod process;
mod rights;
pub mod served;
pub mod uids;

pub use cgroup::{Cgroups, Group};
pub use channel::{Channel, ChannelError};
pub use control::Control;
pub use process::{BoxRequest, Driver, DriverConfig, Exit, Origin, Program, Sandbox, Template};
pub use served::{Init, Listener, Served};

/// Why a box could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The machine has no room: processes, descriptors or memory.
    #[error("no room on this machine: {0}")]
    NoRoom(String),
    /// The process that was to make it is gone.
    #[error("the {0} is gone")]
    Gone(&'static str),
    /// A clone was not there in time, in seconds, on a machine that is too busy to say that its template hangs.
    #[error("no clone after {0} s, on a busy machine")]
    Late(u64),
    /// A step failed.
    #[error("{0}")]
    Failed(String),
    /// A system call failed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl SandboxError {
    /// Wraps a system call's error with the step that made it.
    pub(crate) fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> SandboxError {
        move |source| match source.raw_os_error() {
            // EAGAIN (processes), ENOMEM, EMFILE and ENFILE (descriptors), ENOSPC (cgroups): the machine is full, not broken.
            Some(11 | 12 | 23 | 24 | 28) => SandboxError::NoRoom(format!("{step}: {source}")),
            _ => SandboxError::Io { step, source },
        }
    }
}
