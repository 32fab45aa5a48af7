//! Function URLs: an HTTP request to a function's own host (`<id>.lambda-url.<region>.<host>`) or path (`/lambda-url/<id>/…`)
//! becomes an event of payload format 2.0, and its result an HTTP answer
//! (<https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html>).
//!
//! Who may call is what the URL's configuration and the function's policy say; the server's token plays no part. It never
//! looks into a function.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use offshoot_model::{Answer, CallContext, Convention, HttpReply, Invocation, Outcome, RequestId};
use offshoot_node::Streamed;
use offshoot_node::catalog::types::Cors;
use offshoot_node::catalog::{UrlView, policy};
use serde_json::{Map, Value, json};

use crate::connection::Call;
use crate::lambda::{self, AwsError};
use crate::reply::{self, Reply};
use crate::stream::{self, Begun};
use crate::{Backend, auth, ids, invoke as common, signed, text};

/// Where URLs are for callers that cannot reach their host.
const PREFIX: &str = "/lambda-url/";
const LABEL: &str = ".lambda-url.";
const FORBIDDEN: &str = "Forbidden. For troubleshooting Function URL authorization issues, see: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html";

/// The address of a URL, as a caller that reached this server at `host` reaches it.
pub(crate) fn address(id: &str, region: &str, host: &str) -> String {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, format!(":{port}")),
        _ => (host, String::new()),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    // An address has no names below it; `localhost` has.
    let name = if bare.parse::<IpAddr>().is_ok() { "localhost" } else { name };
    format!("http://{id}{LABEL}{region}.{name}{port}/")
}

/// The host below which a URL's host lies: `example.org` for `<id>.lambda-url.<region>.example.org`, in whatever case.
pub(crate) fn host_below(name: &str) -> Option<&str> {
    let at = name.find('.')?;
    let (id, rest) = name.split_at(at);
    let region = rest.get(LABEL.len()..).filter(|_| rest[..LABEL.len()].eq_ignore_ascii_case(LABEL))?;
    let (_region, below) = region.split_once('.')?;
    (!id.is_empty()).then_some(below)
}

/// The id of the URL that a request speaks to.
pub(crate) fn id_of(parts: &Parts) -> Option<String> {
    if let Some(id) = id_in_host(parts) {
        return Some(id);
    }
    let rest = parts.uri.path().strip_prefix(PREFIX)?;
    Some(rest.split('/').next().unwrap_or("").to_ascii_lowercase())
}

fn id_in_host(parts: &Parts) -> Option<String> {
    let host = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("");
    let name = host.split(':').next().unwrap_or("");
    host_below(name)?;
    name.split_once('.').map(|(id, _)| id.to_ascii_lowercase())
}

/// Answers a request to a URL.
pub(crate) async fn serve<B: Backend>(call: Call<'_, B>, id: &str) -> Reply {
    let Some(view) = call.backend().catalog().url_by_id(id) else { return denied(Value::Null) };
    let origin = call.parts.headers.get(header::ORIGIN).and_then(|o| o.to_str().ok()).map(str::to_owned);
    let cors = view.config.cors.clone();
    if let (Some(cors), Some(origin)) = (&cors, &origin)
        && call.parts.method == Method::OPTIONS
        && call.parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    {
        let mut answer = reply::empty(StatusCode::OK);
        set_cors(answer.headers_mut(), cors, origin, true);
        return answer;
    }
    let mut answer = match answer(call, &view).await {
        Ok(answer) => answer,
        Err(error) => error.into_reply(),
    };
    if let (Some(cors), Some(origin)) = (&cors, &origin) {
        set_cors(answer.headers_mut(), cors, origin, false);
    }
    answer
}

fn denied(message: Value) -> Reply {
    let mut answer = reply::json(StatusCode::FORBIDDEN, &json!({ "Message": message }));
    let name = HeaderName::from_static("x-amzn-errortype");
    answer.headers_mut().insert(name, HeaderValue::from_static("AccessDeniedException"));
    answer
}

/// Whether somebody of this server's account signed the request: proven where signatures are checked, else as it says.
async fn is_ours<B: Backend>(call: &mut Call<'_, B>) -> bool {
    if call.state.options.sigv4 {
        return signed::admit(call).await.is_ok();
    }
    auth::is_signed(call.state.token(), &call.parts.headers)
}

/// Whether the URL and the function's policy let this caller in.
async fn may_call<B: Backend>(call: &mut Call<'_, B>, view: &UrlView) -> bool {
    let iam = view.config.auth_type == "AWS_IAM";
    if iam && !is_ours(call).await {
        return false;
    }
    let catalog = call.backend().catalog();
    let place = catalog.place();
    let resource = place.function(view.name.as_str(), view.qualifier.as_deref());
    let mut statements = catalog.statements(&view.name, view.qualifier.as_deref());
    let owner = format!("arn:aws:iam::{}:root", place.account);
    if iam {
        // Whoever is of the account needs no permission of the function's, but a denial counts.
        statements.push(json!({"Effect": "Allow", "Principal": {"AWS": owner}, "Action": "*", "Resource": "*"}));
    }
    let context = [("lambda:functionurlauthtype", view.config.auth_type.as_str())];
    let request = policy::Request {
        action: "lambda:InvokeFunctionUrl",
        resource: &resource,
        principal: iam.then_some(owner.as_str()),
        context: &context,
    };
    policy::allows(&statements, &request)
}

async fn answer<B: Backend>(mut call: Call<'_, B>, view: &UrlView) -> Result<Reply, AwsError> {
    if !may_call(&mut call, view).await {
        return Ok(denied(Value::from(FORBIDDEN)));
    }
    // The server's own token, if the caller sent it, is not for the function to see.
    call.credential = auth::check(call.state.token(), &call.parts.headers).unwrap_or_default();
    let version =
        call.backend().catalog().resolve(&view.name, view.qualifier.as_deref(), offshoot_node::catalog::FIRST);
    let Ok(version) = version else { return Ok(denied(Value::Null)) };
    let convention = version.config.convention;
    let id = ids::request_id()?;
    let limit = call.backend().limits().request_bytes;
    let body = call.collect(limit).await?;
    let path = path_of(&call.parts).to_owned();
    let (http, payload) = match convention {
        Convention::Request => (Some(common::http_part(&call, &path)), body),
        Convention::Event => (None, event(&call, view, &id, &path, &body)),
    };
    let trace = lambda::trace(&call.parts.headers, &id);
    let context = CallContext { qualifier: view.qualifier.clone(), trace: Some(trace), ..CallContext::default() };
    let invocation =
        Invocation { id: id.clone(), function: view.name.clone(), http, payload, context: Some(Box::new(context)) };
    let streams = view.config.invoke_mode.as_deref() == Some("RESPONSE_STREAM") && call.parts.method != Method::HEAD;
    let called = match streams {
        true => call.backend().invoke_streaming(invocation).await?,
        false => Streamed::Whole(call.backend().invoke(invocation).await?),
    };
    let mut answer = match called {
        Streamed::Whole(outcome) => mapped(outcome, convention),
        Streamed::Stream(stream) => match stream::http(stream).await {
            Begun::Reply(answer) => answer,
            Begun::Failed(_) | Begun::Unsendable(_) => bad_gateway(),
        },
    };
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        answer.headers_mut().insert(lambda::REQUEST_ID, value);
    }
    Ok(answer)
}

/// The path below the URL, as it came: nothing in it is decoded.
fn path_of(parts: &Parts) -> &str {
    let path = parts.uri.path();
    if id_in_host(parts).is_some() {
        return path;
    }
    let below = path.strip_prefix(PREFIX).map(|rest| rest.find('/').map_or("/", |at| &rest[at..]));
    below.unwrap_or(path)
}

/// The path as `requestContext` has it: decoded, and with one slash at its beginning (recorded from AWS).
fn shown_path(path: &str) -> String {
    let decoded = text::percent_decode(path).unwrap_or_else(|| path.to_owned());
    format!("/{}", decoded.trim_start_matches('/'))
}

/// The event of payload format 2.0.
fn event<B: Backend>(call: &Call<'_, B>, view: &UrlView, id: &RequestId, path: &str, body: &Bytes) -> Bytes {
    let parts = &call.parts;
    let place = call.backend().catalog().place();
    let domain = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("").to_owned();
    let source = call.peer.map_or_else(|| "127.0.0.1".to_owned(), |p| p.ip().to_canonical().to_string());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let http = common::http_part(call, path);
    let mut headers = joined(&http.headers);
    if !body.is_empty() {
        headers.insert("content-length".to_owned(), body.len().to_string());
    }
    let cookies: Vec<String> = headers
        .remove("cookie")
        .map(|all| all.split(';').map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect())
        .unwrap_or_default();
    headers.insert("x-amzn-trace-id".to_owned(), lambda::trace(&parts.headers, id));
    headers.insert("x-forwarded-for".to_owned(), source.clone());
    headers.insert("x-forwarded-proto".to_owned(), "http".to_owned());
    let port = domain.rsplit_once(':').map_or("80", |(_, port)| port).to_owned();
    headers.insert("x-forwarded-port".to_owned(), port);
    let raw_query = parts.uri.query().unwrap_or("");
    let mut context = json!({
        "accountId": "anonymous",
        "apiId": view.config.id,
        "domainName": domain,
        "domainPrefix": view.config.id,
        "http": {
            "method": parts.method.as_str(),
            "path": shown_path(path),
            "protocol": "HTTP/1.1",
            "sourceIp": source,
            "userAgent": headers.get("user-agent").cloned().unwrap_or_default(),
        },
        "requestId": id.as_str(),
        "routeKey": "$default",
        "stage": "$default",
        "time": common_log_time(now),
        "timeEpoch": now,
    });
    if view.config.auth_type == "AWS_IAM" {
        let account = &place.account;
        context["accountId"] = json!(account);
        context["authorizer"] = json!({"iam": {
            "accountId": account, "callerId": account, "userId": account,
            "userArn": format!("arn:aws:iam::{account}:root"),
            "accessKey": auth::access_key(&parts.headers).filter(|_| call.state.token().is_none()),
            "cognitoIdentity": null, "principalOrgId": null,
        }});
    }
    let textual = is_text(headers.get("content-type").map_or("", String::as_str));
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": raw_query,
        "headers": headers,
        "requestContext": context,
        "isBase64Encoded": false,
    });
    if !cookies.is_empty() {
        event["cookies"] = json!(cookies);
    }
    if !raw_query.is_empty() {
        event["queryStringParameters"] = Value::Object(parameters(raw_query));
    }
    match std::str::from_utf8(body) {
        _ if body.is_empty() => {}
        Ok(plain) if textual => event["body"] = json!(plain),
        _ => {
            event["body"] = json!(text::base64(body));
            event["isBase64Encoded"] = json!(true);
        }
    }
    Bytes::from(event.to_string())
}

/// Bodies of these types reach the function as text.
fn is_text(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    kind.is_empty()
        || kind.starts_with("text/")
        || matches!(kind.as_str(), "application/json" | "application/xml" | "application/javascript")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
}

fn joined(headers: &[(String, String)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        all.entry(name.to_ascii_lowercase())
            .and_modify(|known| {
                // RFC 9110 §5.3; cookies are separated by semicolons (RFC 6265 §5.4).
                known.push_str(if name.eq_ignore_ascii_case("cookie") { "; " } else { "," });
                known.push_str(value);
            })
            .or_insert_with(|| value.clone());
    }
    all
}

/// Query parameters, decoded; values of one name are joined.
fn parameters(query: &str) -> Map<String, Value> {
    let mut all = BTreeMap::<String, String>::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |t: &str| text::percent_decode(&t.replace('+', " ")).unwrap_or_else(|| t.to_owned());
        let value = decode(value);
        all.entry(decode(name))
            .and_modify(|known| {
                known.push(',');
                known.push_str(&value);
            })
            .or_insert(value);
    }
    all.into_iter().map(|(k, v)| (k, Value::from(v))).collect()
}

/// `24/Nov/2025:23:09:04 +0000`.
fn common_log_time(ms: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let stamp = text::rfc3339(ms);
    let part = |from: usize, to: usize| stamp.get(from..to).unwrap_or("");
    let month = part(5, 7).parse::<usize>().ok().and_then(|m| MONTHS.get(m.wrapping_sub(1))).unwrap_or(&"Jan");
    format!("{}/{month}/{}:{} +0000", part(8, 10), part(0, 4), part(11, 19))
}

/// The HTTP answer that a function's result stands for.
fn mapped(outcome: Outcome<Bytes>, convention: Convention) -> Reply {
    let Answer::Reply { http, body } = outcome.result else { return bad_gateway() };
    let (http, body) = stream::unfold(http, body);
    if convention == Convention::Request || stream::is_http(http.as_ref()) {
        return reply::from_function(http.unwrap_or_default(), body).unwrap_or_else(|_| bad_gateway());
    }
    // What is no JSON is still an answer if it says what it is.
    let as_it_is = || reply::from_function(http?, body.clone()).ok();
    from_event(&body).or_else(as_it_is).unwrap_or_else(bad_gateway)
}

fn bad_gateway() -> Reply {
    let body = Bytes::from_static(b"Internal Server Error");
    reply::bytes(StatusCode::BAD_GATEWAY, HeaderValue::from_static("application/json"), body)
}

/// What the result of an event function means; `None` when it cannot be sent.
fn from_event(body: &Bytes) -> Option<Reply> {
    let json = HeaderValue::from_static("application/json");
    match serde_json::from_slice::<Value>(body).ok()? {
        Value::Object(map) if map.contains_key("statusCode") => from_shape(&map),
        Value::String(plain) => Some(reply::bytes(StatusCode::OK, json, Bytes::from(plain))),
        Value::Null => Some(reply::bytes(StatusCode::OK, json, Bytes::from_static(b"null"))),
        other => Some(reply::bytes(StatusCode::OK, json, Bytes::from(other.to_string()))),
    }
}

fn from_shape(map: &Map<String, Value>) -> Option<Reply> {
    let status = match map.get("statusCode")? {
        Value::Number(n) => u16::try_from(n.as_u64()?).ok()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    let body = match map.get("body") {
        None | Some(Value::Null) => Bytes::new(),
        Some(Value::String(plain)) if map.get("isBase64Encoded") == Some(&Value::Bool(true)) => {
            Bytes::from(lambda::base64_decode(plain)?)
        }
        Some(Value::String(plain)) => Bytes::from(plain.clone()),
        Some(other) => Bytes::from(other.to_string()),
    };
    let plain = |v: &Value| match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in map.get("headers").and_then(Value::as_object).into_iter().flatten() {
        headers.push((name.clone(), plain(value)));
    }
    for cookie in map.get("cookies").and_then(Value::as_array).into_iter().flatten() {
        headers.push(("set-cookie".to_owned(), plain(cookie)));
    }
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-type")) {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    reply::from_function(HttpReply { status, headers }, body).ok()
}

fn set_cors(headers: &mut HeaderMap, cors: &Cors, origin: &str, preflight: bool) {
    let any = cors.allow_origins.iter().any(|o| o == "*");
    let matches = |allowed: &String| match allowed.split_once('*') {
        Some((start, end)) => {
            origin.len() >= start.len() + end.len() && origin.starts_with(start) && origin.ends_with(end)
        }
        None => allowed.eq_ignore_ascii_case(origin),
    };
    if !any && !cors.allow_origins.iter().any(matches) {
        return;
    }
    let mut put = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    let credentials = cors.allow_credentials == Some(true);
    let star = any && !credentials;
    put(header::ACCESS_CONTROL_ALLOW_ORIGIN, if star { "*".to_owned() } else { origin.to_owned() });
    if credentials {
        put(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true".to_owned());
    }
    if !cors.expose_headers.is_empty() {
        put(header::ACCESS_CONTROL_EXPOSE_HEADERS, cors.expose_headers.join(","));
    }
    if preflight {
        put(header::ACCESS_CONTROL_ALLOW_METHODS, cors.allow_methods.join(","));
        put(header::ACCESS_CONTROL_ALLOW_HEADERS, cors.allow_headers.join(","));
        if let Some(age) = cors.max_age {
            put(header::ACCESS_CONTROL_MAX_AGE, age.to_string());
        }
    }
    // Beside what the function says that its answer depends on.
    if !star {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_host_in_any_case_and_then_the_path_is_the_functions() {
        for (host, path, id, rest) in [
            ("ab.lambda-url.us-east-1.localhost:9000", "/lambda-url/foo/bar", Some("ab"), "/lambda-url/foo/bar"),
            ("AB.Lambda-URL.us-east-1.localhost", "/x", Some("ab"), "/x"),
            ("localhost:9000", "/lambda-url/AB/bar", Some("ab"), "/bar"),
            ("a.b.lambda-url.us-east-1.localhost", "/x", None, "/x"),
            (".lambda-url.us-east-1.localhost", "/x", None, "/x"),
            ("a.lambda", "/x", None, "/x"),
        ] {
            let parts = parts(host, path);
            assert_eq!((id_of(&parts).as_deref(), path_of(&parts)), (id, rest), "{host} {path}");
        }
    }

    #[test]
    fn cors_adds_to_what_an_answer_depends_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        let cors = Cors { allow_origins: vec!["https://a.example".into()], ..Cors::default() };
        set_cors(&mut headers, &cors, "https://a.example", false);
        let all: Vec<_> = headers.get_all(header::VARY).iter().collect();
        assert_eq!(all, ["Accept-Encoding", "Origin"]);
    }

    fn parts(host: &str, path: &str) -> Parts {
        http::Request::builder().uri(path).header("host", host).body(()).unwrap().into_parts().0
    }

    #[test]
    fn urls_are_found_by_host_and_by_path() {
        assert_eq!(id_of(&parts("AbC.lambda-url.us-east-1.localhost:9000", "/x")).as_deref(), Some("abc"));
        assert_eq!(id_of(&parts("127.0.0.1:9000", "/lambda-url/abc/x%2Fy")).as_deref(), Some("abc"));
        assert_eq!(id_of(&parts("127.0.0.1:9000", "/functions/x")), None);
        assert_eq!(path_of(&parts("h", "/lambda-url/abc/x%2Fy/1")), "/x%2Fy/1");
        assert_eq!(path_of(&parts("h", "/lambda-url/abc")), "/");
        assert_eq!(host_below("a.lambda-url.us-east-1.example.org"), Some("example.org"));
        assert_eq!(host_below("a.b.lambda-url.us-east-1.example.org"), None);
        assert_eq!(address("a", "r-1", "127.0.0.1:9000"), "http://a.lambda-url.r-1.localhost:9000/");
        assert_eq!(address("a", "r-1", "[::1]:9000"), "http://a.lambda-url.r-1.localhost:9000/");
        assert_eq!(address("a", "r-1", "functions.example.org"), "http://a.lambda-url.r-1.functions.example.org/");
    }

    #[test]
    fn results_become_answers() {
        let of = |body: &'static str| from_event(&Bytes::from_static(body.as_bytes()));
        let shaped = of(
            r#"{"statusCode":201,"headers":{"X-A":1},"cookies":["a=1","b=2"],"body":"aGk=","isBase64Encoded":true}"#,
        )
        .unwrap();
        assert_eq!((shaped.status(), shaped.headers()["x-a"].to_str().unwrap()), (StatusCode::CREATED, "1"));
        assert_eq!(shaped.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(of(r#"{"a":1}"#).unwrap().status(), 200);
        assert_eq!(of("[1]").unwrap().headers()["content-type"], "application/json");
        for bad in [r#"{"statusCode":"x"}"#, r#"{"statusCode":42}"#, r#"{"statusCode":200,"headers":{"a\r\nb":"c"}}"#] {
            assert!(of(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_joined_and_times_are_those_of_logs() {
        assert_eq!(Value::Object(parameters("a=1&a=2&b=%20x&c")), json!({"a": "1,2", "b": " x", "c": ""}));
        assert_eq!(common_log_time(951_782_400_123), "29/Feb/2000:00:00:00 +0000");
    }

    #[test]
    fn origins_are_matched() {
        let cors = |origins: &[&str], credentials: bool| Cors {
            allow_origins: origins.iter().map(|o| (*o).to_owned()).collect(),
            allow_credentials: Some(credentials),
            ..Cors::default()
        };
        let allowed = |c: &Cors, origin: &str| {
            let mut headers = HeaderMap::new();
            set_cors(&mut headers, c, origin, false);
            headers.get("access-control-allow-origin").map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(allowed(&cors(&["*"], false), "http://a").as_deref(), Some("*"));
        assert_eq!(allowed(&cors(&["*"], true), "http://a").as_deref(), Some("http://a"));
        assert_eq!(allowed(&cors(&["https://*.a.org"], false), "https://x.a.org").as_deref(), Some("https://x.a.org"));
        assert_eq!(allowed(&cors(&["https://a.org"], false), "https://b.org"), None);
    }
}
