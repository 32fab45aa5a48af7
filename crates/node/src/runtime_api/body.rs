//! What a runtime sends as an answer: bytes with trailers, within a limit; what it says of them; an error's type and cause.
//!
//! Pure but for reading the request's body, whole. `stream` passes on what is to go on as it comes.

use base64_lite::decode;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use offshoot_model::HttpReply;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::prelude;

/// A stream or a buffer: the only value that this header may have.
pub const MODE: &str = "lambda-runtime-function-response-mode";
/// An error's type, as a header and as a trailer.
pub const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
/// An error in the middle of a stream, as a trailer: base64 of its JSON.
pub const ERROR_BODY: &str = "lambda-runtime-function-error-body";
/// An error whose body holds its cause for tracing.
const ERROR_WITH_CAUSE: &str = "application/vnd.aws.lambda.error.cause+json";
/// What is read and thrown away of a body that is too large, so that its sender hears why, in bytes.
const DRAIN: usize = 64 << 20;

/// How a body ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// Whole, with no error in its trailers.
    Whole(Bytes),
    /// With an error in its trailers: the error's JSON.
    Failed(Bytes),
    /// It is larger than it may be.
    TooLarge,
    /// The connection broke off in the middle.
    Truncated,
}

/// Reads a body and its trailers; more than `limit` bytes are not kept.
pub async fn collect(mut body: Incoming, limit: usize) -> Ending {
    let mut bytes = BytesMut::new();
    let mut size = 0usize;
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Ending::Truncated };
        match frame.into_data() {
            Ok(data) => {
                size = size.saturating_add(data.len());
                if size > limit.saturating_add(DRAIN) {
                    return Ending::TooLarge;
                }
                if size <= limit {
                    bytes.extend_from_slice(&data);
                } else {
                    bytes = BytesMut::new();
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    if size > limit {
        return Ending::TooLarge;
    }
    match trailers.as_ref().and_then(trailing_error) {
        Some(error) => Ending::Failed(error),
        None => Ending::Whole(bytes.freeze()),
    }
}

/// The error that the trailers of a stream tell of.
pub fn trailing_error(trailers: &HeaderMap) -> Option<Bytes> {
    let text = |name: &str| trailers.get(name).map(|v| v.as_bytes()).filter(|v| !v.is_empty());
    let (kind, body) = (text(ERROR_TYPE), text(ERROR_BODY));
    if kind.is_none() && body.is_none() {
        return None;
    }
    let body = body.and_then(decode).filter(|b| serde_json::from_slice::<Value>(b).is_ok());
    Some(
        body.map_or_else(
            || Bytes::from(error(&clean_error_type(kind), "the response ended with an error")),
            Bytes::from,
        ),
    )
}

/// What a runtime says of an answer besides its bytes: their type.
pub fn head(headers: &HeaderMap) -> Option<HttpReply> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(HttpReply { status: 0, headers: vec![("content-type".to_owned(), kind.to_owned())] })
}

/// Whether an answer begins with a prelude, which its caller has to be told of.
pub fn has_prelude(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(prelude::announced)
}

/// Whether an answer is one that is to go on as it comes: its sender says so, or does not know its length and does not call it
/// JSON. (AWS's client for Go says nothing of streams, and sends everything without a length.)
pub fn is_stream(headers: &HeaderMap, length: Option<u64>) -> bool {
    if headers.get(MODE).is_some_and(|mode| mode.as_bytes() == b"streaming") {
        return true;
    }
    length.is_none()
        && headers.get(header::CONTENT_TYPE).is_none_or(|kind| !kind.as_bytes().starts_with(b"application/json"))
}

/// What of an error with a cause reaches the caller. Members that are missing or null are empty, an empty trace is left out, and other members
/// do not pass, all as AWS's emulator does it.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Caused {
    error_message: Option<String>,
    error_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack_trace: Option<Vec<String>>,
}

/// What the caller gets of a posted error: the body as it came; without its cause, where it was sent with one; and an error
/// made of its type where it is empty.
pub fn posted_error(headers: &HeaderMap, body: Bytes) -> Bytes {
    let kind = headers.get(ERROR_TYPE).map(|v| v.as_bytes());
    if headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes() == ERROR_WITH_CAUSE.as_bytes()) {
        // By way of a map: a list is no error.
        let said = serde_json::from_slice::<Map<String, Value>>(&body);
        let Ok(said) = said.and_then(|map| serde_json::from_value::<Caused>(Value::Object(map))) else {
            return Bytes::from_static(b"\"Invalid error body\"");
        };
        let kept = Caused {
            error_message: Some(said.error_message.unwrap_or_default()),
            error_type: Some(said.error_type.unwrap_or_default()),
            stack_trace: said.stack_trace.filter(|t| !t.is_empty()),
        };
        return serde_json::to_vec(&kept).unwrap_or_default().into();
    }
    if body.is_empty() { Bytes::from(error(&clean_error_type(kind), "")) } else { body }
}

/// An error type as AWS lets it through: `Runtime.` or `Function.` and a capitalised word somewhere in it, or `Unknown`.
pub fn clean_error_type(given: Option<&[u8]>) -> String {
    let text = given.and_then(|g| std::str::from_utf8(g).ok()).unwrap_or_default();
    let fits = |at: usize, prefix: &str| {
        let mut rest = text[at + prefix.len()..].bytes();
        rest.next().is_some_and(|b| b.is_ascii_uppercase()) && rest.next().is_some_and(|b| b.is_ascii_alphabetic())
    };
    let found = ["Runtime.", "Function."].iter().any(|p| text.match_indices(p).any(|(at, _)| fits(at, p)));
    match (found, text.starts_with("Function.")) {
        (true, _) => text.to_owned(),
        (false, true) => "Function.Unknown".to_owned(),
        (false, false) => "Runtime.Unknown".to_owned(),
    }
}

/// An error's JSON.
pub fn error(kind: &str, message: &str) -> String {
    serde_json::json!({"errorType": kind, "errorMessage": message}).to_string()
}

/// Base64 as RFC 4648 has it, for the one trailer that is written in it.
mod base64_lite {
    /// The bytes, or nothing when a character is not of the alphabet.
    pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
        let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
        let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
        for group in text.chunks(4) {
            let mut bits = 0u32;
            for byte in group {
                bits = bits << 6 | u32::from(digit(*byte)?);
            }
            match group.len() {
                4 => out.extend_from_slice(&bits.to_be_bytes()[1..]),
                3 => out.extend_from_slice(&(bits << 6).to_be_bytes()[1..3]),
                2 => out.push((bits << 12).to_be_bytes()[1]),
                _ => return None,
            }
        }
        Some(out)
    }

    fn digit(byte: u8) -> Option<u8> {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn error_types_are_cleaned_as_aws_cleans_them() {
        for (given, kept) in [
            ("Runtime.ExitError", "Runtime.ExitError"),
            ("Function.MyError", "Function.MyError"),
            ("xRuntime.Abc", "xRuntime.Abc"),
            ("Function.lower", "Function.Unknown"),
            ("Runtime.A", "Runtime.Unknown"),
            ("Runtime.lower", "Runtime.Unknown"),
            ("unhandled", "Runtime.Unknown"),
            ("", "Runtime.Unknown"),
        ] {
            assert_eq!(clean_error_type(Some(given.as_bytes())), kept, "{given}");
        }
        assert_eq!(clean_error_type(None), "Runtime.Unknown");
        assert_eq!(clean_error_type(Some(b"\xff")), "Runtime.Unknown");
    }

    #[test]
    fn trailers_tell_of_errors() {
        assert_eq!(trailing_error(&headers(&[("x-other", "1")])), None);
        // {"errorType":"E"}
        let both = headers(&[(ERROR_TYPE, "Runtime.StreamError"), (ERROR_BODY, "eyJlcnJvclR5cGUiOiJFIn0=")]);
        assert_eq!(trailing_error(&both).unwrap(), &br#"{"errorType":"E"}"#[..]);
        for broken in ["!!!", "Zm9v", "e"] {
            let error = trailing_error(&headers(&[(ERROR_TYPE, "Runtime.StreamError"), (ERROR_BODY, broken)])).unwrap();
            assert!(String::from_utf8_lossy(&error).contains("Runtime.StreamError"), "{broken}");
        }
    }

    #[test]
    fn streams_are_told_from_whole_answers() {
        let json = ("content-type", "application/json");
        assert!(is_stream(&headers(&[(MODE, "streaming"), json]), Some(3)));
        assert!(is_stream(&headers(&[("content-type", "application/octet-stream")]), None));
        assert!(is_stream(&HeaderMap::new(), None));
        assert!(!is_stream(&headers(&[json, (MODE, "")]), None));
        assert!(!is_stream(&HeaderMap::new(), Some(3)));
        assert!(
            has_prelude(&headers(&[("content-type", prelude::HTTP_INTEGRATION)])) && !has_prelude(&headers(&[json]))
        );
        assert_eq!(head(&headers(&[json])).unwrap().headers[0].1, "application/json");
    }

    #[test]
    fn posted_errors_pass_through_but_for_their_cause() {
        let body = Bytes::from_static(br#"{"errorMessage":"m","errorType":"T","cause":{"x":1},"stackTrace":[]}"#);
        assert_eq!(posted_error(&HeaderMap::new(), body.clone()), body);
        let cause = headers(&[("content-type", ERROR_WITH_CAUSE)]);
        let kept = posted_error(&cause, body);
        assert_eq!(kept, &br#"{"errorMessage":"m","errorType":"T"}"#[..]);
        for (sent, kept) in [
            (
                r#"{"errorMessage":"m","stackTrace":["a"],"x":1}"#,
                r#"{"errorMessage":"m","errorType":"","stackTrace":["a"]}"#,
            ),
            (r#"{"errorMessage":null,"stackTrace":null}"#, r#"{"errorMessage":"","errorType":""}"#),
            (r#"{"errorMessage":1}"#, r#""Invalid error body""#),
            ("[]", r#""Invalid error body""#),
        ] {
            assert_eq!(posted_error(&cause, Bytes::from_static(sent.as_bytes())), kept.as_bytes(), "{sent}");
        }
        assert_eq!(posted_error(&cause, Bytes::from_static(b"{")), &b"\"Invalid error body\""[..]);
        let empty = posted_error(&headers(&[(ERROR_TYPE, "Function.Bad")]), Bytes::new());
        assert!(String::from_utf8_lossy(&empty).contains("Function.Bad"));
    }

    #[test]
    fn base64_is_decoded() {
        for (text, bytes) in [("", &b""[..]), ("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("Zm9vYg==", b"foob")]
        {
            assert_eq!(decode(text.as_bytes()).unwrap(), bytes);
        }
        assert!(decode(b"Z").is_none() && decode(b"Zm9\n").is_none());
    }
}
