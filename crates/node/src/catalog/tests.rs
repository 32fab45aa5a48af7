//! The catalogue on a real registry.
