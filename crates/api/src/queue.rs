//! Asynchronous invocations over HTTP: how one is handed in, and what people and tools ask of the queue.
//!
//! It translates to the queue's verbs and holds nothing: a call that was answered 202 is on the disk by then.

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use offshoot_model::{Convention, ErrorKind, FunctionName, HttpPart, RequestId};
use offshoot_node::queue::{
    Context, Detail, EventInvokeConfig, Filter, MAX_RETRIES, QueuedCall, State, Target, View, Which,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::{self, Reply};
use crate::{Backend, invoke as common, native, text};

/// Where the queue's routes start.
pub(crate) const PATH: &str = "/v1/queue";
/// Bytes of a document that names items.
const MAX_DOCUMENT: u64 = 256 << 10;
/// Items of a page, when nothing is said.
const PAGE: u64 = 100;
/// How an invocation is to be made: `Event`, or `RequestResponse`, which is the default.
const TYPE: &str = "offshoot-invocation-type";

/// Whether the caller does not wait for the function's answer.
pub(crate) fn is_event(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers.get(TYPE).map(HeaderValue::as_bytes) {
        None | Some(b"RequestResponse") => Ok(false),
        Some(b"Event") => Ok(true),
        Some(_) => Err(Refusal::bad("Offshoot-Invocation-Type is Event or RequestResponse")),
    }
}

/// Takes a call that is to be made later: 202 once it is durable.
pub(crate) async fn accept<B: Backend>(
    mut call: Call<'_, B>,
    function: FunctionName,
    convention: Convention,
    http: Option<HttpPart>,
    id: &RequestId,
) -> Result<Reply, Refusal> {
    let settings = settings(&call.parts.headers)?;
    check_targets(&call, &settings)?;
    let qualifier = native::qualifier(&call.parts.headers)?;
    let given = |name: &str| call.parts.headers.get(name).map(|value| common::header_text(value.as_bytes()));
    let context = Context { qualifier, trace: given("x-amzn-trace-id"), ..Context::default() };
    let limit = call.backend().limits().async_payload_bytes;
    let announced = call.parts.headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    fits(announced.unwrap_or(0), limit).map_err(Refusal::closing)?;
    let payload = common::payload(&mut call, convention).await?;
    fits(payload.len() as u64, limit)?;
    let queued = QueuedCall { id: id.clone(), function, context, http, payload, settings };
    call.backend().enqueue(queued).await?;
    let mut answer = reply::json(StatusCode::ACCEPTED, &json!({"requestId": id.as_str()}));
    reply::set_request_id(answer.headers_mut(), id);
    Ok(answer)
}

/// Whether an event of this size may be kept.
fn fits(size: u64, limit: u64) -> Result<(), Refusal> {
    if size <= limit {
        return Ok(());
    }
    let message = format!(
        "{size} byte payload is too large for the Event invocation type (limit {limit} bytes); the setting is limits.async_payload_bytes"
    );
    Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge.code(), message))
}

/// What the caller wants of this one call; `None`: what is set for the function.
fn settings(headers: &HeaderMap) -> Result<Option<EventInvokeConfig>, Refusal> {
    let text = |name: &'static str| {
        let value = headers.get(name).map(|v| v.to_str().map_err(|_| Refusal::bad(format!("{name} is not text"))));
        value.transpose()
    };
    let target = |name| text(name)?.map(Target::parse).transpose().map_err(Refusal::from);
    let number = |name: &'static str| -> Result<Option<u64>, Refusal> {
        let parse = |t: &str| t.parse().map_err(|_| Refusal::bad(format!("{name} is not a whole number")));
        text(name)?.map(parse).transpose()
    };
    let retries = number("offshoot-max-retries")?;
    if let Some(many) = retries.filter(|n| *n > u64::from(MAX_RETRIES)) {
        return Err(Refusal::bad(format!("Offshoot-Max-Retries is {many}: there are 0 to {MAX_RETRIES} retries")));
    }
    let settings = EventInvokeConfig {
        max_retries: retries.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        max_age_s: number("offshoot-max-age")?,
        on_success: target("offshoot-on-success")?,
        on_failure: target("offshoot-on-failure")?,
        dead_letter: target("offshoot-dead-letter")?,
    };
    Ok(Some(settings).filter(|s| *s != EventInvokeConfig::default()))
}

/// A function that is to be told how the call ends is there now: a misspelt name would be noticed only by what never comes.
fn check_targets<B: Backend>(call: &Call<'_, B>, settings: &Option<EventInvokeConfig>) -> Result<(), Refusal> {
    let Some(settings) = settings else { return Ok(()) };
    let targets = [
        ("Offshoot-On-Success", &settings.on_success),
        ("Offshoot-On-Failure", &settings.on_failure),
        ("Offshoot-Dead-Letter", &settings.dead_letter),
    ];
    for (header, target) in targets {
        if let Some(Target::Function(name, _)) = target
            && call.backend().get(name).is_none()
        {
            return Err(Refusal::bad(format!("{header} names the function {name}, and there is none of that name")));
        }
    }
    Ok(())
}

/// Any route of the queue; `rest` is what follows its name.
pub(crate) async fn route<B: Backend>(call: Call<'_, B>, rest: &str) -> Result<Reply, Refusal> {
    let method = call.parts.method.clone();
    let read = method == Method::GET || method == Method::HEAD;
    match rest {
        "" if read => list(&call).await,
        "" if method == Method::DELETE => purge(&call).await,
        "" => Err(Refusal::method("GET, HEAD, DELETE")),
        "/redrive" if method == Method::POST => redrive(call).await,
        "/redrive" => Err(Refusal::method("POST")),
        _ => {
            let id = rest
                .strip_prefix('/')
                .filter(|id| !id.contains('/'))
                .ok_or_else(|| Refusal::no_route(call.parts.uri.path()))?;
            match method {
                Method::DELETE => purge_one(&call, id).await,
                _ if read => show(&call, id).await,
                _ => Err(Refusal::method("GET, HEAD, DELETE")),
            }
        }
    }
}

async fn list<B: Backend>(call: &Call<'_, B>) -> Result<Reply, Refusal> {
    let (mut filter, mut after, mut limit) = (Filter::default(), 0i64, PAGE);
    for (key, value) in pairs(call) {
        let number = || Refusal::bad(format!("{key} must be a whole number"));
        match key {
            "function" => filter.function = Some(common::name(value)?),
            "state" => filter.state = Some(State::parse(value).ok_or_else(unknown_state)?),
            "after" => after = value.parse().map_err(|_| number())?,
            "limit" => limit = value.parse().map_err(|_| number())?,
            _ => return Err(Refusal::bad("the queue is asked with function, state, after and limit")),
        }
    }
    let queue = call.backend().queue();
    let counts = match filter.function.clone() {
        Some(function) => queue.counts_of(function).await?,
        None => serde_json::to_value(queue.counts().await?).unwrap_or_default(),
    };
    let page = queue.list(filter, after, limit).await?;
    let items: Vec<Value> = page.items.iter().map(describe).collect();
    Ok(reply::json(StatusCode::OK, &json!({"counts": counts, "items": items, "next": page.next})))
}

fn unknown_state() -> Refusal {
    Refusal::bad("a state is waiting, running, delivering or dead")
}

fn pairs<'a, B>(call: &'a Call<'_, B>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let query = call.parts.uri.query().unwrap_or("");
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn describe(view: &View) -> Value {
    let mut value = serde_json::to_value(view).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        for (from, to) in [("acceptedMs", "acceptedAt"), ("dueMs", "dueAt")] {
            if let Some(ms) = members.remove(from).and_then(|ms| ms.as_u64()) {
                members.insert(to.to_owned(), text::rfc3339(ms).into());
            }
        }
    }
    value
}

async fn show<B: Backend>(call: &Call<'_, B>, id: &str) -> Result<Reply, Refusal> {
    let Detail { view, event, record } = call.backend().queue().show(id).await?.ok_or_else(|| unknown_item(id))?;
    let mut value = describe(&view);
    value["event"] = event.as_deref().map_or(Value::Null, bytes_as_json);
    // The record as it is delivered: its numbers and the order of its members are the function's own.
    let record = record.and_then(|r| serde_json::from_slice::<Box<RawValue>>(&r).ok());
    #[derive(serde::Serialize)]
    struct Shown {
        #[serde(flatten)]
        item: Value,
        record: Option<Box<RawValue>>,
    }
    Ok(reply::json(StatusCode::OK, &Shown { item: value, record }))
}

fn unknown_item(id: &str) -> Refusal {
    let shown: String = id.chars().take(64).flat_map(char::escape_default).collect();
    Refusal::new(
        StatusCode::NOT_FOUND,
        ErrorKind::NotFound.code(),
        format!("there is no invocation '{shown}' in the queue: it is done, or never was"),
    )
}

fn bytes_as_json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
}

/// Which items a document is about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    ids: Option<Vec<String>>,
    function: Option<String>,
}

async fn redrive<B: Backend>(mut call: Call<'_, B>) -> Result<Reply, Refusal> {
    let document = call.collect(MAX_DOCUMENT).await?;
    let wanted = || Refusal::bad(r#"say which: {"ids": ["…"]} or {"function": "…"}"#);
    let named: Named = serde_json::from_slice(&document).map_err(|_| wanted())?;
    let which = match (named.ids, named.function) {
        (Some(ids), None) => Which::Ids(ids),
        (None, Some(function)) => Which::Of(FunctionName::parse(&function)?),
        _ => return Err(wanted()),
    };
    let count = call.backend().queue().redrive(which).await?;
    Ok(reply::json(StatusCode::OK, &json!({"redriven": count})))
}

async fn purge<B: Backend>(call: &Call<'_, B>) -> Result<Reply, Refusal> {
    let wanted = || Refusal::bad("say which: ?function=NAME, or the id in the path");
    let mut which = None;
    for (key, value) in pairs(call) {
        match key {
            "function" if which.is_none() => which = Some(Which::Of(common::name(value)?)),
            _ => return Err(wanted()),
        }
    }
    let count = call.backend().queue().purge(which.ok_or_else(wanted)?).await?;
    Ok(reply::json(StatusCode::OK, &json!({"purged": count})))
}

async fn purge_one<B: Backend>(call: &Call<'_, B>, id: &str) -> Result<Reply, Refusal> {
    match call.backend().queue().purge(Which::Ids(vec![id.to_owned()])).await? {
        0 => Err(unknown_item(id)),
        count => Ok(reply::json(StatusCode::OK, &json!({"purged": count}))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_type_is_said_exactly() {
        assert!(!is_event(&headers(&[])).unwrap());
        assert!(!is_event(&headers(&[(TYPE, "RequestResponse")])).unwrap());
        assert!(is_event(&headers(&[(TYPE, "Event")])).unwrap());
        for bad in ["event", "DryRun", ""] {
            let mut map = headers(&[]);
            map.insert(TYPE, HeaderValue::from_static(bad));
            assert!(is_event(&map).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_call_may_bring_settings() {
        assert!(settings(&headers(&[])).unwrap().is_none());
        let given =
            settings(&headers(&[("offshoot-max-retries", "1"), ("offshoot-on-failure", "sink")])).unwrap().unwrap();
        assert_eq!((given.max_retries, given.on_failure), (Some(1), Some(Target::parse("sink").unwrap())));
        for bad in [
            ("offshoot-max-retries", "-1"),
            ("offshoot-max-retries", "9"),
            ("offshoot-max-age", "1h"),
            ("offshoot-on-success", "a b"),
            ("offshoot-dead-letter", ""),
        ] {
            assert!(settings(&headers(&[bad])).is_err(), "{bad:?}");
        }
    }
}
