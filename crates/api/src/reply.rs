//! Answers: how they are put together, and what of a function's headers may reach the wire.
//!
//! Nothing that a function returned is written as a header before it was checked; what would change the framing of the
//! answer is dropped, what cannot be written is an error that names it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use offshoot_model::invocation::FailureCause;
use offshoot_model::{HttpReply, RequestId, StartKind};
use serde::Serialize;

use crate::body::ReplyBody;

/// An answer.
pub type Reply = Response<ReplyBody>;

/// The invocation's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("offshoot-request-id");
/// How the instance came to be.
pub(crate) const START: HeaderName = HeaderName::from_static("offshoot-start");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Headers that a function may send, at most, and their bytes.
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 64 << 10;

/// An answer with these bytes.
pub(crate) fn bytes(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Reply {
    let mut reply = Response::new(ReplyBody::whole(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, content_type);
    reply
}

/// An answer with this as JSON.
pub(crate) fn json<T: Serialize>(status: StatusCode, body: &T) -> Reply {
    bytes(status, JSON, Bytes::from(serde_json::to_vec(body).unwrap_or_default()))
}

/// An answer whose bytes are JSON already.
pub(crate) fn raw_json(status: StatusCode, body: Bytes) -> Reply {
    bytes(status, JSON, body)
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(ReplyBody::whole(Bytes::new()));
    *reply.status_mut() = status;
    reply
}

/// Names the invocation that this answers.
pub(crate) fn set_request_id(headers: &mut HeaderMap, id: &RequestId) {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
}

/// Says how the instance came to be.
pub(crate) fn set_start(headers: &mut HeaderMap, start: StartKind) {
    headers.insert(START, HeaderValue::from_static(start.name()));
}

/// The cause's name in answers, as in the model's JSON.
pub(crate) fn cause_name(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::Handler => "handler",
        FailureCause::Init => "init",
        FailureCause::Timeout => "timeout",
        FailureCause::OutOfMemory => "out-of-memory",
        FailureCause::Exit => "exit",
        FailureCause::ReplyTooLarge => "reply-too-large",
        FailureCause::Unserialisable => "unserialisable",
        FailureCause::Protocol => "protocol",
    }
}

/// A function's own answer, or a sentence about what in it cannot be sent.
pub(crate) fn from_function(http: HttpReply, body: Bytes) -> Result<Reply, String> {
    let status = match http.status {
        0 => StatusCode::OK,
        given @ 200..=999 => StatusCode::from_u16(given).map_err(|_| format!("statusCode is {given}"))?,
        given => return Err(format!("statusCode is {given}: it must be from 200 to 999")),
    };
    let mut reply = Response::new(ReplyBody::whole(if is_bodiless(status) { Bytes::new() } else { body }));
    *reply.status_mut() = status;
    set_headers(reply.headers_mut(), http.headers)?;
    Ok(reply)
}

/// Whether answers with this status have no body.
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

fn set_headers(headers: &mut HeaderMap, given: Vec<(String, String)>) -> Result<(), String> {
    if given.len() > MAX_HEADERS {
        return Err(format!("it has {} headers: at most {MAX_HEADERS} are allowed", given.len()));
    }
    let mut size = 0;
    for (name, value) in given {
        size += name.len() + value.len();
        if size > MAX_HEADER_BYTES {
            return Err(format!("its headers are larger than {MAX_HEADER_BYTES} bytes"));
        }
        let shown = || name.chars().take(80).flat_map(char::escape_default).collect::<String>();
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("'{}' is not a header name", shown()))?;
        if belongs_to_connection(&key) || key == header::CONTENT_LENGTH {
            continue;
        }
        let bad_value = |_| format!("the value of the header '{}' holds a character that no header may hold", shown());
        headers.append(key, HeaderValue::from_maybe_shared(Bytes::from(value)).map_err(bad_value)?);
    }
    Ok(())
}

/// Headers that speak of one connection and are never passed on, in either direction.
pub(crate) fn belongs_to_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&str, &str)]) -> Result<Reply, String> {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        from_function(HttpReply { status, headers }, Bytes::from_static(b"x"))
    }

    #[test]
    fn statuses_are_checked() {
        assert_eq!(reply(0, &[]).unwrap().status(), 200);
        assert_eq!(reply(999, &[]).unwrap().status(), 999);
        for bad in [1, 99, 100, 101, 199, 1000, u16::MAX] {
            assert!(reply(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_cannot_break_out() {
        let ok = reply(200, &[("X-A", "1"), ("x-a", "2"), ("Transfer-Encoding", "chunked"), ("Content-Length", "9")])
            .unwrap();
        assert_eq!(ok.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(ok.headers().len(), 2);
        for bad in [("x", "a\r\nSet-Cookie: b"), ("x", "a\0"), ("x\r\ny", "a"), ("", "a"), ("a b", "c"), ("é", "a")] {
            assert!(reply(200, &[bad]).is_err(), "{bad:?}");
        }
        assert!(reply(200, &vec![("x", "y"); 101]).is_err());
        assert!(reply(200, &[("x", &"y".repeat(70_000))]).is_err());
    }
}
