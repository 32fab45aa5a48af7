//! Refusals: why a request got no answer from a function or from the registry, as a status and a sentence in the dialect
//! that the request spoke.
//!
//! Every kind of platform failure has its arm here, so the compiler asks when one is added. What lies under a failure goes
//! to the server's log and never into an answer.

use std::borrow::Cow;

use http::{HeaderValue, StatusCode, header};
use offshoot_model::{Error, ErrorKind, Reason, RequestId};
use serde_json::json;

use crate::aws;
use crate::body::BodyError;
use crate::reply::{self, Reply};

/// Glambdar's sentence for a function that is not there.
const NOT_FOUND: &str = "Function not found!";
/// Glambdar's sentence for a rate limit.
const RATE_LIMITED: &str = "Rate limit exceeded. Please try again later.";

/// Which family of routes a request used: it decides how a refusal is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"error"}`, with Glambdar's sentences.
    Glambdar,
    /// `{"error","kind"}`.
    Native,
    /// `{"Type","message"}` and `x-amzn-ErrorType`.
    Lambda,
    /// AWS's, in JSON or in XML.
    Aws {
        /// In XML.
        xml: bool,
    },
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    reason: Option<Reason>,
    message: Cow<'static, str>,
    close: bool,
    allow: Option<&'static str>,
    retry: bool,
    request_id: Option<RequestId>,
}

impl Refusal {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Refusal { status, kind, reason: None, message, close: false, allow: None, retry: false, request_id: None }
    }
    /// 400 with the kind `invalid-input`.
    pub fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidInput.code(), message)
    }
    /// 404 for a path that nothing serves.
    pub fn no_route(path: &str) -> Self {
        let shown: String = path.chars().take(120).flat_map(char::escape_default).collect();
        let message = format!("there is nothing at this path: {shown}");
        Self::new(StatusCode::NOT_FOUND, "no-route", message)
    }
    /// 405 with the methods that there are.
    pub fn method(allow: &'static str) -> Self {
        let message = format!("this path takes {allow}");
        Refusal { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message) }
    }
    /// 404 for a function.
    pub fn unknown_function() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::NotFound.code(), NOT_FOUND)
    }
    /// The same, and the connection ends with it: what follows on it cannot be trusted or was not read.
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
    /// The same, for this invocation.
    pub fn of(mut self, id: &RequestId) -> Self {
        self.request_id = Some(id.clone());
        self
    }

    /// The answer.
    pub fn into_reply(self, dialect: Dialect) -> Reply {
        let mut reply = match dialect {
            Dialect::Glambdar => reply::json(self.status, &json!({"error": self.glambdar_message()})),
            Dialect::Native => reply::json(self.status, &json!({"error": self.message, "kind": self.kind})),
            Dialect::Lambda => reply::json(self.status, &json!({"message": self.message})),
            Dialect::Aws { xml } => aws::error_reply(self.status, self.kind, &self.message, xml),
        };
        let headers = reply.headers_mut();
        if dialect == Dialect::Lambda {
            headers.insert("x-amzn-errortype", HeaderValue::from_static(aws_type(self.status, self.kind)));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(id) = &self.request_id {
            reply::set_request_id(headers, id);
        }
        reply
    }

    fn glambdar_message(&self) -> &str {
        match self.status {
            StatusCode::NOT_FOUND if self.kind == ErrorKind::NotFound.code() => NOT_FOUND,
            _ if self.reason == Some(Reason::RateLimit) => RATE_LIMITED,
            _ => &self.message,
        }
    }
}

/// AWS's type for what is refused before a request reaches its dialect.
/// A refusal that names an exception of AWS's is that exception.
fn aws_type(status: StatusCode, kind: &'static str) -> &'static str {
    match status {
        _ if kind.ends_with("Exception") => kind,
        StatusCode::UNAUTHORIZED => "UnrecognizedClientException",
        StatusCode::FORBIDDEN => "AccessDeniedException",
        status if status.is_server_error() => "ServiceException",
        _ => "InvalidRequestContentException",
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.kind {
            ErrorKind::InvalidInput
            | ErrorKind::BadArchive
            | ErrorKind::DoesNotLoad
            | ErrorKind::RuntimeMissing
            | ErrorKind::RecursiveInvocation => StatusCode::BAD_REQUEST,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::SandboxUnavailable => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Throttled => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::NoCapacity | ErrorKind::StartFailed | ErrorKind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::CodeCorrupt | ErrorKind::Store | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Denied => StatusCode::FORBIDDEN,
        };
        if status.is_server_error() {
            let source = error.source.as_deref().unwrap_or("");
            tracing::error!(kind = error.kind.code(), source, "{}", error.message);
        }
        let retry = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        Refusal { retry, reason: error.reason, ..Refusal::new(status, error.kind.code(), error.message) }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let refusal = match error {
            BodyError::TooLarge(limit) => {
                let message = format!("the body is larger than {limit} bytes");
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge.code(), message)
            }
            BodyError::TooSlow => Refusal::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the body came too slowly"),
            BodyError::Broken => Refusal::bad("the body ended early or its framing is broken"),
        };
        refusal.closing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status_that_fits_its_fault() {
        for kind in ErrorKind::ALL {
            let status = Refusal::from(Error::new(*kind, "m")).status;
            let caller = kind.fault() == offshoot_model::Fault::Caller;
            assert_eq!(status.is_client_error(), caller, "{kind:?} {status}");
        }
    }

    #[test]
    fn glambdar_has_its_own_sentences() {
        let of = |kind, message: &str| Refusal::from(Error::new(kind, message));
        assert_eq!(of(ErrorKind::NotFound, "no function x").glambdar_message(), NOT_FOUND);
        let rate = Error::new(ErrorKind::Throttled, "5 per second").because(Reason::RateLimit);
        assert_eq!(Refusal::from(rate).glambdar_message(), RATE_LIMITED);
        assert_eq!(of(ErrorKind::Throttled, "all 3 instances are busy").glambdar_message(), "all 3 instances are busy");
        assert_eq!(Refusal::no_route("/x\n").glambdar_message(), "there is nothing at this path: /x\\n");
    }
}
