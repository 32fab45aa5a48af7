//! Platform failures: a stable kind, whose fault it is, and whether trying again can help.
//!
//! A function that fails is *not* in here: that is an answer (`invocation::FunctionError`). One page per kind: `docs/errors/`.

use std::fmt;

/// Who has to change something for the same request to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong: same request, same answer.
    Caller,
    /// The function, or what was deployed, cannot do this.
    Function,
    /// Offshoot or the machine under it.
    Platform,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $fault:ident, $retry:literal;)*) => {
        /// The stable kinds of platform failure. The code never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind { $($(#[$doc])* $variant,)* }
        impl ErrorKind {
            /// Every kind, for documentation and tests.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$variant,)*];
            /// The stable code, as it appears in answers and as the name of its page under `docs/errors/`.
            pub fn code(self) -> &'static str { match self { $(ErrorKind::$variant => $code,)* } }
            /// Whose fault it is.
            pub fn fault(self) -> Fault { match self { $(ErrorKind::$variant => Fault::$fault,)* } }
            /// Whether the same request may succeed later without any change.
            pub fn retryable(self) -> bool { match self { $(ErrorKind::$variant => $retry,)* } }
        }
    };
}

kinds! {
    /// A value in the request is malformed or out of its range.
    InvalidInput = "invalid-input", Caller, false;
    /// The body is larger than the limit.
    TooLarge = "too-large", Caller, false;
    /// No function has this name.
    NotFound = "not-found", Caller, false;
    /// The name is taken, or another change is in progress.
    Conflict = "conflict", Caller, true;
    /// The archive cannot be accepted: not a zip, hostile, ambiguous or too large.
    BadArchive = "bad-archive", Caller, false;
    /// The code cannot be loaded, and was to be deployed only if it can.
    DoesNotLoad = "does-not-load", Caller, false;
    /// This machine does not have the runtime that the function names.
    RuntimeMissing = "runtime-missing", Caller, false;
    /// This machine cannot give the isolation that the function asks for.
    SandboxUnavailable = "sandbox-unavailable", Platform, false;
    /// A concurrency limit or rate limit is reached.
    Throttled = "throttled", Caller, true;
    /// No instance could be started: the machine is short of memory, processes or descriptors.
    NoCapacity = "no-capacity", Platform, true;
    /// The instance could not be started although the machine has room.
    StartFailed = "start-failed", Platform, true;
    /// Stored code does not match its digest: it is never run.
    CodeCorrupt = "code-corrupt", Platform, false;
    /// The durable store cannot be read or written.
    Store = "store", Platform, true;
    /// The server is draining and takes no new work.
    ShuttingDown = "shutting-down", Platform, true;
    /// The caller may not do this.
    Denied = "denied", Caller, false;
    /// A function has called itself too often in one chain of calls, and this call would go on with it.
    RecursiveInvocation = "recursive-invocation", Caller, false;
    /// A bug in Offshoot.
    Internal = "internal", Platform, true;
}

/// Which of the limits under one kind it was, where dialects answer each differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The function's invocations per second.
    RateLimit,
    /// The concurrency of the function itself; others are not affected.
    FunctionConcurrency,
    /// The size of an archive once it is unpacked.
    UnzippedSize,
}

/// A platform failure.
#[derive(Debug, Clone)]
pub struct Error {
    /// The stable kind.
    pub kind: ErrorKind,
    /// What more dialects tell apart.
    pub reason: Option<Reason>,
    /// One sentence for a person: what, where, and what to do. No host path, no secret.
    pub message: String,
    /// What lies under it, for the server's own log only.
    pub source: Option<String>,
}

impl Error {
    /// An error of this kind, with its sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, reason: None, message: message.into(), source: None }
    }
    /// The same error, with what more dialects tell apart.
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }
    /// The same error, with the cause that only the server's log may show.
    pub fn caused_by(mut self, cause: impl fmt::Display) -> Self {
        self.source = Some(cause.to_string());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Error {}
