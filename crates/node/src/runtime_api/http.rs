//! The routes of the Runtime API and the Extensions API over HTTP/1.1, with the exact answers of AWS's emulator to every use
//! and misuse. What a request may do now is decided in `state`; this reads requests and writes answers.
//!
//! Everything that arrives here is the function's and hostile. Bodies are read only for who may send one, headers and bodies
//! within limits that have names, and nothing here waits but the `…/next` routes, whose number is bounded.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::body::{self, Ending};
use super::room::{self, Bounded, Meter};
use super::state::{Event, Misuse};
use super::{Answering, Bounds, Environment, Told, durable, extensions, stream};

/// Room for the head of a request, in bytes: clients send causes of errors of up to 1 MiB in one header.
const MAX_HEAD: usize = (1 << 20) + (64 << 10);
/// Header lines of a request.
const MAX_HEADERS: usize = 128;
/// The trailers of a request, in bytes: an error's JSON in base64.
const MAX_TRAILERS: usize = 256 << 10;

const RUNTIME: &str = "/2018-06-01/";
const EXTENSION: &str = "/2020-01-01/";

/// An answer.
pub type Reply = Response<Full<Bytes>>;

/// Serves one connection to an environment to its end. A call that was written to it and not read goes to another poll.
pub async fn serve(environment: Arc<Environment>, stream: TcpStream) {
    let (large, served) = (environment.large.clone(), environment.clone());
    let unread = connection(stream, large, move |request, meter| {
        let environment = served.clone();
        async move { route(&environment, request, &meter).await }
    });
    if let Some(call) = unread.await {
        environment.on(Event::NotTaken(call)).ok();
    }
}

/// Serves one connection to its end. `large`: places for requests that are more than small. Returns a call that was written to it and
/// not read.
pub(super) async fn connection<F: Future<Output = Reply>>(
    stream: TcpStream,
    large: Arc<Semaphore>,
    route: impl Fn(Request<Incoming>, Arc<Meter>) -> F,
) -> Option<String> {
    stream.set_nodelay(true).ok();
    let meter = Arc::new(Meter::default());
    let stream = Bounded::new(stream, meter.clone(), large);
    let service = service_fn(|request| {
        let meter = meter.clone();
        let reply = route(request, meter.clone());
        async move {
            let mut reply = reply.await;
            if meter.answered() {
                reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(reply)
        }
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        // No time limit: between two requests of a runtime lies a call, and its connections are counted.
        .header_read_timeout(None)
        .title_case_headers(true)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD.max(MAX_TRAILERS))
        .max_buf_size(MAX_HEAD)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    let done = (&mut connection).await;
    if let Err(error) = &done {
        tracing::debug!(%error, "a connection to the Runtime API broke off");
    }
    let call = meter.given()?;
    let stream = connection.into_parts().io.into_inner().into_inner();
    (done.is_err() || meter.is_broken() || room::is_lost(stream).await).then_some(call)
}

async fn route(environment: &Arc<Environment>, request: Request<Incoming>, meter: &Meter) -> Reply {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    if let Some(rest) = path.strip_prefix(RUNTIME) {
        return match (rest, &method) {
            ("ping", &Method::GET) => text(StatusCode::OK, "pong"),
            ("runtime/invocation/next", &Method::GET) => next(environment, meter).await,
            ("runtime/init/error", &Method::POST) => init_error(environment, request, Event::InitError, meter).await,
            ("runtime/restore/next", &Method::GET) if environment.snap_start() => restore_next(environment).await,
            ("runtime/restore/error", &Method::POST) if environment.snap_start() => {
                init_error(environment, request, Event::RestoreError, meter).await
            }
            ("ping" | "runtime/invocation/next" | "runtime/init/error", _) => not_allowed(),
            _ => match answer_route(rest) {
                Some((id, failed)) if method == Method::POST => answer(environment, request, id, failed, meter).await,
                Some(_) => not_allowed(),
                None => not_found(),
            },
        };
    }
    if path.starts_with(durable::PREFIX) {
        return durable::route(environment.durable(), || environment.calls(), request).await;
    }
    if let Some(rest) = path.strip_prefix(EXTENSION) {
        return extensions::route(environment, rest, request).await;
    }
    super::telemetry::route(environment, &path, request).await
}

/// The call in `runtime/invocation/{id}/response` and `…/error`, and which of them it is.
fn answer_route(rest: &str) -> Option<(&str, bool)> {
    let (id, what) = rest.strip_prefix("runtime/invocation/")?.split_once('/')?;
    match what {
        "response" if !id.is_empty() => Some((id, false)),
        "error" if !id.is_empty() => Some((id, true)),
        _ => None,
    }
}

async fn next(environment: &Arc<Environment>, meter: &Meter) -> Reply {
    match environment.wait(Event::Next).await {
        Ok(Told::Call(call)) => {
            meter.give(&call.id);
            let mut reply = Response::new(Full::new(call.payload.clone()));
            call.write_headers(reply.headers_mut());
            reply
        }
        Ok(_) => internal(),
        Err(misuse) => refuse(&misuse),
    }
}

async fn restore_next(environment: &Arc<Environment>) -> Reply {
    match environment.wait(Event::RestoreNext).await {
        Ok(_) => with_type(StatusCode::OK, "application/json", Bytes::new()),
        Err(misuse) => refuse(&misuse),
    }
}

/// `init/error` and `restore/error`. As below, a body is read only for who may send one, by a task of its own.
async fn init_error(environment: &Arc<Environment>, request: Request<Incoming>, event: Event, meter: &Meter) -> Reply {
    if let Err(misuse) = environment.on(event) {
        return refuse(&misuse);
    }
    meter.free();
    let environment = environment.clone();
    let taking = tokio::spawn(async move {
        let (parts, incoming) = request.into_parts();
        let limit = environment.bounds().error_bytes;
        let (body, reply) = match body::collect(incoming, limit).await {
            Ending::Whole(bytes) => (bytes, accepted()),
            Ending::Failed(error) => (error, accepted()),
            // What it is cannot be told; that it is an error can.
            Ending::TooLarge => (Bytes::new(), too_large(limit)),
            Ending::Truncated => (Bytes::new(), truncated()),
        };
        environment.init_failed(body::posted_error(&parts.headers, body)).await;
        reply
    });
    taking.await.unwrap_or_else(|_| internal())
}

/// `…/response` and `…/error`. Who may not answer now is told so before a byte of the body is read.
///
/// From the moment when the state lets the answer in, it is taken by a task of its own. A program may hang up as soon as it has sent
/// everything; hyper drops what serves it then, and an answer, or half a frame of it, would be lost with that.
async fn answer(
    environment: &Arc<Environment>,
    request: Request<Incoming>,
    id: &str,
    failed: bool,
    meter: &Meter,
) -> Reply {
    let event = if failed { Event::RespondError(id.to_owned()) } else { Event::Respond(id.to_owned()) };
    if !environment.fenced(id, request.headers()) {
        return refuse(&Misuse::UnknownCall);
    }
    if let Err(misuse) = environment.on(event) {
        return refuse(&misuse);
    }
    let open = environment.answering(id);
    meter.free();
    let (parts, incoming) = request.into_parts();
    let taking = tokio::spawn(take_answer(open, environment.bounds(), parts.headers, incoming, failed));
    taking.await.unwrap_or_else(|_| internal())
}

async fn take_answer(open: Answering, bounds: Bounds, headers: HeaderMap, incoming: Incoming, failed: bool) -> Reply {
    let limit = bounds.reply_bytes;
    if !failed && !mode_is_known(&headers) {
        let kind = "Runtime.InvalidResponseModeHeader";
        open.fail("handler", Bytes::from(body::error(kind, "Invalid function response mode"))).await;
        return error(StatusCode::BAD_REQUEST, "InvalidFunctionResponseMode", "Invalid function response mode");
    }
    if !failed && open.streams() && body::is_stream(&headers, incoming.size_hint().exact()) {
        return stream::pass_on(open, &headers, incoming, bounds.stream_bytes).await;
    }
    match body::collect(incoming, limit).await {
        Ending::Whole(bytes) if failed => {
            open.fail("handler", body::posted_error(&headers, bytes)).await;
            accepted()
        }
        Ending::Whole(bytes) => {
            let http = body::head(&headers).filter(|_| body::has_prelude(&headers));
            open.reply(http.as_ref(), bytes).await;
            accepted()
        }
        Ending::Failed(bytes) => {
            open.fail("handler", bytes).await;
            accepted()
        }
        Ending::TooLarge => {
            let message = format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
            open.fail("too_large", Bytes::from(body::error("Function.ResponseSizeTooLarge", &message))).await;
            too_large(limit)
        }
        Ending::Truncated => {
            open.truncated().await;
            truncated()
        }
    }
}

pub(super) fn truncated() -> Reply {
    error(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "HTTP request detected as truncated")
}

fn mode_is_known(headers: &HeaderMap) -> bool {
    headers.get(body::MODE).is_none_or(|v| v.is_empty() || v.as_bytes() == b"streaming")
}

/// The answer to a misuse, in the emulator's words.
pub(super) fn refuse(misuse: &Misuse) -> Reply {
    let not_allowed = "State transition is not allowed";
    let forbidden = |kind: &str, message: String| error(StatusCode::FORBIDDEN, kind, &message);
    match misuse {
        Misuse::Runtime(from, to) => forbidden(
            "InvalidStateTransition",
            format!("State transition from {from} to {to} failed for runtime. Error: {not_allowed}"),
        ),
        Misuse::Extension(from, to, who) => forbidden(
            "Extension.InvalidExtensionState",
            format!("State transition from {from} to {to} failed for extension {who}. Error: {not_allowed}"),
        ),
        Misuse::UnknownCall => error(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID"),
        Misuse::UnknownExtension => forbidden("Extension.UnknownExtensionIdentifier", "Unknown extension".to_owned()),
        Misuse::EventType(event, why) => forbidden("Extension.InvalidEventType", format!("{event}: {why}")),
        Misuse::RegistrationClosed => {
            forbidden("Extension.RegistrationClosed", "Extension registration closed already".to_owned())
        }
        Misuse::NameTaken => {
            forbidden("Extension.InvalidExtensionState", "Extension with this name already registered".to_owned())
        }
        Misuse::TooManyExtensions => forbidden(
            "Extension.TooManyExtensions",
            format!("Extension limit ({}) reached", super::state::MAX_EXTENSIONS),
        ),
        Misuse::TooManyPolls => forbidden(
            "Runtime.TooManyIdleRuntimes",
            "As many requests wait for an invocation as this environment may have".to_owned(),
        ),
    }
}

/// An error's answer: JSON with a line's end, as the emulator writes it.
pub(super) fn error(status: StatusCode, kind: &str, message: &str) -> Reply {
    json_line(status, &json!({"errorMessage": message, "errorType": kind}))
}

/// JSON with a line's end.
pub(super) fn json_line(status: StatusCode, value: &Value) -> Reply {
    with_type(status, "application/json", Bytes::from(format!("{value}\n")))
}

/// 202.
pub(super) fn accepted() -> Reply {
    json_line(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}

pub(super) fn internal() -> Reply {
    error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "Internal Server Error")
}

pub(super) fn too_large(limit: usize) -> Reply {
    let message = format!("Exceeded maximum allowed payload size ({limit} bytes).");
    error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
}

pub(super) fn not_found() -> Reply {
    with_type(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", Bytes::from_static(b"404 page not found\n"))
}

pub(super) fn not_allowed() -> Reply {
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    reply
}

pub(super) fn text(status: StatusCode, body: &'static str) -> Reply {
    with_type(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

pub(super) fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_their_call() {
        assert_eq!(answer_route("runtime/invocation/abc/response"), Some(("abc", false)));
        assert_eq!(answer_route("runtime/invocation/abc/error"), Some(("abc", true)));
        for other in ["runtime/invocation//response", "runtime/invocation/abc", "runtime/invocation/a/b/response", "x"]
        {
            assert_eq!(answer_route(other), None, "{other}");
        }
    }
}
