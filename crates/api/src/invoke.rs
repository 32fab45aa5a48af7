//! What both dialects do to invoke a function: read its name, make the event or the HTTP part of the invocation, and find
//! what its error says.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use offshoot_model::{Convention, FunctionError, FunctionName, HttpPart};
use serde_json::Value;

use crate::Backend;
use crate::auth::Credential;
use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::belongs_to_connection;
use crate::text;

/// The function's name in one segment of a path. Decoded after the path was split, so a name never reaches beyond it.
pub(crate) fn name(segment: &str) -> Result<FunctionName, Refusal> {
    if !segment.contains('%') {
        return Ok(FunctionName::parse(segment)?);
    }
    let decoded = text::percent_decode(segment)
        .ok_or_else(|| Refusal::bad("the name in the path is not percent-encoded UTF-8"))?;
    Ok(FunctionName::parse(&decoded)?)
}

/// How this function is called, when there is one.
pub(crate) fn convention<B: Backend>(call: &Call<'_, B>, name: &FunctionName) -> Result<Convention, Refusal> {
    call.backend().get(name).map(|version| version.config.convention).ok_or_else(Refusal::unknown_function)
}

/// The request body, as it came; for an event it must be JSON, and nothing stands for `{}`.
pub(crate) async fn payload<B: Backend>(call: &mut Call<'_, B>, convention: Convention) -> Result<Bytes, Refusal> {
    let limit = call.backend().limits().request_bytes;
    let body = call.collect(limit).await?;
    if convention == Convention::Request {
        return Ok(body);
    }
    if body.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    match text::check_json(&body) {
        Ok(()) => Ok(body),
        Err(e) => Err(Refusal::bad(format!("the event is not JSON: {e}"))),
    }
}

/// The HTTP part of a caller's own request.
pub(crate) fn http_part<B>(call: &Call<'_, B>, path: &str) -> HttpPart {
    HttpPart {
        method: call.parts.method.as_str().to_owned(),
        path: path.to_owned(),
        query: call.parts.uri.query().unwrap_or("").to_owned(),
        headers: passed_headers(&call.parts.headers, &call.credential),
    }
}

/// The headers that a function sees: all but those of the connection, of the framing, and the server's own token.
fn passed_headers(headers: &HeaderMap, credential: &Credential) -> Vec<(String, String)> {
    let nominated = nominated(headers);
    let passes = |name: &HeaderName| {
        !belongs_to_connection(name)
            && *name != header::CONTENT_LENGTH
            && *name != header::EXPECT
            && !credential.contains(name)
            && !nominated.iter().any(|n| n.eq_ignore_ascii_case(name.as_str()))
    };
    let mut passed = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        if passes(name) {
            passed.push((name.as_str().to_owned(), header_text(value.as_bytes())));
        }
    }
    passed
}

/// The headers that `Connection` declares to be of this connection.
pub(crate) fn nominated(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

/// A header's value as text: UTF-8 when it is, otherwise byte for byte (ISO 8859-1).
pub(crate) fn header_text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|b| char::from(*b)).collect(),
    }
}

/// What a function's error says: its type and its message.
pub(crate) fn describe(error: &FunctionError) -> (String, String) {
    let body: Value = serde_json::from_str(&error.body).unwrap_or(Value::Null);
    let field = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let kind = field("errorType").unwrap_or_else(|| error.cause.error_type().to_owned());
    let message = field("errorMessage").filter(|m| !m.is_empty()).unwrap_or_else(|| kind.clone());
    (kind, message)
}

/// A reply of a function that cannot be sent.
pub(crate) fn unsendable(why: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, "bad-reply", format!("the function's reply cannot be sent: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn names_are_decoded_once_and_checked() {
        assert_eq!(name("hello").unwrap().as_str(), "hello");
        assert_eq!(name("%68ello").unwrap().as_str(), "hello");
        for bad in ["", "..", "%2e%2e", "%252e", "a%2fb", "a%00", "a\\b", "%c0%ae", "a:b", "%", "\u{e9}"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn functions_see_no_headers_of_the_connection() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("upgrade", "h2c"),
            ("authorization", "Bearer secret"),
            ("x-api-key", "theirs"),
            ("x-a", "1"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.append("x-a", HeaderValue::from_bytes(b"\xe9").unwrap());
        let seen = passed_headers(&headers, &vec![header::AUTHORIZATION]);
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(seen, [pair("x-api-key", "theirs"), pair("x-a", "1"), pair("x-a", "é")]);
    }
}
