//! Errors of AWS's dialect: status, type, the members of the body, and which of `message` and `Message` each type uses —
//! clients compare that.

use http::{HeaderName, HeaderValue, StatusCode, header};
use offshoot_model::{Error, ErrorKind, Reason};
use offshoot_node::catalog::{Fault, Rule};
use offshoot_node::durable::Refused;
use serde_json::{Map, Value};

use crate::body::BodyError;
use crate::reply::{self, Reply};

pub(super) const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Why a call is throttled when its function has reserved less.
const RESERVED: &str = "ReservedFunctionConcurrentInvocationLimitExceeded";

/// One error.
#[derive(Debug, Clone)]
pub(crate) struct AwsError {
    status: u16,
    code: &'static str,
    message: Option<String>,
    reason: Option<&'static str>,
    close: bool,
    typed: bool,
}

impl AwsError {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        AwsError { status, code, message: Some(message.into()), reason: None, close: false, typed: true }
    }
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameterValueException", message)
    }
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "ResourceNotFoundException", message)
    }
    /// A member that breaks a constraint of the model.
    pub fn constraint(value: &str, member: &str, constraint: &str) -> Self {
        Self::constraints(&[(value, member, constraint)])
    }
    /// Several of them. A value is shown up to 1,000 characters.
    pub fn constraints(broken: &[(&str, &str, &str)]) -> Self {
        let one = |(value, member, constraint): &(&str, &str, &str)| {
            let shown: String = value.chars().take(1000).collect();
            format!("Value '{shown}' at '{member}' failed to satisfy constraint: {constraint}")
        };
        let all: Vec<String> = broken.iter().map(one).collect();
        let (count, plural) = (broken.len(), if broken.len() == 1 { "error" } else { "errors" });
        Self::new(400, "ValidationException", format!("{count} validation {plural} detected: {}", all.join("; ")))
    }
    /// A required member that is absent.
    pub fn absent(member: &str) -> Self {
        let message = format!(
            "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be null"
        );
        Self::new(400, "ValidationException", message)
    }
    /// An operation or a member that this server does not have.
    pub fn unsupported(what: &str) -> Self {
        Self::new(400, "UnsupportedOperationException", format!("{what} is not supported by this server."))
    }
    /// Somebody else's account.
    pub fn foreign() -> Self {
        AwsError { message: None, ..Self::new(403, "AccessDeniedException", "") }
    }
    pub fn throttled(reason: &'static str) -> Self {
        AwsError { reason: Some(reason), ..Self::new(429, "TooManyRequestsException", "Rate Exceeded.") }
    }
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
    #[cfg(test)]
    pub fn is_not_found(&self) -> bool {
        self.status == 404
    }

    pub fn into_reply(self) -> Reply {
        let mut body = Map::new();
        if let Some(kind) = self.kind() {
            body.insert("Type".to_owned(), Value::from(kind));
        }
        if let Some(reason) = self.reason {
            body.insert("Reason".to_owned(), Value::from(reason));
        }
        let key = if capital(self.code) { "Message" } else { "message" };
        body.insert(key.to_owned(), self.message.map_or(Value::Null, Value::from));
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = reply::json(status, &Value::Object(body));
        let headers = answer.headers_mut();
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.code));
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // AWS says when to come again, but not where a function's own reservation is in the way (recorded).
        if matches!(self.status, 429 | 503) && self.reason != Some(RESERVED) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }

    fn kind(&self) -> Option<&'static str> {
        match self.code {
            "ValidationException" | "AccessDeniedException" => None,
            _ if !self.typed => None,
            _ if self.status >= 500 => Some("Service"),
            _ => Some("User"),
        }
    }
}

/// Which types spell their message with a capital (AWS's service model).
fn capital(code: &str) -> bool {
    matches!(
        code,
        "ResourceNotFoundException"
            | "ServiceException"
            | "AccessDeniedException"
            | "CodeSigningConfigNotFoundException"
            | "InvalidZipFileException"
            | "InvalidRuntimeException"
            | "RecursiveInvocationException"
            | "ResourceNotReadyException"
            | "DurableExecutionAlreadyStartedException"
            | "CallbackTimeoutException"
    )
}

impl From<Fault> for AwsError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Platform(error) => error.into(),
            Fault::Rule(rule, message) => match rule {
                Rule::Invalid => Self::invalid(message),
                Rule::Untyped => AwsError { typed: false, ..Self::invalid(message) },
                Rule::NotFound => Self::not_found(message),
                Rule::NoSigning => AwsError { typed: false, ..Self::not_found(message) },
                Rule::SigningGone => Self::new(404, "CodeSigningConfigNotFoundException", message),
                Rule::Unsigned => Self::new(400, "CodeVerificationFailedException", message),
                Rule::Conflict => Self::new(409, "ResourceConflictException", message),
                Rule::Precondition => Self::new(412, "PreconditionFailedException", message),
                Rule::TooLarge => Self::new(413, "RequestEntityTooLargeException", message),
                Rule::PolicyTooLong => Self::new(400, "PolicyLengthExceededException", message),
                Rule::NoProvisioned => Self::new(404, "ProvisionedConcurrencyConfigNotFoundException", message),
                Rule::Unsupported => Self::new(400, "UnsupportedOperationException", message),
            },
        }
    }
}

impl From<Error> for AwsError {
    fn from(error: Error) -> Self {
        let text = error.message;
        let made = match error.kind {
            ErrorKind::InvalidInput | ErrorKind::BadArchive | ErrorKind::DoesNotLoad => Self::invalid(text),
            ErrorKind::TooLarge => Self::new(413, "RequestEntityTooLargeException", text),
            ErrorKind::NotFound => Self::not_found(text),
            ErrorKind::Conflict => Self::new(409, "ResourceConflictException", text),
            ErrorKind::RuntimeMissing => Self::new(502, "InvalidRuntimeException", text),
            ErrorKind::SandboxUnavailable => Self::unsupported(&text),
            ErrorKind::Throttled | ErrorKind::NoCapacity => Self::throttled(match error.reason {
                Some(Reason::RateLimit) => "FunctionInvocationRateLimitExceeded",
                Some(Reason::FunctionConcurrency) => RESERVED,
                _ => "ConcurrentInvocationLimitExceeded",
            }),
            ErrorKind::CodeCorrupt => Self::new(502, "InvalidZipFileException", text),
            ErrorKind::ShuttingDown => Self::new(503, "ServiceException", text),
            ErrorKind::StartFailed | ErrorKind::Store | ErrorKind::Internal => Self::new(500, "ServiceException", text),
            ErrorKind::RecursiveInvocation => Self::new(400, "RecursiveInvocationException", text),
            ErrorKind::Denied => Self::new(403, "AccessDeniedException", text),
        };
        if made.status >= 500 {
            let source = error.source.as_deref().unwrap_or("");
            tracing::error!(kind = error.kind.code(), source, "{}", made.message.as_deref().unwrap_or(""));
        }
        made
    }
}

impl From<Refused> for AwsError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(text) => Self::invalid(text),
            Refused::NotFound(text) => Self::not_found(text),
            Refused::AlreadyStarted(text) => Self::new(409, "DurableExecutionAlreadyStartedException", text),
            Refused::Conflict(text) => Self::new(409, "ResourceConflictException", text),
            Refused::CallbackOver(text) => Self::new(400, "CallbackTimeoutException", text),
            Refused::Platform(error) => error.into(),
        }
    }
}

impl From<BodyError> for AwsError {
    fn from(error: BodyError) -> Self {
        let made = match error {
            BodyError::TooLarge(limit) => {
                let message = format!("Request must be smaller than {limit} bytes");
                Self::new(413, "RequestEntityTooLargeException", message)
            }
            BodyError::TooSlow => Self::new(408, "RequestTimeoutException", "the body came too slowly"),
            BodyError::Broken => {
                Self::new(400, "InvalidRequestContentException", "the body ended early or its framing is broken")
            }
        };
        made.closing()
    }
}
