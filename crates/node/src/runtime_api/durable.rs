//! The door of a durable function to its own executions: the two operations of AWS's API that the durable SDKs call from
//! inside, and nothing else of that API (docs/design/010-durable.md).
//!
//! Whoever connects here is in the box, and may touch only executions whose invocation this box was sent and has not
//! answered. Everything that arrives is the function's and hostile: bodies are bounded, and few are read at once.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use offshoot_sandbox::Listener;
use offshoot_sandbox::process::Process;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::{self, Ending};
use super::http::{Reply, with_type};
use super::{life, random_id, room};
use crate::durable::{Caller, Durable, Gate, MAX_BODY, Refused};
use crate::pool::instance::Instance;

/// Where its paths begin.
pub const PREFIX: &str = "/2025-12-01/";
/// The variable that tells AWS's SDKs where to ask.
pub const ENDPOINT: &str = "AWS_ENDPOINT_URL_LAMBDA";
/// Requests of a box that are read or answered at once: what they send and what they are sent is in memory meanwhile.
const AT_ONCE: usize = 2;

/// What that variable says where the listener has this port.
pub fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// The door of one environment.
#[derive(Debug)]
pub struct Door {
    gate: Option<Gate>,
    places: Arc<Semaphore>,
}

impl Door {
    /// A door that leads somewhere if the function is durable.
    pub fn new(gate: Option<Gate>) -> Self {
        Door { gate, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// Whose calls a door is for: the instance, once there is one.
#[derive(Debug, Clone, Default)]
pub struct Whose(Arc<OnceLock<Weak<Instance>>>);

impl Whose {
    /// From now on it is this one's.
    pub fn is(&self, instance: &Arc<Instance>) {
        self.0.set(Arc::downgrade(instance)).ok();
    }

    fn calls(&self) -> Vec<String> {
        self.0.get().and_then(Weak::upgrade).map(|instance| instance.open_calls()).unwrap_or_default()
    }
}

/// Serves the listener of a clone, which has nothing but this door, until its process ends. `host`: the box is on the machine's network,
/// and its programs have this user. `calls`: how many it may run side by side.
pub fn serve(listener: Listener, gate: Option<Gate>, process: Arc<Process>, host: Option<u32>, calls: usize) -> Whose {
    let whose = Whose::default();
    let (door, large) = (Arc::new(Door::new(gate)), Arc::new(Semaphore::new(room::LARGE)));
    let for_whom = whose.clone();
    let serving = life::accept(listener.socket, host, calls, move |stream| {
        let (door, whose) = (door.clone(), for_whom.clone());
        let served = super::http::connection(stream, large.clone(), move |request, _| {
            let (door, whose) = (door.clone(), whose.clone());
            async move {
                if !request.uri().path().starts_with(PREFIX) {
                    return super::http::not_found();
                }
                route(&door, || whose.calls(), request).await
            }
        });
        async move { drop(served.await) } // no calls are given here that could be left unread
    });
    tokio::spawn(async move {
        let mut ended = process.ended();
        tokio::select! {
            () = serving => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
    });
    whose
}

/// Answers a request of a box that was sent these calls and has not answered them.
pub async fn route(door: &Door, calls: impl Fn() -> Vec<String>, request: Request<Incoming>) -> Reply {
    let Some(durable) = door.gate.as_ref().and_then(Gate::durable) else {
        return super::http::not_found();
    };
    // Kept until the answer has been sent, or nobody is left to take it.
    let Ok(place) = door.places.clone().acquire_owned().await else { return super::http::internal() };
    match ask(calls, &durable, request).await {
        Ok(answer) => reply(StatusCode::OK, &answer, None, place),
        Err(refused) => refuse(&refused, place),
    }
}

async fn ask(calls: impl Fn() -> Vec<String>, durable: &Durable, request: Request<Incoming>) -> Result<Value, Refused> {
    let caller = || Caller::Box(calls());
    let uri = request.uri().clone();
    let segments: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    let bad = || Refused::Invalid("The path is not percent-encoded UTF-8.".into());
    match (request.method(), &segments[..]) {
        (&Method::POST, [_, "durable-executions", arn, "checkpoint"]) => {
            let arn = decode(arn).ok_or_else(bad)?;
            match body::collect(request.into_body(), MAX_BODY).await {
                Ending::Whole(bytes) => durable.checkpoint(caller(), &arn, &bytes).await,
                Ending::TooLarge => Err(Refused::Invalid(format!("A checkpoint has at most {MAX_BODY} bytes."))),
                Ending::Failed(_) | Ending::Truncated => Err(Refused::Invalid("The checkpoint ended early.".into())),
            }
        }
        (&Method::GET, [_, "durable-executions", arn, "state"]) => {
            let arn = decode(arn).ok_or_else(bad)?;
            let query = uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
            let (mut token, mut marker, mut most) = (String::new(), None, None);
            for (name, value) in query {
                let value = decode(value).ok_or_else(bad)?;
                match name {
                    "CheckpointToken" => token = value,
                    "Marker" => marker = Some(value),
                    "MaxItems" => most = value.parse().ok(),
                    _ => {}
                }
            }
            durable.state(caller(), &arn, &token, marker.as_deref(), most).await
        }
        _ => {
            let text = "Here a durable function reaches its own execution, with CheckpointDurableExecution and \
                        GetDurableExecutionState, and nothing else.";
            Err(Refused::NotFound(text.into()))
        }
    }
}

/// Takes percent-encoding back.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

fn refuse(refused: &Refused, place: OwnedSemaphorePermit) -> Reply {
    let (status, code, key, text) = match refused {
        Refused::Invalid(text) | Refused::CallbackOver(text) => {
            (400, "InvalidParameterValueException", "message", text.as_str())
        }
        Refused::NotFound(text) => (404, "ResourceNotFoundException", "Message", text.as_str()),
        Refused::AlreadyStarted(text) => (409, "DurableExecutionAlreadyStartedException", "Message", text.as_str()),
        Refused::Conflict(text) => (409, "ResourceConflictException", "Message", text.as_str()),
        Refused::Platform(error) if error.kind == offshoot_model::ErrorKind::Throttled => {
            (429, "TooManyRequestsException", "message", error.message.as_str())
        }
        Refused::Platform(error) => (500, "ServiceException", "Message", error.message.as_str()),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let whose = if status.is_server_error() { "Service" } else { "User" };
    reply(status, &json!({"Type": whose, key: text}), Some(code), place)
}

/// An answer, and the place that it takes as long as it is in memory.
struct Held {
    text: String,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

fn reply(status: StatusCode, body: &Value, code: Option<&'static str>, place: OwnedSemaphorePermit) -> Reply {
    let body = Bytes::from_owner(Held { text: body.to_string(), _place: place });
    let mut reply = with_type(status, "application/json", body);
    let headers = reply.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&random_id()) {
        headers.insert("x-amzn-requestid", id);
    }
    if let Some(code) = code {
        headers.insert("x-amzn-errortype", HeaderValue::from_static(code));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(decode("arn%3Aaws%2Fx%24").as_deref(), Some("arn:aws/x$"));
        assert_eq!(decode("%252F").as_deref(), Some("%2F"));
        for bad in ["%", "%2", "%zz", "%ff", "%é"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
