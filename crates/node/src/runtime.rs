//! The language table.

/// Which language versions this machine has.
pub struct RuntimeTable {}
