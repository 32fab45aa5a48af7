//! What is seen of it: logs and metrics.

/// Logs.
pub struct LogStore {}
/// Metrics.
pub struct Metrics {}
