//! The head of a streamed HTTP answer: JSON with status, headers and cookies, then eight NUL bytes, then the body. AWS's clients
//! write it in front of streams of the content type `HTTP_INTEGRATION`
//! (<https://docs.aws.amazon.com/lambda/latest/dg/config-rs-write-functions.html>).
//!
//! Pure. It never decides whose prelude is read and whose is passed on.

use offshoot_model::HttpReply;
use serde_json::{Map, Value};

/// A stream that begins with an HTTP status and headers.
pub const HTTP_INTEGRATION: &str = "application/vnd.awslambda.http-integration-response";
/// The end of a prelude.
const END: [u8; 8] = [0; 8];
/// The longest prelude, in bytes.
pub const MAX: usize = 64 << 10;

/// Whether a stream of this content type begins with a prelude.
pub fn announced(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim() == HTTP_INTEGRATION
}

/// Whether an answer with this head begins with a prelude.
pub fn expected(http: Option<&HttpReply>) -> bool {
    let headers = http.map_or(&[][..], |http| &http.headers[..]);
    headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("content-type") && announced(value))
}

/// How far a prelude has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Prelude {
    /// Its end is not there yet.
    Unfinished,
    /// What it says, and where the body begins.
    Whole(HttpReply, usize),
    /// There is none: what is there is no such JSON, or it does not end.
    Broken,
}

/// Reads the prelude at the start of these bytes.
pub fn read(bytes: &[u8]) -> Prelude {
    let Some(end) = bytes.windows(END.len()).take(MAX).position(|w| w == END) else {
        return if bytes.len() < MAX { Prelude::Unfinished } else { Prelude::Broken };
    };
    match serde_json::from_slice::<Map<String, Value>>(&bytes[..end]) {
        Ok(said) => Prelude::Whole(meaning(&said), end + END.len()),
        Err(_) => Prelude::Broken,
    }
}

fn meaning(said: &Map<String, Value>) -> HttpReply {
    let status = said.get("statusCode").and_then(Value::as_u64).and_then(|s| u16::try_from(s).ok()).unwrap_or(200);
    let mut headers = Vec::new();
    for (name, value) in said.get("headers").and_then(Value::as_object).into_iter().flatten() {
        headers.push((name.clone(), plain(value)));
    }
    for (name, values) in said.get("multiValueHeaders").and_then(Value::as_object).into_iter().flatten() {
        headers.extend(values.as_array().into_iter().flatten().map(|v| (name.clone(), plain(v))));
    }
    for cookie in said.get("cookies").and_then(Value::as_array).into_iter().flatten() {
        headers.push(("set-cookie".to_owned(), plain(cookie)));
    }
    HttpReply { status, headers }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prelude_ends_at_eight_nul_bytes() {
        let bytes =
            b"{\"statusCode\":201,\"headers\":{\"a\":\"b\",\"n\":1},\"cookies\":[\"c=1\"]}\0\0\0\0\0\0\0\0the\0body";
        let Prelude::Whole(reply, at) = read(bytes) else { panic!("no prelude") };
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!((reply.status, &bytes[at..]), (201, &b"the\0body"[..]));
        assert_eq!(reply.headers, [pair("a", "b"), pair("n", "1"), pair("set-cookie", "c=1")]);
        for cut in 0..at {
            assert_eq!(read(&bytes[..cut]), Prelude::Unfinished, "{cut}");
        }
        assert_eq!(read(b"nonsense\0\0\0\0\0\0\0\0x"), Prelude::Broken);
        assert_eq!(read(&vec![b' '; MAX]), Prelude::Broken);
    }

    #[test]
    fn it_is_announced_by_the_content_type() {
        let http = |value: &str| HttpReply { status: 0, headers: vec![("Content-Type".to_owned(), value.to_owned())] };
        assert!(expected(Some(&http(HTTP_INTEGRATION))));
        assert!(expected(Some(&http("application/vnd.awslambda.http-integration-response; charset=utf-8"))));
        assert!(!expected(Some(&http("application/json"))) && !expected(None));
    }
}
