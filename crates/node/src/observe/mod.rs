//! What is seen of a node from outside: the log lines of each function (`logs`, `lines`) and its metrics (`metrics`).
//!
//! Nothing in here decides anything, and nothing on an invocation's path waits in here for a disk or a reader.

pub mod lines;
pub mod logs;
pub mod metrics;

pub use lines::{LogEntry, Stream, end_line, escape, escape_bytes, report_line, start_line};
pub use logs::{Followed, LogQuery, LogStore};
pub use metrics::{FunctionMetrics, Metrics, Throttle};
