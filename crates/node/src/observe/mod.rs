//! What is seen of a node from outside: the log lines of each function (`logs`, `lines`, and the platform's own in `system`)
//! and its metrics (`metrics`).
//!
//! Nothing in here decides anything, and nothing on an invocation's path waits in here for a disk or a reader.

pub mod lines;
pub mod logs;
pub mod metrics;
pub mod system;

pub use lines::{LogEntry, Stream, escape, escape_bytes};
pub use logs::{Followed, LogQuery, LogStore};
pub use metrics::{FunctionMetrics, Metrics, Throttle};
pub use system::{CallEnd, InitAbout, SystemLog};
