//! How one machine serves functions: what is deployed (`registry`), what runs (`pool`), how a call finds an instance
//! (`invoker`), and what is seen of it (`observe`).
//!
//! This floor never speaks HTTP to users, never reads the command line, the environment or a configuration file.

mod assets;
pub mod catalog;
pub mod durable;
pub mod invoker;
pub mod keys;
mod ledger;
pub mod node;
pub mod observe;
pub mod pool;
pub mod prelude;
pub mod queue;
pub mod recursion;
pub mod registry;
pub mod roles;
pub mod runtime;
mod runtime_api;
pub mod sources;
pub mod templates;

pub use catalog::Catalog;
pub use durable::Durable;
pub use invoker::{Invoker, ReplyStream, Streamed};
pub use keys::Keyring;
pub use node::{Deployed, Load, Node, NodeConfig, QueueSettings, Warm};
pub use observe::{LogStore, Metrics};
pub use pool::PoolSettings;
pub use queue::Queue;
pub use registry::{DeployRequest, Registry, Settings, Version};
pub use roles::Roles;
pub use runtime::RuntimeTable;
