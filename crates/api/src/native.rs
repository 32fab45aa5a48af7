//! The native routes under `/v1/functions`: what Offshoot's own tools speak. An invocation that the function answered or
//! failed is 200 with the account of it in headers; every other status is the platform's.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use offshoot_model::invocation::CallContext;
use offshoot_model::{Answer, Convention, FunctionName, HttpPart, HttpReply, Invocation, Outcome, Phases, RequestId};

use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::{self, Reply};
use crate::{Backend, admin, ids, invoke as common, keys, queue, stream, text};

/// Where the native routes start.
pub(crate) const PREFIX: &str = "/v1/";
const FUNCTIONS: &str = "/v1/functions";

const FUNCTION_ERROR: HeaderName = HeaderName::from_static("offshoot-function-error");
const TIMING: HeaderName = HeaderName::from_static("offshoot-timing");
const MEMORY: HeaderName = HeaderName::from_static("offshoot-memory");
const RUNTIME: HeaderName = HeaderName::from_static("offshoot-runtime");
const LOG: HeaderName = HeaderName::from_static("offshoot-log");
const STATUS: HeaderName = HeaderName::from_static("offshoot-status");
const QUALIFIER: HeaderName = HeaderName::from_static("offshoot-qualifier");
const REPLY_HEADERS: HeaderName = HeaderName::from_static("offshoot-reply-headers");
/// A request header with this prefix is the function's request header without it.
const HEADER_PREFIX: &str = "offshoot-header-";
/// The function's headers as one header, at most.
const MAX_REPLY_HEADERS: usize = 64 << 10;

/// Any native route.
pub(crate) async fn route<B: Backend>(call: Call<'_, B>) -> Result<Reply, Refusal> {
    let path = call.parts.uri.path();
    if let Some(rest) = path.strip_prefix(queue::PATH)
        && (rest.is_empty() || rest.starts_with('/'))
    {
        let rest = rest.to_owned();
        return Box::pin(queue::route(call, &rest)).await;
    }
    if let Some(rest) = path.strip_prefix(keys::PATH)
        && (rest.is_empty() || rest.starts_with('/'))
    {
        let rest = rest.to_owned();
        return Box::pin(keys::route(call, &rest)).await;
    }
    let rest = path.strip_prefix(FUNCTIONS).ok_or_else(|| Refusal::no_route(path))?;
    if let Some(segment) = rest.strip_prefix('/').and_then(|r| r.strip_suffix("/invoke"))
        && !segment.contains('/')
    {
        let id = ids::request_id()?;
        let function = common::name(segment).map_err(|refusal| refusal.of(&id))?;
        return invoke(call, function, &id).await.map_err(|refusal| refusal.of(&id));
    }
    let rest = rest.to_owned();
    Box::pin(manage(call, &rest)).await
}

async fn manage<B: Backend>(call: Call<'_, B>, rest: &str) -> Result<Reply, Refusal> {
    let method = call.parts.method.clone();
    let read = method == Method::GET || method == Method::HEAD;
    if rest.is_empty() {
        return match method {
            Method::POST => admin::deploy(call).await,
            _ if read => Ok(admin::list(&call)),
            _ => Err(Refusal::method("GET, HEAD, POST")),
        };
    }
    let segments = rest.strip_prefix('/').ok_or_else(|| Refusal::no_route(call.parts.uri.path()))?;
    match segments.split_once('/') {
        None => {
            let name = common::name(segments)?;
            match method {
                Method::PATCH => admin::configure(call, name).await,
                Method::DELETE => admin::delete(&call, &name).await,
                _ if read => admin::show(&call, &name),
                _ => Err(Refusal::method("GET, HEAD, PATCH, DELETE")),
            }
        }
        Some((segment, "logs")) if read => admin::logs(&call, common::name(segment)?).await,
        Some((_, "logs")) => Err(Refusal::method("GET, HEAD")),
        Some(_) => Err(Refusal::no_route(call.parts.uri.path())),
    }
}

async fn invoke<B: Backend>(mut call: Call<'_, B>, function: FunctionName, id: &RequestId) -> Result<Reply, Refusal> {
    if call.parts.method != Method::POST {
        return Err(Refusal::method("POST"));
    }
    let convention = common::convention(&call, &function)?;
    let qualifier = qualifier(&call.parts.headers)?;
    let http = match convention {
        Convention::Request => Some(http_part(&call.parts.headers)?),
        Convention::Event => None,
    };
    if queue::is_event(&call.parts.headers)? {
        return Box::pin(queue::accept(call, function, convention, http, id)).await;
    }
    let payload = common::payload(&mut call, convention).await?;
    let context = qualifier.map(|name| Box::new(CallContext { qualifier: Some(name), ..CallContext::default() }));
    let invocation = Invocation { id: id.clone(), function, http, payload, context };
    let outcome = call.backend().invoke(invocation).await?;
    answer(outcome, convention, id)
}

/// Which version is called: `$LATEST`, a number, or the name of an alias. Whether there is such a one is the node's to say.
pub(crate) fn qualifier(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(QUALIFIER) else { return Ok(None) };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'$' | b'-' | b'_');
    match value.to_str() {
        Ok(name) if !name.is_empty() && name.len() <= 128 && name.bytes().all(plain) => Ok(Some(name.to_owned())),
        _ => Err(Refusal::bad("Offshoot-Qualifier is $LATEST, the number of a version, or the name of an alias")),
    }
}

/// The HTTP part that the `Offshoot-…` headers describe.
fn http_part(headers: &HeaderMap) -> Result<HttpPart, Refusal> {
    let given = |name: &str, otherwise: &str| {
        headers.get(name).map_or_else(|| otherwise.to_owned(), |value| common::header_text(value.as_bytes()))
    };
    let part = HttpPart {
        method: given("offshoot-method", "POST"),
        path: given("offshoot-path", "/"),
        query: given("offshoot-query", ""),
        headers: function_headers(headers),
    };
    let method_ok =
        Method::from_bytes(part.method.as_bytes()).is_ok() && !part.method.bytes().any(|b| b.is_ascii_lowercase());
    if !method_ok {
        return Err(Refusal::bad("Offshoot-Method is not a method in upper case, such as GET"));
    }
    let target = |text: &str| text.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b'#');
    if !part.path.starts_with('/') || part.path.contains('?') || !target(&part.path) || !target(&part.query) {
        return Err(Refusal::bad("Offshoot-Path must start with / and, as Offshoot-Query, be percent-encoded"));
    }
    Ok(part)
}

fn function_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut passed = Vec::new();
    for (name, value) in headers {
        let kept = match name.as_str().strip_prefix(HEADER_PREFIX) {
            Some("") => continue,
            Some(own) => own,
            None if *name == header::CONTENT_TYPE => name.as_str(),
            None => continue,
        };
        if !HeaderName::from_bytes(kept.as_bytes()).is_ok_and(|n| reply::belongs_to_connection(&n)) {
            passed.push((kept.to_owned(), common::header_text(value.as_bytes())));
        }
    }
    passed
}

fn answer(outcome: Outcome<Bytes>, convention: Convention, id: &RequestId) -> Result<Reply, Refusal> {
    let mut answer = match outcome.result {
        Answer::Reply { http, body } if convention == Convention::Event => {
            reply::raw_json(StatusCode::OK, stream::unfold(http, body).1)
        }
        Answer::Reply { http, body } => {
            let octets = HeaderValue::from_static("application/octet-stream");
            let mut answer = reply::bytes(StatusCode::OK, octets, body);
            set_http(answer.headers_mut(), &http.unwrap_or_default())?;
            answer
        }
        Answer::Failed(error) => {
            let mut answer = reply::raw_json(StatusCode::OK, Bytes::from(error.body));
            answer.headers_mut().insert(FUNCTION_ERROR, HeaderValue::from_static(reply::cause_name(error.cause)));
            answer
        }
    };
    let headers = answer.headers_mut();
    reply::set_request_id(headers, id);
    reply::set_start(headers, outcome.start);
    set(headers, TIMING, timing(&outcome.phases));
    set(headers, MEMORY, format!("{}/{}", outcome.report.peak_memory, outcome.report.memory_limit));
    set(headers, RUNTIME, outcome.runtime.to_string());
    if !outcome.log_tail.is_empty() {
        set(headers, LOG, text::base64(&outcome.log_tail));
    }
    Ok(answer)
}

fn set_http(headers: &mut HeaderMap, http: &HttpReply) -> Result<(), Refusal> {
    let status = if http.status == 0 { 200 } else { http.status };
    headers.insert(STATUS, HeaderValue::from(status));
    let pairs = text::ascii_json(&http.headers);
    if pairs.len() > MAX_REPLY_HEADERS {
        return Err(common::unsendable("its headers are too large"));
    }
    set(headers, REPLY_HEADERS, pairs);
    Ok(())
}

/// Sets a header to a text of printable ASCII.
fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
        headers.insert(name, value);
    }
}

/// Milliseconds with three decimals.
fn timing(phases: &Phases) -> String {
    let mut line = String::with_capacity(80);
    let parts = [
        ("queue", phases.queue),
        ("start", phases.start),
        ("init", phases.init),
        ("run", phases.run),
        ("total", phases.total),
    ];
    for (at, (name, time)) in parts.into_iter().enumerate() {
        let micros = time.as_micros();
        let separator = if at == 0 { "" } else { ";" };
        let _ = write!(line, "{separator}{name}={}.{:03}", micros / 1000, micros % 1000);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timing_is_in_milliseconds() {
        let phases = Phases {
            start: Duration::from_micros(2_100),
            total: Duration::from_micros(1_004_235),
            ..Phases::default()
        };
        assert_eq!(timing(&phases), "queue=0.000;start=2.100;init=0.000;run=0.000;total=1004.235");
    }

    #[test]
    fn the_http_part_is_checked() {
        let part = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            http_part(&headers)
        };
        assert_eq!(part("offshoot-path", "/a%20b").unwrap().path, "/a%20b");
        assert_eq!(part("offshoot-header-x-a", "1").unwrap().headers, [("x-a".to_owned(), "1".to_owned())]);
        assert!(part("offshoot-header-connection", "x").unwrap().headers.is_empty());
        for (name, value) in [
            ("offshoot-path", "a"),
            ("offshoot-path", "/a b"),
            ("offshoot-path", "/a?b"),
            ("offshoot-query", "a#b"),
            ("offshoot-method", "get"),
            ("offshoot-method", "G T"),
            ("offshoot-method", ""),
        ] {
            assert!(part(name, value).is_err(), "{name}: {value}");
        }
    }
}
