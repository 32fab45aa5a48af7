//! The data plane: one call finds an instance and comes back with an outcome.

/// The invoker.
pub struct Invoker {}
