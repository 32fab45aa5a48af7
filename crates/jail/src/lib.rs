//! The system calls that build a box: namespaces, mounts, seccomp, Landlock, ids, limits, capabilities; the nursery
//! that starts programs in boxes; and the same code as a shared library, which templates load to fork and lock their
//! clones. The contract is `docs/design/002-channel.md`. It never decides anything: what a box may use is said by whoever
//! asks for one, and a box that cannot be made exactly as asked is an error, never a weaker box.

// The one crate of the workspace that may: everything here is a system call or another program's C interface, and
// `sys.rs` gives nearly all of it a safe, checked form. Each block argues why it is sound.
#![allow(unsafe_code)]
// In C the interface is documented by the contract; the Rust items that the server uses are documented here.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(feature = "clone-lib")]
mod at_fork;
pub mod descriptors;
pub mod enter;
pub mod filter;
pub mod frame;
#[cfg(feature = "clone-lib")]
mod holes;
pub mod ids;
pub mod init;
#[cfg(feature = "clone-lib")]
pub mod napi;
pub mod nursery;
pub mod probe;
pub mod root;
pub mod rules;
pub mod spec;
pub mod sys;
#[cfg(feature = "clone-lib")]
pub mod template;

pub use sys::{Error, Result};
