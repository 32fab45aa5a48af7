//! AWS Lambda's API: the routes under a date (`/2015-03-31/…`), as unmodified AWS clients call them. What a request means is in
//! the node's catalogue; here it is taken apart and answered in AWS's shapes.
//!
//! It holds no state and no policy. A path is split before its segments are decoded, since names may hold `/` and `:`.
//! Operations that this server does not have are answered by their name.

mod aliases;
mod concurrency;
mod durable;
mod error;
mod event_invoke;
mod event_sources;
mod functions;
mod invoke;
mod layers;
mod location;
mod names;
mod policy;
mod s3;
mod settings;
mod shapes;
mod signing;
mod tags;
mod unreadable;
pub(crate) mod upload;
mod urls;
mod versions;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use offshoot_model::{FunctionName, Place};
use offshoot_node::Catalog;
use serde::de::DeserializeOwned;

use crate::connection::Call;
use crate::reply::{self, Reply};
use crate::{Backend, ids, text};
pub(crate) use error::AwsError;
pub(crate) use invoke::trace;
pub(crate) use upload::base64_decode;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// Bytes of a document without an archive.
const MAX_DOCUMENT: u64 = 1 << 20;

/// Whether a path is one of this dialect: its first segment is a date.
pub(crate) fn is_ours(path: &str) -> bool {
    let date = path.as_bytes().get(1..11).unwrap_or(b"");
    let shape = date.iter().enumerate().all(|(i, b)| match i {
        4 | 7 => *b == b'-',
        _ => b.is_ascii_digit(),
    });
    date.len() == 10 && shape && date.starts_with(b"20") && matches!(path.as_bytes().get(11), Some(b'/'))
}

/// Where the archives of functions and layers are fetched: the links in answers lead there.
pub(crate) use location::{PREFIX as ARCHIVES, serve as archive};

/// One request.
pub(super) struct Ask<'a, B> {
    pub call: Call<'a, B>,
    query: Vec<(String, String)>,
}

impl<B: Backend> Ask<'_, B> {
    fn catalog(&self) -> &Arc<Catalog> {
        self.call.backend().catalog()
    }
    fn place(&self) -> &Place {
        self.catalog().place()
    }
    /// A query parameter.
    fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    fn params(&self, name: &str) -> Vec<String> {
        self.query.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }
    fn qualifier(&self) -> Option<&str> {
        self.param("Qualifier")
    }
    /// The function that the path names, with the version that the path or the query names.
    fn function(&self, segment: &str) -> Result<(FunctionName, Option<String>), AwsError> {
        names::function(segment, self.qualifier(), self.place())
    }
    /// The same for an invocation, whose errors name `$LATEST` where nothing else was named.
    fn invoked(&self, segment: &str) -> Result<(FunctionName, Option<String>), AwsError> {
        names::function_or(segment, self.qualifier(), self.place(), Some("$LATEST"))
    }
    /// A function whose version does not matter.
    fn unqualified(&self, segment: &str) -> Result<FunctionName, AwsError> {
        Ok(names::function(segment, None, self.place())?.0)
    }
    /// The same, where naming a version is an error.
    fn function_only(&self, segment: &str) -> Result<FunctionName, AwsError> {
        match names::function(segment, None, self.place())? {
            (name, None) => Ok(name),
            _ => Err(AwsError::invalid(
                "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please specify either a function name or an unqualified function ARN.",
            )),
        }
    }
    /// How many items one answer may hold.
    fn max_items(&self, most: usize) -> Result<usize, AwsError> {
        let Some(text) = self.param("MaxItems") else { return Ok(most) };
        match text.parse::<usize>() {
            Ok(n) if (1..=10_000).contains(&n) => Ok(n.min(most)),
            Ok(0) => Err(AwsError::constraint(text, "maxItems", "Member must have value greater than or equal to 1")),
            _ => Err(AwsError::constraint(text, "maxItems", "Member must have value less than or equal to 10000")),
        }
    }
    /// Where the last answer ended.
    fn marker(&self) -> Option<String> {
        self.param("Marker").filter(|m| !m.is_empty()).map(str::to_owned)
    }
    /// The body as a document; none is an empty one.
    async fn document<T: DeserializeOwned>(&mut self) -> Result<T, AwsError> {
        let body = self.call.collect(MAX_DOCUMENT).await?;
        parse(&body)
    }
    /// `http://host:port` as the caller reached this server.
    fn base(&self) -> String {
        base(&self.call.parts.headers)
    }
}

fn base(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
    format!("http://{host}")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, AwsError> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|e| AwsError::new(400, "SerializationException", e.to_string()))
}

/// Answers a request. Whatever happens, the answer has this dialect's shape and a request id.
pub(crate) async fn route<B: Backend>(call: Call<'_, B>) -> Reply {
    let id = ids::request_id();
    let mut answer = match dispatch(call).await {
        Ok(answer) => answer,
        Err(error) => error.into_reply(),
    };
    if let Ok(id) = id
        && !answer.headers().contains_key(REQUEST_ID)
        && let Ok(value) = HeaderValue::from_str(id.as_str())
    {
        answer.headers_mut().insert(REQUEST_ID, value);
    }
    answer
}

async fn dispatch<B: Backend>(call: Call<'_, B>) -> Result<Reply, AwsError> {
    let bad = || AwsError::new(400, "InvalidRequestContentException", "the path is not percent-encoded UTF-8");
    let path = call.parts.uri.path().to_owned();
    // A slash at the end is not a segment.
    let raw: Vec<&str> = path.trim_start_matches('/').trim_end_matches('/').split('/').collect();
    let segments: Option<Vec<String>> = raw.iter().map(|s| text::percent_decode(s)).collect();
    let segments = segments.ok_or_else(bad)?;
    let query = query_of(call.parts.uri.query().unwrap_or("")).ok_or_else(bad)?;
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = call.parts.method.clone();
    let ask = Ask { call, query };
    match parts[..] {
        [_, "functions", name, "invocations"] if method == Method::POST => invoke::invoke(ask, name).await,
        [_, "functions", name, "response-streaming-invocations"] if method == Method::POST => {
            invoke::streaming(ask, name).await
        }
        // Not on the way of an invocation: their futures are large.
        _ => Box::pin(manage(ask, &method, &parts)).await,
    }
}

async fn manage<B: Backend>(ask: Ask<'_, B>, method: &Method, parts: &[&str]) -> Result<Reply, AwsError> {
    match *parts {
        [_, "functions"] | [_, "functions", _] => functions::route(ask, method, parts).await,
        [_, "functions", name, "code"] if method == Method::PUT => functions::update_code(ask, name).await,
        [_, "functions", name, "configuration"] if method == Method::GET => functions::configuration(ask, name),
        [_, "functions", name, "configuration"] if method == Method::PUT => {
            functions::update_configuration(ask, name).await
        }
        ["2014-11-13", "functions", name, "invoke-async"] if method == Method::POST => {
            invoke::invoke_async(ask, name).await
        }
        [_, "functions", name, "versions"] => versions::route(ask, method, name).await,
        [_, "functions", name, "aliases"] => aliases::collection(ask, method, name).await,
        [_, "functions", name, "aliases", alias] => aliases::one(ask, method, name, alias).await,
        [_, "functions", name, "policy"] => policy::collection(ask, method, name).await,
        [_, "functions", name, "policy", sid] if method == Method::DELETE => policy::remove(ask, name, sid).await,
        [_, "resource-policy", arn] => policy::resource(ask, method, arn).await,
        [_, "functions", name, "concurrency"] => concurrency::reserved(ask, method, name).await,
        [_, "functions", name, "provisioned-concurrency"] => concurrency::provisioned(ask, method, name).await,
        [_, "functions", name, "event-invoke-config"] => event_invoke::one(ask, method, name).await,
        [_, "functions", name, "event-invoke-config", "list"] if method == Method::GET => event_invoke::list(ask, name),
        [_, "functions", name, "url"] => urls::one(ask, method, name).await,
        [_, "functions", name, "urls"] if method == Method::GET => urls::list(ask, name),
        [_, "functions", name, "recursion-config"] => settings::recursion(ask, method, name).await,
        [_, "functions", name, "runtime-management-config"] => settings::runtime_management(ask, method, name).await,
        [_, "functions", name, "code-signing-config"] => signing::of_function(ask, method, name).await,
        [_, "code-signing-configs", ..] => signing::route(ask, method, &parts[2..]).await,
        [_, "account-settings"] if method == Method::GET => settings::account(ask),
        [_, "tags", arn] => tags::route(ask, method, arn).await,
        [_, "durable-executions", arn, ref verb @ ..] => durable::execution(ask, method, arn, verb).await,
        [_, "durable-execution-callbacks", id, verb] if method == Method::POST => {
            durable::callback(ask, id, verb).await
        }
        [_, "functions", name, "durable-executions"] if method == Method::GET => durable::list(ask, name).await,
        [_, "layers", ..] => layers::route(ask, method, &parts[2..]).await,
        [_, "event-source-mappings"] => event_sources::collection(ask, method).await,
        [_, "event-source-mappings", uuid] => event_sources::one(ask, method, uuid).await,
        _ => Err(unserved(method, parts)),
    }
}

/// What is answered where nothing serves: by the operation's name, where the path is one of AWS's.
fn unserved(method: &Method, parts: &[&str]) -> AwsError {
    let operation = match *parts {
        [_, "capacity-providers", ..] => "Capacity providers",
        [_, "functions", _, "function-scaling-config"] => "Scaling configuration of capacity providers",
        _ => "",
    };
    if operation.is_empty() {
        return AwsError::new(404, "UnknownOperationException", "There is no operation at this path.");
    }
    AwsError::unsupported(&format!("{operation} ({method} /{})", parts.join("/")))
}

/// The parameters of a query, decoded; a `+` is a space.
fn query_of(query: &str) -> Option<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|p| !p.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |t: &str| text::percent_decode(&t.replace('+', " "));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

fn wrong_method<T>() -> Result<T, AwsError> {
    Err(AwsError::new(405, "MethodNotAllowedException", "This path does not take this method."))
}

fn no_content() -> Reply {
    reply::empty(StatusCode::NO_CONTENT)
}

/// Takes the items of one answer, of which one more than fits was asked for, and says where the next answer begins.
fn cut<T>(mut items: Vec<T>, limit: usize, marker: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
    if items.len() <= limit {
        return (items, None);
    }
    items.truncate(limit);
    let next = items.last().map(marker);
    (items, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_recognised() {
        for good in ["/2015-03-31/functions", "/2099-12-01/x", "/2017-03-31/tags/a%2Fb"] {
            assert!(is_ours(good), "{good}");
        }
        for bad in
            ["/", "/2015-03-31", "/1999-03-31/x", "/2015-3-31/x", "/v1/2015-03-31/x", "/2015-03-3a/x", "2015-03-31/x"]
        {
            assert!(!is_ours(bad), "{bad}");
        }
    }

    #[test]
    fn queries_are_decoded_once() {
        let query = query_of("Qualifier=%24LATEST&tagKeys=a&tagKeys=b+c&find").unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            query,
            [pair("Qualifier", "$LATEST"), pair("tagKeys", "a"), pair("tagKeys", "b c"), pair("find", "")]
        );
        assert_eq!(query_of("a=%ff"), None);
    }

    #[test]
    fn what_is_not_there_says_its_name() {
        let said = format!("{:?}", unserved(&Method::GET, &["2025-11-30", "capacity-providers"]));
        assert!(said.contains("Capacity providers") && said.contains("UnsupportedOperationException"), "{said}");
        assert!(unserved(&Method::GET, &["2015-03-31", "nothing"]).is_not_found());
    }
}
