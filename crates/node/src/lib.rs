//! How one machine serves functions: what is deployed (`registry`), what runs (`pool`), how a call finds an instance
//! (`invoker`), and what is seen of it (`observe`).
//!
//! This floor never speaks HTTP to users, never reads the command line, the environment or a configuration file.

pub mod observe;
pub mod registry;
pub mod runtime;

pub use observe::{LogStore, Metrics};
pub use registry::{DeployRequest, Registry, Settings, Version};
pub use runtime::RuntimeTable;
