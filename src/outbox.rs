//! What leaves the server by itself: outcomes of asynchronous invocations and accounts of records that were given up, carried over HTTP
//! to queues, topics and event buses that speak AWS's protocols, and to addresses that the operator named.
//!
//! It reaches nothing that the configuration does not allow, follows no redirect, and keeps nothing: who sent it tries again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use offshoot_model::{Error, ErrorKind};
use offshoot_node::queue::{Boxed, Carrier, Shipment, Target, Undelivered};
use offshoot_node::sources::{Remote, Service};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;

use crate::config::ServerUrl;
use crate::remote::Endpoints;

/// The longest that one delivery may take, connection and answer included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read, for what it says about an error.
const MAX_ANSWER: usize = 16 << 10;
/// Bytes of an answer that are repeated in an error.
const SHOWN: usize = 200;

/// The way out.
#[derive(Debug)]
pub struct Outbox {
    remote: Arc<Endpoints>,
    http: Vec<ServerUrl>,
}

impl Outbox {
    /// A way out to these places only.
    pub fn new(remote: Arc<Endpoints>, http: Vec<ServerUrl>) -> Self {
        Outbox { remote, http }
    }

    fn allows(&self, url: &str) -> Option<ServerUrl> {
        let url = ServerUrl::parse_with_query(url)?;
        let fits = |allowed: &&ServerUrl| {
            let below = |path: &str| path.is_empty() || path.starts_with(['/', '?']);
            allowed.host.eq_ignore_ascii_case(&url.host)
                && allowed.port == url.port
                && url.prefix.strip_prefix(&allowed.prefix).is_some_and(below)
                && !url.prefix.split('?').next().unwrap_or_default().split('/').any(|part| part == "..")
        };
        self.http.iter().any(|allowed| fits(&allowed)).then_some(url)
    }
}

impl Carrier for Outbox {
    fn check(&self, target: &Target) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        match target {
            Target::Function(..) => Ok(()),
            Target::Sqs(..) if self.remote.sqs.is_some() => Ok(()),
            Target::Sqs(..) => {
                refuse(format!("{target} cannot be reached: name the queues' address with sqs_endpoint"))
            }
            Target::Http(url) if self.allows(url).is_some() => Ok(()),
            Target::Elsewhere(arn) => match service_of(arn) {
                Some(service) if self.remote.reaches(service) => Ok(()),
                Some(service) => {
                    refuse(format!("{target} cannot be reached: name its service's address with {}", service.setting()))
                }
                None => refuse(format!(
                    "{target}: this server delivers to functions, SQS queues, SNS topics, event buses and HTTP addresses"
                )),
            },
            Target::Http(_) => refuse(format!("{target} is not among the http_destinations of this server")),
        }
    }

    fn carry(&self, shipment: Shipment) -> Boxed<'_, Result<(), Undelivered>> {
        Box::pin(async move {
            let lasting = |message: String| Undelivered { message, lasting: true };
            self.check(&shipment.target).map_err(|e| lasting(e.message))?;
            let (url, request) = match (&shipment.target, &self.remote.sqs) {
                (Target::Sqs(region, account, name), Some(sqs)) => {
                    let message = send_message(sqs, account, name, &shipment);
                    let sent = self.remote.call(Service::Sqs, region, "SendMessage", message, PATIENCE).await;
                    return sent.map(drop).map_err(|e| Undelivered { message: e.to_string(), lasting: false });
                }
                (Target::Elsewhere(arn), _) => {
                    let (service, operation, input) = match service_of(arn) {
                        Some(Service::Sns) => (Service::Sns, "Publish", publish(arn, &shipment)),
                        Some(Service::EventBridge) => (Service::EventBridge, "PutEvents", put_events(arn, &shipment)),
                        _ => return Err(lasting(format!("{arn} is not reached"))),
                    };
                    let region = arn.split(':').nth(3).unwrap_or_default();
                    let sent = self.remote.call(service, region, operation, input, PATIENCE).await;
                    let told = sent.map_err(|e| e.to_string()).and_then(|answer| taken(&answer));
                    return told.map_err(|message| Undelivered { message, lasting: false });
                }
                (Target::Http(url), _) => {
                    let url = self.allows(url).ok_or_else(|| lasting("that address is not allowed".to_owned()))?;
                    (url.clone(), post(&url, shipment.body.clone()))
                }
                (target, _) => return Err(lasting(format!("{target} is not reached over HTTP"))),
            };
            let request = request.map_err(|e| lasting(format!("it cannot be sent: {e}")))?;
            match tokio::time::timeout(PATIENCE, exchange(&url, request)).await {
                Ok(done) => done.map_err(|message| Undelivered { message, lasting: false }),
                Err(_) => {
                    let message = format!("{} did not answer within {} s", url.authority(), PATIENCE.as_secs());
                    Err(Undelivered { message, lasting: false })
                }
            }
        })
    }
}

/// A record, as it is.
fn post(url: &ServerUrl, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
    let path = if url.prefix.is_empty() { "/" } else { &url.prefix };
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, url.authority())
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::new(body))
}

/// What SQS's `SendMessage` is told.
fn send_message(url: &ServerUrl, account: &str, name: &str, shipment: &Shipment) -> Value {
    let mut message = Map::new();
    message.insert("QueueUrl".into(), format!("{url}/{account}/{name}").into());
    message.insert("MessageBody".into(), String::from_utf8_lossy(&shipment.body).into());
    let attributes: Map<String, Value> = shipment
        .attributes
        .iter()
        .map(|(key, kind, value)| ((*key).to_owned(), json!({"DataType": kind, "StringValue": value})))
        .collect();
    if !attributes.is_empty() {
        message.insert("MessageAttributes".into(), attributes.into());
    }
    if let Some(trace) = &shipment.trace {
        message.insert(
            "MessageSystemAttributes".into(),
            json!({"AWSTraceHeader": {"DataType": "String", "StringValue": trace}}),
        );
    }
    if name.ends_with(".fifo") {
        message.insert("MessageGroupId".into(), "offshoot".into());
    }
    Value::Object(message)
}

/// The service that an ARN's resource belongs to, if it is one of those that are delivered to besides queues.
fn service_of(arn: &str) -> Option<Service> {
    match arn.split(':').nth(2) {
        Some("sns") => Some(Service::Sns),
        Some("events") => Some(Service::EventBridge),
        _ => None,
    }
}

/// What SNS's `Publish` is told, as the members of a form.
fn publish(topic: &str, shipment: &Shipment) -> Value {
    let mut message = Map::new();
    message.insert("TopicArn".into(), topic.into());
    message.insert("Message".into(), String::from_utf8_lossy(&shipment.body).into());
    for (number, (key, kind, value)) in (1..).zip(&shipment.attributes) {
        let entry = format!("MessageAttributes.entry.{number}");
        message.insert(format!("{entry}.Name"), (*key).into());
        message.insert(format!("{entry}.Value.DataType"), (*kind).into());
        message.insert(format!("{entry}.Value.StringValue"), value.as_str().into());
    }
    if topic.ends_with(".fifo") {
        message.insert("MessageGroupId".into(), "offshoot".into());
    }
    Value::Object(message)
}

/// What EventBridge's `PutEvents` is told: AWS's words for an outcome (Lambda's guide, "Capturing records of Lambda asynchronous
/// invocations").
fn put_events(bus: &str, shipment: &Shipment) -> Value {
    let record: Value = serde_json::from_slice(&shipment.body).unwrap_or_default();
    let context = &record["requestContext"];
    let ended = if context["condition"] == "Success" { "Success" } else { "Failure" };
    json!({"Entries": [{
        "Source": "lambda",
        "DetailType": format!("Lambda Function Invocation Result - {ended}"),
        "Resources": [bus, context["functionArn"]],
        "EventBusName": bus,
        "Detail": String::from_utf8_lossy(&shipment.body),
    }]})
}

/// A service may answer that it has not taken an entry.
fn taken(answer: &Value) -> Result<(), String> {
    match answer["FailedEntryCount"].as_u64() {
        None | Some(0) => Ok(()),
        Some(_) => Err(format!("the event was not taken: {}", answer["Entries"][0]["ErrorMessage"])),
    }
}

async fn exchange(url: &ServerUrl, request: Request<Full<Bytes>>) -> Result<(), String> {
    let at = url.authority();
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
    let stream = stream.map_err(|e| format!("{at} cannot be reached: {e}"))?;
    let lost = |e: hyper::Error| format!("{at} broke off: {e}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(lost)?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    Err(format!("{at} answered {}", said(status, response.into_body()).await))
}

async fn said(status: StatusCode, body: hyper::body::Incoming) -> String {
    let bytes = Limited::new(body, MAX_ANSWER).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let text: String = String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    if text.is_empty() { status.to_string() } else { format!("{status}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> Outbox {
        let allowed = ["http://hooks.example:8080/in", "http://127.0.0.1:9"];
        Outbox::new(Arc::default(), allowed.iter().map(|u| ServerUrl::parse_with_query(u).unwrap()).collect())
    }

    #[test]
    fn only_named_addresses_are_reached() {
        let outbox = outbox();
        for good in [
            "http://hooks.example:8080/in",
            "http://HOOKS.example:8080/in/a?b=c",
            "http://127.0.0.1:9/x",
            "http://127.0.0.1:9",
        ] {
            assert!(outbox.check(&Target::parse(good).unwrap()).is_ok(), "{good}");
        }
        for bad in [
            "http://hooks.example:8080/internal",
            "http://hooks.example:8080/",
            "http://hooks.example/in",
            "http://hooks.example:8080.evil/in",
            "http://hooks.example:8080@evil/in",
            "http://evil:8080/in",
            "http://hooks.example:8080/in/../x",
            "https://127.0.0.1:9/x",
            "http://127.0.0.1:90/",
            "arn:aws:sqs:us-east-1:000000000000:q",
        ] {
            assert!(outbox.check(&Target::parse(bad).unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_message_is_sqss() {
        let url = ServerUrl::parse_with_query("http://127.0.0.1:9324").unwrap();
        let shipment = Shipment {
            target: Target::parse("arn:aws:sqs:us-east-1:000000000000:dead").unwrap(),
            body: Bytes::from_static(b"{}"),
            attributes: vec![("ErrorCode", "Number", "200".to_owned())],
            trace: Some("Root=1-0-0".to_owned()),
        };
        let body = send_message(&url, "000000000000", "dead", &shipment);
        assert_eq!(
            body,
            json!({"QueueUrl": "http://127.0.0.1:9324/000000000000/dead", "MessageBody": "{}",
                "MessageAttributes": {"ErrorCode": {"DataType": "Number", "StringValue": "200"}},
                "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-0-0"}}})
        );
    }
}
