//! Glambdar's routes: `/deploy`, `/invoke/:name`, `/info`, `/config/:name`, `/logs/:name`, `/del/:name`, with its status
//! codes and its bodies, and the same at every method of `/invoke`.
//!
//! Only how things are spelled is decided here; what they mean is in `admin`, `invoke` and the node.

use bytes::Bytes;
use http::{Method, StatusCode};
use offshoot_model::invocation::FailureCause;
use offshoot_model::{Answer, CallContext, Convention, FunctionError, Invocation, Outcome, RequestId};
use offshoot_node::{ReplyStream, Streamed};
use serde_json::json;

use crate::connection::Call;
use crate::error::{Dialect, Refusal};
use crate::reply::{self, Reply};
use crate::stream::{self, Begun};
use crate::{Backend, admin, ids, invoke as common, native, queue};

/// Where invocations start.
pub(crate) const INVOKE: &str = "/invoke/";

/// Any route but `/invoke`.
pub(crate) async fn route<B: Backend>(call: Call<'_, B>) -> Result<Reply, Refusal> {
    let path = call.parts.uri.path().to_owned();
    let method = call.parts.method.clone();
    let (verb, segment) = match path.get(1..).and_then(|rest| rest.split_once('/')) {
        Some((verb, segment)) => (verb, Some(segment)),
        None => (path.get(1..).unwrap_or(""), None),
    };
    let read = method == Method::GET || method == Method::HEAD;
    match (verb, segment) {
        ("deploy", None) if method == Method::POST => admin::deploy(call).await,
        ("deploy", None) => Err(Refusal::method("POST")),
        ("info", None) if read => Ok(admin::list(&call)),
        ("info", Some(name)) if read => admin::show(&call, &common::name(name)?),
        ("info", _) => Err(Refusal::method("GET, HEAD")),
        ("config", Some(name)) if method == Method::POST => admin::configure(call, common::name(name)?).await,
        ("config", Some(_)) => Err(Refusal::method("POST")),
        ("logs", Some(name)) if read => admin::logs(&call, common::name(name)?).await,
        ("logs", Some(_)) => Err(Refusal::method("GET, HEAD")),
        ("del", Some(name)) if method == Method::DELETE => admin::delete(&call, &common::name(name)?).await,
        ("del", Some(_)) => Err(Refusal::method("DELETE")),
        _ => Err(Refusal::no_route(&path)),
    }
}

/// `/invoke/:name[/path…]` with any method.
pub(crate) async fn invoke<B: Backend>(call: Call<'_, B>) -> Result<Reply, Refusal> {
    let id = ids::request_id()?;
    let result = run(call, &id).await;
    result.map_err(|refusal| refusal.of(&id))
}

async fn run<B: Backend>(mut call: Call<'_, B>, id: &RequestId) -> Result<Reply, Refusal> {
    if matches!(call.parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::method("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    let rest = call.parts.uri.path().get(INVOKE.len()..).unwrap_or("");
    let (segment, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let function = common::name(segment)?;
    let convention = common::convention(&call, &function)?;
    let qualifier = native::qualifier(&call.parts.headers)?;
    let http = (convention == Convention::Request).then(|| common::http_part(&call, path));
    if queue::is_event(&call.parts.headers)? {
        return Box::pin(queue::accept(call, function, convention, http, id)).await;
    }
    let payload = common::payload(&mut call, convention).await?;
    let context = qualifier.map(|name| Box::new(CallContext { qualifier: Some(name), ..CallContext::default() }));
    let invocation = Invocation { id: id.clone(), function, http, payload, context };
    // What nobody reads is not worth a stream.
    let called = match call.parts.method {
        Method::HEAD => Streamed::Whole(call.backend().invoke(invocation).await?),
        _ => call.backend().invoke_streaming(invocation).await?,
    };
    let (start, answer) = match called {
        Streamed::Whole(outcome) => (outcome.start, answer(outcome, convention, id)),
        Streamed::Stream(stream) => (stream.start, streamed(stream, id).await),
    };
    let mut answer = answer.unwrap_or_else(|refusal| refusal.into_reply(Dialect::Glambdar));
    reply::set_request_id(answer.headers_mut(), id);
    reply::set_start(answer.headers_mut(), start);
    Ok(answer)
}

fn answer(outcome: Outcome<Bytes>, convention: Convention, id: &RequestId) -> Result<Reply, Refusal> {
    match outcome.result {
        Answer::Reply { http: None, body } if convention == Convention::Event => {
            Ok(reply::raw_json(StatusCode::OK, body))
        }
        Answer::Reply { http, body } => {
            let (http, body) = stream::unfold(http, body);
            reply::from_function(http.unwrap_or_default(), body).map_err(|why| common::unsendable(&why))
        }
        Answer::Failed(error) => Ok(failed(&error, id)),
    }
}

async fn streamed(stream: Box<ReplyStream>, id: &RequestId) -> Result<Reply, Refusal> {
    match stream::http(stream).await {
        Begun::Reply(answer) => Ok(answer),
        Begun::Failed(error) => Ok(failed(&error, id)),
        Begun::Unsendable(why) => Err(common::unsendable(&why)),
    }
}

fn failed(error: &FunctionError, id: &RequestId) -> Reply {
    let status = match error.cause {
        FailureCause::Handler | FailureCause::Init => StatusCode::INTERNAL_SERVER_ERROR,
        FailureCause::Timeout => StatusCode::GATEWAY_TIMEOUT,
        FailureCause::OutOfMemory
        | FailureCause::Exit
        | FailureCause::ReplyTooLarge
        | FailureCause::Unserialisable
        | FailureCause::Protocol => StatusCode::BAD_GATEWAY,
    };
    let (kind, message) = common::describe(error);
    reply::json(status, &json!({"error": message, "errorType": kind, "requestId": id.as_str()}))
}
