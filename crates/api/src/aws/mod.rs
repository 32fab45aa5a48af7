//! The AWS services beside Lambda that clients expect on the same port: a small STS, the roles of IAM, and CloudWatch Logs
//! over this server's own logs. Whatever else is asked for goes to an endpoint that the operator names, or gets an error
//! that says so.
//!
//! A request is told apart by the service in its signature's scope, by `X-Amz-Target`, or by the form's `Version`. Each
//! service is a file; this one only chooses and writes the two forms of answers.

mod forward;
mod iam;
mod logs;
mod sts;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use serde_json::{Value, json};

use crate::Backend;
use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::{self, Reply};
use crate::{ids, sigv4};

pub use forward::Fallback;

/// Bytes of a request's document.
const MAX_DOCUMENT: u64 = 1 << 20;
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const AMZN_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const JSON_1_1: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");
const XML: HeaderValue = HeaderValue::from_static("text/xml");

/// Which service a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Door {
    /// Security Token Service.
    Sts,
    /// Identity and Access Management.
    Iam,
    /// CloudWatch Logs.
    Logs,
    /// A form that does not say which; its `Version` does.
    Form,
    /// Another one.
    Other(String),
}

/// What tells the services apart.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path and query.
    pub uri: &'a Uri,
    /// Headers.
    pub headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    /// Of a request's head.
    pub fn of(parts: &'a Parts) -> Self {
        Head { method: &parts.method, uri: &parts.uri, headers: &parts.headers }
    }
}

/// The service that a request is for, when it is for one of AWS's besides Lambda.
pub(crate) fn door(parts: Head) -> Option<Door> {
    let path = parts.uri.path();
    if path.starts_with(crate::native::PREFIX) || path.starts_with(crate::glambdar::INVOKE) {
        return None;
    }
    let text = |name: HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    if let Some(service) = sigv4::service(parts.headers, parts.uri.query().unwrap_or("")) {
        return match service.as_str() {
            "sts" => Some(Door::Sts),
            "iam" => Some(Door::Iam),
            "logs" => Some(Door::Logs),
            "lambda" | "execute-api" => None,
            _ => Some(Door::Other(service)),
        };
    }
    let target = text(HeaderName::from_static("x-amz-target"));
    if target.starts_with(logs::TARGET) {
        return Some(Door::Logs);
    }
    if let Some((service, _)) = target.split_once('.') {
        return Some(Door::Other(service.chars().filter(char::is_ascii_graphic).take(64).collect()));
    }
    let form = text(header::CONTENT_TYPE).starts_with("application/x-www-form-urlencoded");
    (path == "/" && *parts.method == Method::POST && form).then_some(Door::Form)
}

/// Whether an answer to this request is XML: the services that take forms.
pub(crate) fn speaks_xml(door: &Door) -> bool {
    matches!(door, Door::Sts | Door::Iam | Door::Form)
}

/// Any request for these services.
pub(crate) async fn route<B: Backend>(mut call: Call<'_, B>, door: Door) -> Result<Reply, Refusal> {
    match door {
        Door::Logs => logs::route(&mut call).await,
        Door::Other(service) => forward::route(call, &service).await,
        Door::Sts | Door::Iam | Door::Form => {
            let form = form(&mut call).await?;
            match (&door, value(&form, "Version")) {
                (Door::Sts, _) | (Door::Form, Some("2011-06-15")) => sts::route(&call, &form),
                (Door::Iam, _) | (Door::Form, Some("2010-05-08")) => iam::route(&call, &form).await,
                _ => Err(invalid_action("this form names no service: its Version is neither STS's nor IAM's")),
            }
        }
    }
}

/// A form's fields, in their order.
pub(crate) type Form = Vec<(String, String)>;

async fn form<B: Backend>(call: &mut Call<'_, B>) -> Result<Form, Refusal> {
    let mut fields = fields(call.parts.uri.query().unwrap_or(""))?;
    if call.parts.method == Method::POST {
        let body = call.collect(MAX_DOCUMENT).await?;
        let text = std::str::from_utf8(&body).map_err(|_| invalid_action("the form is not UTF-8"))?;
        fields.extend(self::fields(text)?);
    }
    Ok(fields)
}

fn fields(text: &str) -> Result<Form, Refusal> {
    let decode = |text: &str| {
        crate::text::percent_decode(&text.replace('+', " "))
            .ok_or_else(|| invalid_action("the form is not percent-encoded UTF-8"))
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| Ok((decode(key)?, decode(value)?))).collect()
}

/// A field of a form.
pub(crate) fn value<'a>(form: &'a Form, key: &str) -> Option<&'a str> {
    form.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

/// A field that must be there.
pub(crate) fn need<'a>(form: &'a Form, key: &str) -> Result<&'a str, Refusal> {
    let missing = || fault(StatusCode::BAD_REQUEST, "ValidationError", format!("{key} is missing"));
    value(form, key).filter(|v| !v.is_empty()).ok_or_else(missing)
}

/// An error in AWS's form: `code` is AWS's.
pub(crate) fn fault(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(status, code, message.into())
}

pub(crate) fn invalid_action(message: impl Into<String>) -> Refusal {
    fault(StatusCode::BAD_REQUEST, "InvalidAction", message)
}

/// A JSON answer.
pub(crate) fn json_reply(body: &Value) -> Reply {
    let bytes = Bytes::from(serde_json::to_vec(body).unwrap_or_default());
    with_id(reply::bytes(StatusCode::OK, JSON_1_1, bytes))
}

/// The answer to an action of a service that takes forms: `inside` is XML already.
pub(crate) fn xml_reply(action: &str, namespace: &str, inside: &str) -> Reply {
    let result = if inside.is_empty() { String::new() } else { format!("<{action}Result>{inside}</{action}Result>") };
    let id = ids::request_id().map(|id| id.to_string()).unwrap_or_default();
    let text = format!(
        "<{action}Response xmlns=\"{namespace}\">{result}<ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></{action}Response>"
    );
    with_id(reply::bytes(StatusCode::OK, XML, text.into()))
}

/// A text inside of XML.
pub(crate) fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Characters that XML cannot hold at all.
            c if c.is_control() && !matches!(c, '\n' | '\t' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn with_id(mut reply: Reply) -> Reply {
    if let Some(id) = ids::request_id().ok().and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
        reply.headers_mut().insert(AMZN_REQUEST_ID, id);
    }
    reply
}

/// A refusal as these services spell it.
pub(crate) fn error_reply(status: StatusCode, kind: &str, message: &str, as_xml: bool) -> Reply {
    let code = code_of(status, kind);
    let mut reply = if as_xml {
        let who = if status.is_server_error() { "Receiver" } else { "Sender" };
        let text = format!(
            "<ErrorResponse><Error><Type>{who}</Type><Code>{}</Code><Message>{}</Message></Error></ErrorResponse>",
            xml(code),
            xml(message)
        );
        reply::bytes(status, XML, text.into())
    } else {
        let body = json!({"__type": code, "message": message});
        reply::bytes(status, JSON_1_1, Bytes::from(body.to_string()))
    };
    if let Ok(value) = HeaderValue::from_str(code) {
        reply.headers_mut().insert(ERROR_TYPE, value);
    }
    with_id(reply)
}

/// AWS's code for a refusal: its own, when it has one, else one that fits the status.
fn code_of(status: StatusCode, kind: &str) -> &str {
    match status {
        _ if kind.starts_with(|c: char| c.is_ascii_uppercase()) => kind,
        StatusCode::UNAUTHORIZED => "MissingAuthenticationTokenException",
        StatusCode::FORBIDDEN => "AccessDeniedException",
        StatusCode::NOT_FOUND => "ResourceNotFoundException",
        StatusCode::TOO_MANY_REQUESTS => "ThrottlingException",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLargeException",
        _ if status.is_server_error() => "InternalFailure",
        _ => "ValidationException",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn of(method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Door> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        door(Head::of(&request.body(()).unwrap().into_parts().0))
    }

    #[test]
    fn services_are_told_apart() {
        let scope = |service: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIA/20261120/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
            )
        };
        let signed = |service: &str, path: &str| of("POST", path, &[("authorization", &scope(service))]);
        assert_eq!(signed("sts", "/"), Some(Door::Sts));
        assert_eq!(signed("iam", "/"), Some(Door::Iam));
        assert_eq!(signed("logs", "/"), Some(Door::Logs));
        assert_eq!(signed("s3", "/bucket/key"), Some(Door::Other("s3".into())));
        assert_eq!(signed("lambda", "/2015-03-31/functions"), None);
        assert_eq!(signed("execute-api", "/anything"), None);
        assert_eq!(signed("sts", "/v1/functions"), None);
        assert_eq!(signed("s3", "/invoke/hello"), None);
        assert_eq!(of("POST", "/", &[("x-amz-target", "Logs_20140328.FilterLogEvents")]), Some(Door::Logs));
        assert_eq!(
            of("POST", "/", &[("x-amz-target", "DynamoDB_20120810.PutItem")]),
            Some(Door::Other("DynamoDB_20120810".into()))
        );
        let form = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        assert_eq!(of("POST", "/", &[form]), Some(Door::Form));
        assert_eq!(of("POST", "/deploy", &[form]), None);
        assert_eq!(of("GET", "/", &[]), None);
        let presigned = "/?Action=GetCallerIdentity&X-Amz-Credential=AKIA%2F20261120%2Fus-east-1%2Fsts%2Faws4_request";
        assert_eq!(of("GET", presigned, &[]), Some(Door::Sts));
    }

    #[test]
    fn forms_are_decoded() {
        let form = fields("Action=A&Name=a+b%2Bc&Empty=&x").unwrap();
        assert_eq!(
            (value(&form, "Name"), value(&form, "Empty"), value(&form, "x")),
            (Some("a b+c"), Some(""), Some(""))
        );
        assert!(need(&form, "Empty").is_err() && need(&form, "None").is_err());
        assert!(fields("a=%zz").is_err());
    }

    #[test]
    fn xml_holds_any_text() {
        assert_eq!(xml("a<b>&\"\u{1}\n"), "a&lt;b&gt;&amp;&quot;\u{fffd}\n");
        let body = error_reply(StatusCode::NOT_FOUND, "not-found", "x", false);
        assert_eq!(body.headers()[ERROR_TYPE], "ResourceNotFoundException");
        assert_eq!(
            error_reply(StatusCode::BAD_REQUEST, "InvalidAction", "x", true).headers()[ERROR_TYPE],
            "InvalidAction"
        );
    }
}
