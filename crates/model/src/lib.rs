//! What things are: the words of `docs/glossary.md` as types, with the rules that make a value of them valid.
//!
//! This floor never performs I/O, never waits, and knows neither HTTP nor a disk format.

pub mod error;
pub mod function;
pub mod ids;
pub mod invocation;
pub mod place;
pub mod runtime;
pub mod time;
pub mod units;
pub mod xml;

pub use error::{Error, ErrorKind, Fault, Reason};
pub use function::{Convention, FunctionConfig, Network, SandboxKind};
pub use ids::{CodeDigest, FunctionName, RequestId};
pub use invocation::{
    Answer, CallContext, FunctionError, HttpPart, HttpReply, Invocation, Outcome, Phases, Report, StartKind,
};
pub use place::Place;
pub use runtime::{Language, RuntimeName};
pub use units::{Limits, MiB, Millis};
