//! One call and its answer. A function that fails has answered: that is an `Outcome`, not an `Err`.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::ids::{FunctionName, RequestId};
use crate::runtime::RuntimeName;

/// One call. `B` is the type of its bytes; this floor does not care how they are held.
#[derive(Debug, Clone)]
pub struct Invocation<B> {
    /// Unguessable and unique.
    pub id: RequestId,
    /// Which function.
    pub function: FunctionName,
    /// The HTTP part, for functions called by the `request` convention. `None`: the payload is an event.
    pub http: Option<HttpPart>,
    /// The event or the request body, as it came.
    pub payload: B,
    /// What only some calls carry. `None`: the current version, and nothing besides the payload.
    pub context: Option<Box<CallContext>>,
}

/// What a caller may say about a call besides its payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallContext {
    /// Which version: `$LATEST`, a number, or the name of an alias. `None` is `$LATEST`.
    pub qualifier: Option<String>,
    /// AWS's client context, as JSON.
    pub client_context: Option<String>,
    /// AWS's Cognito identity, as JSON.
    pub identity: Option<String>,
    /// The trace header (`X-Amzn-Trace-Id`).
    pub trace: Option<String>,
}

impl<B> Invocation<B> {
    /// Which version the caller asked for, as it was written.
    pub fn qualifier(&self) -> Option<&str> {
        self.context.as_deref()?.qualifier.as_deref()
    }
}

/// What an HTTP caller sent besides the body.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HttpPart {
    /// Method, upper case.
    pub method: String,
    /// Path after the function's own prefix, always starting with `/`, still percent-encoded.
    pub path: String,
    /// Query string without `?`.
    pub query: String,
    /// Headers in the order they came, names in lower case, hop-by-hop ones removed.
    pub headers: Vec<(String, String)>,
}

/// What the function answered over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpReply {
    /// Status code, 100 to 999 as the function gave it; 0 = the function gave none.
    #[serde(default)]
    pub status: u16,
    /// Headers, a name may repeat.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// The answer to an invocation, with the account of how it came about.
#[derive(Debug, Clone)]
pub struct Outcome<B> {
    /// Reply or function error.
    pub result: Answer<B>,
    /// How the instance came to be.
    pub start: StartKind,
    /// The published version that ran; `None` is `$LATEST`.
    pub version: Option<u64>,
    /// Which runtime served it; differs from what the function names where the operator allows the nearest one.
    pub runtime: RuntimeName,
    /// Where the time went.
    pub phases: Phases,
    /// What it used.
    pub report: Report,
    /// The last 4 KiB of this invocation's log, `START`, `END` and `REPORT` lines included.
    pub log_tail: Vec<u8>,
}

/// Reply or function error: both are answers.
#[derive(Debug, Clone)]
pub enum Answer<B> {
    /// The function returned.
    Reply {
        /// Status and headers, when the convention has them.
        http: Option<HttpReply>,
        /// The bytes it returned.
        body: B,
    },
    /// The function failed.
    Failed(FunctionError),
}

/// How a function failed. `kind` is AWS's spelling where AWS has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionError {
    /// Whether the handler threw, or the platform had to end it.
    pub cause: FailureCause,
    /// The error's JSON: `errorType`, `errorMessage`, and a stack trace when there is one.
    pub body: String,
}

/// Why an invocation has no reply. Each has its own status in each dialect and its own `errorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCause {
    /// The handler threw or rejected.
    Handler,
    /// Loading the code or initialising it failed.
    Init,
    /// The time limit passed; the instance was killed.
    Timeout,
    /// The memory limit was reached; the instance was killed.
    OutOfMemory,
    /// The process ended before it answered.
    Exit,
    /// The reply is larger than the limit.
    ReplyTooLarge,
    /// The handler returned something that cannot be turned into bytes.
    Unserialisable,
    /// The worker broke the channel's protocol (garbage, or a second reply to one invocation).
    Protocol,
}

impl FailureCause {
    /// The `errorType` that callers see, as AWS spells it where AWS has the case. `Handler` errors carry their own.
    pub fn error_type(self) -> &'static str {
        match self {
            FailureCause::Handler => "Error",
            FailureCause::Init => "Runtime.InitError",
            FailureCause::Timeout => "Sandbox.Timedout",
            FailureCause::OutOfMemory => "Runtime.OutOfMemory",
            FailureCause::Exit => "Runtime.ExitError",
            FailureCause::ReplyTooLarge => "Function.ResponseSizeTooLarge",
            FailureCause::Unserialisable => "Runtime.MarshalError",
            FailureCause::Protocol => "Runtime.ProtocolError",
        }
    }
}

/// How the instance that served an invocation came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartKind {
    /// It was there already.
    Warm,
    /// Cloned from a language template.
    Clone,
    /// Cloned from this function's own template (`snapshot = on`).
    Restore,
    /// Booted from nothing.
    Boot,
}

impl StartKind {
    /// `cold` or `warm`, as people say it.
    pub fn temperature(self) -> &'static str {
        if self == StartKind::Warm { "warm" } else { "cold" }
    }
    /// The name of this kind in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            StartKind::Warm => "warm",
            StartKind::Clone => "clone",
            StartKind::Restore => "restore",
            StartKind::Boot => "boot",
        }
    }
}

/// Where the time of one invocation went. `total` ≥ the sum of the others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phases {
    /// Waiting for an instance to be free or allowed.
    pub queue: Duration,
    /// Making the box and its process (zero when warm).
    pub start: Duration,
    /// Loading and initialising the function (zero when warm).
    pub init: Duration,
    /// The handler.
    pub run: Duration,
    /// From the invoker's door and back.
    pub total: Duration,
}

/// What one invocation used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Highest memory of the instance so far, in bytes; 0 = this machine cannot tell.
    pub peak_memory: u64,
    /// The instance's memory limit, in bytes.
    pub memory_limit: u64,
}
