//! Invocations: synchronous, streamed, asynchronous, and the dry run.
//!
//! A function that failed has answered: status 200 with `X-Amz-Function-Error`. Every other status is the platform's.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use offshoot_model::{Answer, CallContext, Convention, FunctionName, HttpPart, Invocation, Outcome, RequestId};
use offshoot_node::Streamed;
use offshoot_node::durable::Start;
use offshoot_node::queue::{Context, QueuedCall};

use super::error::AwsError;
use super::upload::base64_decode;
use super::{Ask, REQUEST_ID};
use crate::body::{BodyError, ReplyBody};
use crate::reply::{self, Reply};
use crate::stream::{self, FunctionBody};
use crate::{Backend, eventstream, ids, text};

const TYPE: &str = "x-amz-invocation-type";
const LOG_TYPE: &str = "x-amz-log-type";
const CLIENT_CONTEXT: &str = "x-amz-client-context";
const TRACE: &str = "x-amzn-trace-id";
const DURABLE: &str = "x-amz-durable-execution-name";
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const EXECUTED: HeaderName = HeaderName::from_static("x-amz-executed-version");
const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
const DURABLE_ARN: HeaderName = HeaderName::from_static("x-amz-durable-execution-arn");

/// Longest client context, in bytes of base64 (AWS).
const MAX_CONTEXT: usize = 3583;
/// Largest payload of an asynchronous invocation, in bytes (AWS: 1 MB).
const MAX_EVENT: u64 = 1 << 20;
/// Bytes of a buffered answer that one message of a stream carries.
const CHUNK: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RequestResponse,
    Event,
    DryRun,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Self, AwsError> {
        match headers.get(TYPE).map(|v| v.as_bytes()) {
            None | Some(b"RequestResponse") => Ok(Kind::RequestResponse),
            Some(b"Event") => Ok(Kind::Event),
            Some(b"DryRun") => Ok(Kind::DryRun),
            Some(other) => Err(AwsError::constraint(
                &String::from_utf8_lossy(other),
                "invocationType",
                "Member must satisfy enum value set: [Event, RequestResponse, DryRun]",
            )),
        }
    }
    fn name(self) -> &'static str {
        match self {
            Kind::RequestResponse => "RequestResponse",
            Kind::Event => "Event",
            Kind::DryRun => "DryRun",
        }
    }
}

/// A call that was read and checked.
struct Ready {
    invocation: Invocation<Bytes>,
    kind: Kind,
    tail: bool,
    trace: String,
    /// The function is durable.
    durable: bool,
    /// The name that the execution is to have.
    name: Option<String>,
}

/// `Invoke`.
pub(super) async fn invoke<B: Backend>(mut ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let ready = prepare(&mut ask, segment).await?;
    let (id, trace) = (ready.invocation.id.clone(), ready.trace.clone());
    let mut answer = match ready.kind {
        Kind::Event | Kind::RequestResponse if ready.durable => Box::pin(begin(&ask, ready)).await?,
        Kind::DryRun => reply::empty(StatusCode::NO_CONTENT),
        Kind::Event => {
            ask.call.backend().enqueue(queued(ready.invocation)).await?;
            reply::empty(StatusCode::ACCEPTED)
        }
        Kind::RequestResponse => {
            let tail = ready.tail;
            let outcome = ask.call.backend().invoke(ready.invocation).await?;
            buffered(outcome, tail)
        }
    };
    set(answer.headers_mut(), REQUEST_ID, id.as_str());
    set(answer.headers_mut(), TRACE_ID, &trace);
    Ok(answer)
}

/// A call of a durable function: an execution is begun, or the one of this name is found, and waited for unless it is an event.
async fn begin<B: Backend>(ask: &Ask<'_, B>, ready: Ready) -> Result<Reply, AwsError> {
    let durable = ask.call.backend().durable();
    let (arn, mut answer) = if ready.kind == Kind::Event {
        let started = durable.begin(Start::of(ready.invocation, ready.name)).await?;
        let mut answer = reply::empty(StatusCode::ACCEPTED);
        set(answer.headers_mut(), EXECUTED, &started.version);
        (started.arn, answer)
    } else {
        let (started, outcome) = durable.call(ready.invocation, ready.name).await?;
        (started.arn, buffered(outcome, ready.tail))
    };
    set(answer.headers_mut(), DURABLE_ARN, &arn);
    Ok(answer)
}

/// An event for the queue.
fn queued(invocation: Invocation<Bytes>) -> QueuedCall {
    let Invocation { id, function, http, payload, context } = invocation;
    let CallContext { qualifier, client_context, trace, .. } = context.map(|c| *c).unwrap_or_default();
    let context = Context { qualifier, client_context, trace };
    QueuedCall { id, function, context, http, payload, settings: None }
}

/// `InvokeAsync`, which is deprecated: an event by another name.
pub(super) async fn invoke_async<B: Backend>(mut ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    ask.call.parts.headers.insert(TYPE, HeaderValue::from_static("Event"));
    invoke(ask, segment).await
}

/// `InvokeWithResponseStream`: the answer is sent as it comes; one that comes whole, in several messages.
pub(super) async fn streaming<B: Backend>(mut ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let ready = prepare(&mut ask, segment).await?;
    let (id, tail) = (ready.invocation.id.clone(), ready.tail);
    if ready.kind == Kind::DryRun {
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    }
    if ready.kind == Kind::Event {
        let text = "Member must satisfy enum value set: [RequestResponse, DryRun]";
        return Err(AwsError::constraint("Event", "invocationType", text));
    }
    let (arn, called) = match ready.durable {
        true => {
            let (started, outcome) = Box::pin(ask.call.backend().durable().call(ready.invocation, ready.name)).await?;
            (Some(started.arn), Streamed::Whole(outcome))
        }
        false => (None, ask.call.backend().invoke_streaming(ready.invocation).await?),
    };
    let (version, body) = match called {
        Streamed::Whole(outcome) => (outcome.version, ReplyBody::whole(stream_of(outcome, tail))),
        Streamed::Stream(stream) => (stream.version, ReplyBody::function(FunctionBody::events(stream, tail))),
    };
    let mut answer = stream::event_stream(body);
    let headers = answer.headers_mut();
    if let Some(arn) = arn {
        set(headers, DURABLE_ARN, &arn);
    }
    set(headers, EXECUTED, &version_of(version));
    set(headers, REQUEST_ID, id.as_str());
    Ok(answer)
}

/// A whole answer as messages: pieces, then how it ended.
fn stream_of(outcome: Outcome<Bytes>, tail: bool) -> Bytes {
    let end = stream::ending(&outcome, tail);
    let mut out = BytesMut::new();
    if let Answer::Reply { body, .. } = &outcome.result {
        for piece in body.chunks(CHUNK) {
            out.extend_from_slice(&eventstream::chunk(piece));
        }
    }
    out.extend_from_slice(&eventstream::complete(end.to_string().as_bytes()));
    out.freeze()
}

fn version_of(version: Option<u64>) -> String {
    version.map_or_else(|| "$LATEST".to_owned(), |n| n.to_string())
}

fn buffered(outcome: Outcome<Bytes>, tail: bool) -> Reply {
    let version = version_of(outcome.version);
    let (body, failed) = match outcome.result {
        Answer::Reply { body, .. } => (body, false),
        Answer::Failed(error) => (Bytes::from(error.body), true),
    };
    let mut answer = reply::raw_json(StatusCode::OK, body);
    let headers = answer.headers_mut();
    set(headers, EXECUTED, &version);
    if failed {
        headers.insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
    }
    if tail {
        set(headers, LOG_RESULT, &text::base64(&outcome.log_tail));
    }
    answer
}

async fn prepare<B: Backend>(ask: &mut Ask<'_, B>, segment: &str) -> Result<Ready, AwsError> {
    let (function, qualifier) = ask.invoked(segment)?;
    let headers = &ask.call.parts.headers;
    let kind = Kind::of(headers)?;
    let name = headers.get(DURABLE).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let tail = headers.get(LOG_TYPE).is_some_and(|v| v == "Tail");
    let client_context = client_context(headers)?;
    let id = ids::request_id()?;
    let trace = trace(headers, &id);
    let shown = qualifier.as_deref().unwrap_or("$LATEST").to_owned();
    let version = ask.catalog().resolve(&function, qualifier.as_deref(), offshoot_node::catalog::FIRST);
    let version = version.map_err(|_| ask.catalog().missing(&function, Some(&shown)))?;
    let convention = version.config.convention;
    let durable = version.fields.as_deref().is_some_and(|fields| fields.durable.is_some());
    if name.is_some() && !durable {
        return Err(AwsError::invalid("DurableExecutionName is for durable functions: this one has no DurableConfig."));
    }
    if durable && qualifier.is_none() {
        return Err(AwsError::invalid("You cannot invoke a durable function using an unqualified ARN."));
    }
    let payload = payload(ask, kind).await?;
    let http = (convention == Convention::Request).then(|| posted(&function));
    let context = CallContext { qualifier, client_context, identity: None, trace: Some(trace.clone()) };
    let invocation = Invocation { id, function, http, payload, context: Some(Box::new(context)) };
    Ok(Ready { invocation, kind, tail, trace, durable, name })
}

/// What a function of the `request` convention gets when it is called with an event.
fn posted(_function: &FunctionName) -> HttpPart {
    HttpPart {
        method: "POST".to_owned(),
        path: "/".to_owned(),
        query: String::new(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
    }
}

async fn payload<B: Backend>(ask: &mut Ask<'_, B>, kind: Kind) -> Result<Bytes, AwsError> {
    let limit = match kind {
        Kind::Event => MAX_EVENT.min(ask.call.backend().limits().request_bytes),
        _ => ask.call.backend().limits().request_bytes,
    };
    let announced = ask.call.parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|v| v.to_str().ok()?.parse::<u64>().ok()).unwrap_or(limit + 1);
    let body = ask.call.collect(limit).await.map_err(|error| match error {
        BodyError::TooLarge(_) => {
            let message = format!(
                "{announced} byte payload is too large for the {} invocation type (limit {limit} bytes)",
                kind.name()
            );
            AwsError::new(413, "RequestEntityTooLargeException", message).closing()
        }
        other => other.into(),
    })?;
    if body.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    text::check_json(&body).map_err(|e| {
        let why = super::unreadable::sentence(&body).unwrap_or_else(|| e.to_string());
        let message = format!("Could not parse request body into json: Could not parse payload into json: {why}");
        AwsError::new(400, "InvalidRequestContentException", message)
    })?;
    Ok(body)
}

fn client_context(headers: &HeaderMap) -> Result<Option<String>, AwsError> {
    let Some(value) = headers.get(CLIENT_CONTEXT) else { return Ok(None) };
    let bad = |why: &str| AwsError::new(400, "InvalidRequestContentException", why.to_owned());
    if value.len() > MAX_CONTEXT {
        return Err(bad("Client context must be no more than 3583 bytes when base64-encoded."));
    }
    let decoded = value.to_str().ok().and_then(base64_decode).and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or_else(|| bad("Could not base64-decode client context."))?;
    text::check_json(decoded.as_bytes()).map_err(|_| bad("Client context must be a valid JSON-encoded object."))?;
    Ok(Some(decoded))
}

/// The caller's trace, or a new one made of the request's id.
pub(crate) fn trace(headers: &HeaderMap, id: &RequestId) -> String {
    let given = headers.get(TRACE).and_then(|v| v.to_str().ok());
    let plain = |t: &&str| t.len() <= 1024 && t.bytes().all(|b| matches!(b, b' '..=b'~'));
    if let Some(given) = given.filter(plain) {
        return given.to_owned();
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let hex: String = id.as_str().chars().filter(|c| *c != '-').collect();
    format!("Root=1-{now:08x}-{};Parent={};Sampled=0", &hex[..24], &hex[16..])
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_passed_on_or_made() {
        let id = ids::request_id().unwrap();
        let mut headers = HeaderMap::new();
        let made = trace(&headers, &id);
        let parts: Vec<&str> = made.split([';', '-', '=']).collect();
        assert_eq!((parts[0], parts[2].len(), parts[3].len(), parts[5].len()), ("Root", 8, 24, 16), "{made}");
        headers.insert(TRACE, HeaderValue::from_static("Root=1-2-3;Parent=4;Sampled=1"));
        assert_eq!(trace(&headers, &id), "Root=1-2-3;Parent=4;Sampled=1");
    }

    #[test]
    fn client_contexts_are_json_in_base64() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CLIENT_CONTEXT, HeaderValue::from_str(value).unwrap());
            client_context(&headers)
        };
        assert_eq!(of("eyJhIjoxfQ==").unwrap().as_deref(), Some(r#"{"a":1}"#));
        for bad in ["{}", "eyJh", &"e".repeat(3584)] {
            assert!(of(bad).is_err(), "{bad:.20}");
        }
    }
}
