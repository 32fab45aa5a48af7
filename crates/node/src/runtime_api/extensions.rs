//! The routes of the Extensions API 2020-01-01: who registers for what, and the events that extensions are told.
//!
//! It reads requests and writes answers; what may happen when is decided in `state`. An extension is known by the identifier
//! that it was given, which nobody outside its environment has.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{self, Ending};
use super::http::{Reply, accepted, error, json_line, not_allowed, not_found, refuse, too_large, with_type};
use super::state::{Event, Misuse};
use super::{Call, Environment, Told, random_id};

const NAME: &str = "lambda-extension-name";
const FEATURES: &str = "lambda-extension-accept-feature";
const IDENTIFIER: &str = "lambda-extension-identifier";
const ERROR_TYPE: &str = "lambda-extension-function-error-type";
/// The longest registration, in bytes.
const MAX_REGISTRATION: usize = 64 << 10;
/// The longest name, in bytes; a file's name cannot be longer.
const MAX_NAME: usize = 255;

/// Answers one request below `/2020-01-01/`.
pub async fn route(environment: &Arc<Environment>, rest: &str, request: Request<Incoming>) -> Reply {
    match (rest, request.method()) {
        ("extension/register", &Method::POST) => register(environment, request).await,
        ("extension/event/next", &Method::GET) => match identified(request.headers()) {
            Ok(id) => next(environment, id).await,
            Err(reply) => *reply,
        },
        ("extension/init/error", &Method::POST) => failed(environment, &request, Event::ExtensionInitError),
        ("extension/exit/error", &Method::POST) => failed(environment, &request, Event::ExtensionExitError),
        ("extension/register" | "extension/event/next" | "extension/init/error" | "extension/exit/error", _) => {
            not_allowed()
        }
        _ => not_found(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    #[serde(default)]
    events: Option<Vec<String>>,
    #[serde(default)]
    configuration_keys: Option<Vec<String>>,
}

/// What a registration asks for, or why it cannot be read.
fn read_registration(bytes: &[u8]) -> Result<Vec<String>, String> {
    let read: Registration = serde_json::from_slice(bytes).map_err(|e| match e.classify() {
        serde_json::error::Category::Eof => "unexpected end of JSON input".to_owned(),
        _ => e.to_string(),
    })?;
    if read.configuration_keys.is_some_and(|keys| !keys.is_empty()) {
        return Err("configurationKeys are deprecated; use environment variables instead".to_owned());
    }
    Ok(read.events.unwrap_or_default())
}

async fn register(environment: &Arc<Environment>, request: Request<Incoming>) -> Reply {
    let (parts, incoming) = request.into_parts();
    let name = parts.headers.get(NAME).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if name.is_empty() || name.len() > MAX_NAME {
        return error(StatusCode::FORBIDDEN, "Extension.InvalidExtensionName", "Empty extension name");
    }
    let Ending::Whole(bytes) = body::collect(incoming, MAX_REGISTRATION).await else {
        return too_large(MAX_REGISTRATION);
    };
    let events = match read_registration(&bytes) {
        Ok(events) => events,
        Err(why) => return error(StatusCode::FORBIDDEN, "InvalidRequestFormat", &why),
    };
    let id = match environment.register(name, events, random_id()) {
        Ok(id) => id,
        Err(misuse) => return refuse(&misuse),
    };
    let about = environment.about();
    let mut said = json!({
        "functionName": about.name, "functionVersion": about.version, "handler": about.handler,
    });
    let features = parts.headers.get(FEATURES).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if features.split(',').any(|f| f.trim() == "accountId") {
        said["accountId"] = Value::from(about.account());
    }
    let mut reply = json_line(StatusCode::OK, &said);
    if let Ok(value) = HeaderValue::from_str(&id) {
        reply.headers_mut().insert(IDENTIFIER, value);
    }
    reply
}

/// The identifier that a request shows, or the answer to one that shows none.
pub(super) fn identified(headers: &HeaderMap) -> Result<String, Box<Reply>> {
    let forbidden = |kind: &str, message: &str| Err(Box::new(error(StatusCode::FORBIDDEN, kind, message)));
    let given = headers.get(IDENTIFIER).map(HeaderValue::as_bytes).unwrap_or_default();
    if given.is_empty() {
        return forbidden("Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header");
    }
    match std::str::from_utf8(given).ok().filter(|text| is_uuid(text)) {
        Some(id) => Ok(id.to_ascii_lowercase()),
        None => forbidden("Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier"),
    }
}

fn is_uuid(text: &str) -> bool {
    let dash = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    text.len() == 36 && text.bytes().enumerate().all(|(i, b)| if dash(i) { b == b'-' } else { b.is_ascii_hexdigit() })
}

async fn next(environment: &Arc<Environment>, id: String) -> Reply {
    let asked = id.clone();
    match environment.wait(|poll| Event::ExtensionNext(id, poll)).await {
        Ok(Told::Call(call)) => event(&invoke_event(&call)),
        Ok(Told::Shutdown { reason, deadline_ms }) => {
            event(&json!({"eventType": "SHUTDOWN", "shutdownReason": reason, "deadlineMs": deadline_ms}))
        }
        Ok(Told::Restored) => super::http::internal(),
        Err(Misuse::UnknownExtension) => {
            let kind = "Extension.UnknownExtensionIdentifier";
            error(StatusCode::FORBIDDEN, kind, &format!("Unknown extension {asked}"))
        }
        Err(misuse) => refuse(&misuse),
    }
}

fn invoke_event(call: &Call) -> Value {
    let mut event = json!({
        "eventType": "INVOKE", "deadlineMs": call.deadline_ms, "requestId": call.id, "invokedFunctionArn": call.arn,
    });
    if let Some(trace) = &call.trace {
        event["tracing"] = json!({"type": "X-Amzn-Trace-Id", "value": trace});
    }
    event
}

fn event(value: &Value) -> Reply {
    let mut reply: Response<Full<Bytes>> =
        with_type(StatusCode::OK, "application/json", Bytes::from(value.to_string()));
    if let Ok(id) = HeaderValue::from_str(&random_id()) {
        reply.headers_mut().insert("lambda-extension-event-identifier", id);
    }
    reply
}

/// `init/error` and `exit/error`. What the body says is the extension's own business; its type stands in a header.
fn failed(environment: &Arc<Environment>, request: &Request<Incoming>, make: impl FnOnce(String) -> Event) -> Reply {
    let id = match identified(request.headers()) {
        Ok(id) => id,
        Err(reply) => return *reply,
    };
    if request.headers().get(ERROR_TYPE).is_none_or(|v| v.is_empty()) {
        let message = "Lambda-Extension-Function-Error-Type not found";
        return error(StatusCode::FORBIDDEN, "Extension.MissingHeader", message);
    }
    match environment.on(make(id)) {
        Ok(()) => accepted(),
        Err(Misuse::UnknownExtension) => {
            let kind = "Extension.UnknownExtensionIdentifier";
            error(StatusCode::FORBIDDEN, kind, "Unknown Lambda-Extension-Identifier")
        }
        Err(misuse) => refuse(&misuse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_uuids() {
        assert!(is_uuid("01234567-89ab-4CDE-8f00-0123456789ab"));
        for bad in ["", "x", "01234567-89ab-4cde-8f00-0123456789a", "01234567x89ab-4cde-8f00-0123456789ab"] {
            assert!(!is_uuid(bad), "{bad}");
        }
    }

    #[test]
    fn registrations_are_read_as_the_emulator_reads_them() {
        assert_eq!(read_registration(br#"{"events":["INVOKE"]}"#).unwrap(), ["INVOKE"]);
        assert!(read_registration(b"{}").unwrap().is_empty());
        assert_eq!(read_registration(b"").unwrap_err(), "unexpected end of JSON input");
        assert_eq!(read_registration(b"{").unwrap_err(), "unexpected end of JSON input");
        assert!(read_registration(br#"{"configurationKeys":["a"]}"#).is_err());
        assert!(read_registration(br#"{"events":"INVOKE"}"#).is_err());
    }
}
