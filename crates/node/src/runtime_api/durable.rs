//! The door of a durable function to its own executions: the two operations of AWS's API that the durable SDKs call from
//! inside, and nothing else of that API (docs/design/010-durable.md).
//!
//! Whoever connects here is in the box, and may touch only executions whose invocation this box was sent and has not
//! answered. Everything that arrives is the function's and hostile: bodies are bounded, and few are read at once.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::body::{self, Ending};
use super::http::{Reply, with_type};
use super::{Environment, random_id};
use crate::durable::{Caller, Durable, Gate, MAX_BODY, Refused};

/// Where its paths begin.
pub const PREFIX: &str = "/2025-12-01/";
/// Checkpoints whose bodies are in memory at once.
const BODIES: usize = 2;

/// The door of one environment.
#[derive(Debug)]
pub struct Door {
    gate: Option<Gate>,
    bodies: Semaphore,
}

impl Door {
    /// A door that leads somewhere if the function is durable.
    pub fn new(gate: Option<Gate>) -> Self {
        Door { gate, bodies: Semaphore::new(BODIES) }
    }
}

/// Answers a request.
pub async fn route(environment: &Arc<Environment>, request: Request<Incoming>) -> Reply {
    let Some(durable) = environment.durable().gate.as_ref().and_then(Gate::durable) else {
        return super::http::not_found();
    };
    match ask(environment, &durable, request).await {
        Ok(answer) => reply(StatusCode::OK, &answer, None),
        Err(refused) => refuse(&refused),
    }
}

async fn ask(environment: &Arc<Environment>, durable: &Durable, request: Request<Incoming>) -> Result<Value, Refused> {
    let caller = Caller::Box(environment.calls());
    let uri = request.uri().clone();
    let segments: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    let bad = || Refused::Invalid("The path is not percent-encoded UTF-8.".into());
    match (request.method(), &segments[..]) {
        (&Method::POST, [_, "durable-executions", arn, "checkpoint"]) => {
            let arn = decode(arn).ok_or_else(bad)?;
            let Ok(_place) = environment.durable().bodies.acquire().await else { return Err(bad()) };
            match body::collect(request.into_body(), MAX_BODY).await {
                Ending::Whole(bytes) => durable.checkpoint(caller, &arn, &bytes).await,
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
            durable.state(caller, &arn, &token, marker.as_deref(), most).await
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

fn refuse(refused: &Refused) -> Reply {
    let (status, code, key, text) = match refused {
        Refused::Invalid(text) | Refused::CallbackOver(text) => {
            (400, "InvalidParameterValueException", "message", text.as_str())
        }
        Refused::NotFound(text) => (404, "ResourceNotFoundException", "Message", text.as_str()),
        Refused::AlreadyStarted(text) => (409, "DurableExecutionAlreadyStartedException", "Message", text.as_str()),
        Refused::Platform(error) if error.kind == offshoot_model::ErrorKind::Throttled => {
            (429, "TooManyRequestsException", "message", error.message.as_str())
        }
        Refused::Platform(error) => (500, "ServiceException", "Message", error.message.as_str()),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let whose = if status.is_server_error() { "Service" } else { "User" };
    reply(status, &json!({"Type": whose, key: text}), Some(code))
}

fn reply(status: StatusCode, body: &Value, code: Option<&'static str>) -> Reply {
    let mut reply = with_type(status, "application/json", body.to_string().into());
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
