//! The way to the queues and streams that event source mappings name, and to what else functions name: AWS's protocols over HTTP, in
//! JSON or in forms, signed as AWS's clients sign.
//!
//! It reaches the addresses of the configuration and no other, whatever an answer says, follows no redirect, and tries nothing twice.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use offshoot_api::sigv4::{self, Head, Signed};
use offshoot_model::time::rfc3339;
use offshoot_model::xml;
use offshoot_node::keys::signing_root;
use offshoot_node::queue::Boxed;
use offshoot_node::sources::{Remote, RemoteError, Service};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config::{Secret, ServerUrl};

/// Bytes of an answer, at most (Kinesis answers with up to 10 MB of data).
const MAX_ANSWER: usize = 24 << 20;
/// Characters of an answer that are repeated in an error.
const SHOWN: usize = 200;
/// What requests are signed with when nothing is configured: local servers look at the region in a signature, not at its key.
const NOBODY: &str = "offshoot";

/// Addresses and credentials of queues and streams.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// Queues.
    pub sqs: Option<ServerUrl>,
    /// Streams.
    pub kinesis: Option<ServerUrl>,
    /// Streams of tables.
    pub dynamodb_streams: Option<ServerUrl>,
    /// Subnets and security groups.
    pub ec2: Option<ServerUrl>,
    /// Topics.
    pub sns: Option<ServerUrl>,
    /// Event buses.
    pub eventbridge: Option<ServerUrl>,
    /// The id of the access key that requests are signed with.
    pub key_id: Option<String>,
    /// Its secret.
    pub secret: Option<Secret>,
}

/// A service's names on the wire: in signatures, before operations, and the version of its JSON.
fn names(service: Service) -> (&'static str, &'static str, &'static str) {
    match service {
        Service::Sqs => ("sqs", "AmazonSQS", "application/x-amz-json-1.0"),
        Service::Kinesis => ("kinesis", "Kinesis_20131202", "application/x-amz-json-1.1"),
        Service::DynamoDbStreams => ("dynamodb", "DynamoDBStreams_20120810", "application/x-amz-json-1.0"),
        Service::EventBridge => ("events", "AWSEvents", "application/x-amz-json-1.1"),
        // These read their operation in a form.
        Service::Ec2 => ("ec2", "", FORM),
        Service::Sns => ("sns", "", FORM),
    }
}

impl Endpoints {
    fn of(&self, service: Service) -> Option<&ServerUrl> {
        match service {
            Service::Sqs => self.sqs.as_ref(),
            Service::Kinesis => self.kinesis.as_ref(),
            Service::DynamoDbStreams => self.dynamodb_streams.as_ref(),
            Service::Ec2 => self.ec2.as_ref(),
            Service::Sns => self.sns.as_ref(),
            Service::EventBridge => self.eventbridge.as_ref(),
        }
    }

    fn request(
        &self,
        url: &ServerUrl,
        service: Service,
        region: &str,
        operation: &str,
        body: String,
        now_ms: u64,
    ) -> Result<Request<Full<bytes::Bytes>>, http::Error> {
        let (signing, target, kind) = names(service);
        let path = if url.prefix.is_empty() { "/" } else { &url.prefix };
        // `2026-01-31T09:30:00.250Z` as `20260131T093000Z`.
        let time: String = rfc3339(now_ms).chars().filter(|c| !matches!(c, '-' | ':')).take(15).chain(['Z']).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::try_from(url.authority())?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(HeaderName::from_static("x-amz-date"), HeaderValue::try_from(&time)?);
        let mut names = ["content-type", "host", "x-amz-date"].map(str::to_owned).to_vec();
        if kind != FORM {
            let operation = HeaderValue::try_from(format!("{target}.{operation}"))?;
            headers.insert(HeaderName::from_static("x-amz-target"), operation);
            names.push("x-amz-target".to_owned());
        }
        let key_id = self.key_id.as_deref().unwrap_or(NOBODY);
        let signed = Signed {
            key_id: key_id.to_owned(),
            date: time.chars().take(8).collect(),
            region: region.to_owned(),
            service: signing.to_owned(),
            time,
            headers: names,
            signature: String::new(),
            token: None,
            presigned_s: None,
        };
        let head = Head { method: &Method::POST, path, query: "", headers: &headers };
        let root = signing_root(self.secret.as_ref().map_or(NOBODY, Secret::expose));
        let signature = signed.expected(&head, &sigv4::hash(body.as_bytes()), &root);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={key_id}/{}/{region}/{signing}/aws4_request, SignedHeaders={}, Signature={}",
            signed.date,
            signed.headers.join(";"),
            String::from_utf8_lossy(&signature)
        );
        let mut request = Request::builder().method(Method::POST).uri(path).body(Full::from(body))?;
        headers.insert(header::AUTHORIZATION, HeaderValue::try_from(authorization)?);
        *request.headers_mut() = headers;
        Ok(request)
    }
}

impl Remote for Endpoints {
    fn reaches(&self, service: Service) -> bool {
        self.of(service).is_some()
    }

    fn call<'a>(
        &'a self,
        service: Service,
        region: &'a str,
        operation: &'static str,
        input: Value,
        patience: Duration,
    ) -> Boxed<'a, Result<Value, RemoteError>> {
        Box::pin(async move {
            let unreached = |message: String| RemoteError { code: None, message };
            let url = self.of(service).ok_or_else(|| unreached(format!("this server has no {}", service.setting())))?;
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let body = match version(service) {
                Some(version) => form(operation, version, &input),
                None => input.to_string(),
            };
            let request = self.request(url, service, region, operation, body, now_ms);
            let request = request.map_err(|e| unreached(format!("{operation} cannot be sent: {e}")))?;
            let late = |_| {
                unreached(format!("{} did not answer {operation} within {} s", url.authority(), patience.as_secs()))
            };
            tokio::time::timeout(patience, exchange(url, service, request)).await.map_err(late)?
        })
    }
}

/// A connection that ends with whoever waits for its answer: a long poll that nobody waits for must take no message.
struct Line(tokio::task::JoinHandle<()>);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The content type of forms.
const FORM: &str = "application/x-www-form-urlencoded";

/// Of a service that reads forms, the version of its protocol that its own clients name.
fn version(service: Service) -> Option<&'static str> {
    match service {
        Service::Ec2 => Some("2016-11-15"),
        Service::Sns => Some("2010-03-31"),
        _ => None,
    }
}

/// An operation and its members as a form.
fn form(operation: &str, version: &str, input: &Value) -> String {
    let members = input.as_object().into_iter().flatten();
    let members = members.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()));
    let pairs = [("Action", operation), ("Version", version)].into_iter().chain(members);
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
    pairs.join("&")
}

fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn exchange(
    url: &ServerUrl,
    service: Service,
    request: Request<Full<bytes::Bytes>>,
) -> Result<Value, RemoteError> {
    let at = url.authority();
    let unreached = |message: String| RemoteError { code: None, message };
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
    let stream = stream.map_err(|e| unreached(format!("{at} cannot be reached: {e}")))?;
    let lost = |e: hyper::Error| unreached(format!("{at} broke off: {e}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let _line = Line(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(lost)?;
    let status = response.status();
    let kind = response.headers().get("x-amzn-errortype").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|e| unreached(format!("the answer of {at} cannot be read: {e}")))?.to_bytes();
    if status.is_success() {
        if body.is_empty() {
            return Ok(Value::Null);
        }
        if version(service).is_some() {
            return Ok(Value::String(String::from_utf8_lossy(&body).into_owned()));
        }
        return serde_json::from_slice(&body)
            .map_err(|_| unreached(format!("{at} did not answer with JSON: {}", shown(&body))));
    }
    let answer: Value = match version(service) {
        Some(_) => {
            let text = String::from_utf8_lossy(&body);
            serde_json::json!({"__type": xml::element(&text, "Code"), "message": xml::element(&text, "Message")})
        }
        None => serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    let text = |key: &str| answer.get(key).and_then(Value::as_str).map(str::to_owned);
    let code = text("__type").or(kind).unwrap_or_else(|| status.to_string());
    let code = code.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default().to_owned();
    let message = text("message").or_else(|| text("Message")).unwrap_or_else(|| shown(&body));
    let message = message.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    Err(RemoteError { code: Some(code), message })
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is signed here is what the server's own door accepts.
    #[test]
    fn requests_are_signed_as_awss_clients_do() {
        let url = ServerUrl::parse_with_query("http://127.0.0.1:9324").unwrap();
        let endpoints =
            Endpoints { sqs: Some(url.clone()), key_id: Some("AKIDEXAMPLE".into()), ..Endpoints::default() };
        let (body, now) = ("{\"QueueName\":\"q\"}".to_owned(), 1_774_000_000_250);
        let made = endpoints.request(&url, Service::Sqs, "eu-west-1", "GetQueueUrl", body.clone(), now).unwrap();
        assert_eq!(made.headers()["x-amz-target"], "AmazonSQS.GetQueueUrl");
        assert_eq!(made.headers()["x-amz-date"], "20260320T094640Z");
        let head = Head { method: made.method(), path: "/", query: "", headers: made.headers() };
        let signed = sigv4::read(&head).unwrap_or_else(|_| panic!("it is not read")).unwrap();
        assert_eq!(
            (signed.key_id.as_str(), signed.region.as_str(), signed.service.as_str()),
            ("AKIDEXAMPLE", "eu-west-1", "sqs")
        );
        let right = signed.expected(&head, &sigv4::hash(body.as_bytes()), &signing_root(NOBODY));
        assert_eq!(signed.signature.as_bytes(), right);
        assert!(signed.in_time(now / 1000).is_ok());
    }

    #[test]
    fn some_services_are_asked_in_forms() {
        let url = ServerUrl::parse_with_query("http://127.0.0.1:5000").unwrap();
        let endpoints = Endpoints { ec2: Some(url.clone()), ..Endpoints::default() };
        let body = form("DescribeSubnets", "2016-11-15", &serde_json::json!({"SubnetId.1": "subnet-1&x"}));
        assert_eq!(body, "Action=DescribeSubnets&Version=2016-11-15&SubnetId.1=subnet-1%26x");
        let made =
            endpoints.request(&url, Service::Ec2, "us-east-1", "DescribeSubnets", body, 1_774_000_000_250).unwrap();
        assert!(!made.headers().contains_key("x-amz-target"));
    }

    #[test]
    fn only_configured_services_are_reached() {
        let url = ServerUrl::parse_with_query("http://127.0.0.1:4567");
        let endpoints = Endpoints { kinesis: url, ..Endpoints::default() };
        assert!(endpoints.reaches(Service::Kinesis) && !endpoints.reaches(Service::Sqs));
    }
}
