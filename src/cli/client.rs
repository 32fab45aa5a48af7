//! The HTTP client: one connection per request, HTTP/1.1 without TLS, to the server that the configuration names.
//!
//! It turns whatever goes wrong on the way, and every error that a server answers, into a `CliError`. It knows no verb.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use offshoot_model::FunctionName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use super::error::{CliError, Exit};
use super::term::printable;
use super::units::nearest;
use crate::config::{ClientConfig, ServerUrl};

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest wait for the answer to a question about what is deployed.
const ANSWER: Duration = Duration::from_secs(30);

/// Runs a conversation to its end, or until the person or the system interrupts it.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| CliError::config(format!("cannot start: {e}")))?;
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            stopped = interrupted() => Err(stopped),
        }
    })
}

async fn interrupted() -> CliError {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => CliError::new(Exit::Interrupted, "interrupted", ""),
        _ = term.recv() => CliError::new(Exit::Terminated, "interrupted", ""),
    }
}

/// A server, and how to speak to it.
#[derive(Debug, Clone)]
pub struct Client {
    config: ClientConfig,
}

/// One request.
pub struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Upload,
}

/// A whole answer.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// A request body of known length, sent in pieces that somebody may count.
pub struct Upload {
    parts: Vec<Bytes>,
    left: u64,
    sent: Box<dyn FnMut(u64) + Send>,
}

impl Upload {
    /// A body made of these parts, in this order.
    pub fn new(mut parts: Vec<Bytes>, sent: impl FnMut(u64) + Send + 'static) -> Self {
        parts.reverse();
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Upload { parts, left, sent: Box::new(sent) }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while let Some(last) = self.parts.last_mut() {
            let piece = last.split_to(last.len().min(64 << 10));
            if piece.is_empty() {
                self.parts.pop();
                continue;
            }
            let count = piece.len() as u64;
            self.left -= count;
            (self.sent)(count);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        Poll::Ready(None)
    }
    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Call {
    /// A request without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Call { method, path: path.into(), headers: HeaderMap::new(), body: Upload::new(Vec::new(), |_| {}) }
    }
    /// The same with a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
    /// The same with a body.
    pub fn body(mut self, body: Upload) -> Self {
        self.body = body;
        self
    }
}

impl Client {
    /// A client of the server that the configuration names.
    pub fn new(config: ClientConfig) -> Self {
        Client { config }
    }
    /// The server's address.
    pub fn server(&self) -> &ServerUrl {
        &self.config.server
    }

    /// Sends a request and returns the answer's head; the body follows as it comes. Errors that the server answers are errors.
    pub async fn open(&self, call: Call) -> Result<Response<Incoming>, CliError> {
        let server = self.server();
        let address = (server.host.as_str(), server.port);
        let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(|e| self.no_connection(&plain(&e)))?,
            Err(_) => return Err(self.no_connection("no answer within 5 s")),
        };
        let _ = stream.set_nodelay(true);
        let lost = |e: hyper::Error| self.lost(&e);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        tokio::spawn(connection);
        let response = sender.send_request(self.request(call)?).await.map_err(lost)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, body) = (response.status(), self.collect(response).await?.body);
        Err(self.refusal(status, &body))
    }

    /// Sends a request and waits for the whole answer.
    pub async fn send(&self, call: Call) -> Result<Answer, CliError> {
        let response = self.open(call).await?;
        self.collect(response).await
    }

    /// Asks for a JSON document, within a time that suits questions.
    pub async fn ask(&self, method: Method, path: &str) -> Result<Value, CliError> {
        let answer = tokio::time::timeout(ANSWER, self.send(Call::new(method, path))).await;
        let answer =
            answer.map_err(|_| CliError::unreachable(format!("{} did not answer within 30 s", self.server())))??;
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).map_err(|_| self.stranger(answer.status))
    }

    /// Asks for something to be done, and waits for what became of it.
    pub async fn tell(&self, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let mut call = Call::new(Method::POST, path);
        if let Some(body) = body {
            call = call.body(Upload::new(vec![Bytes::from(body.to_string())], |_| {}));
        }
        Ok(serde_json::from_slice(&self.send(call).await?.body).unwrap_or_default())
    }

    /// What is deployed under this name. When nothing is, the error says which name is near.
    pub async fn function(&self, name: &FunctionName) -> Result<Value, CliError> {
        match self.ask(Method::GET, &format!("/info/{name}")).await {
            Err(error) if error.kind == "not-found" => Err(self.unknown_function(name).await),
            other => other,
        }
    }

    /// The error for a name under which nothing is deployed.
    pub async fn unknown_function(&self, name: &FunctionName) -> CliError {
        let error = CliError::server("not-found", format!("there is no function '{name}' on {}", self.server()));
        let names = match self.ask(Method::GET, "/info").await {
            Ok(list) => function_names(&list),
            Err(_) => Vec::new(),
        };
        match nearest(name.as_str(), names.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean '{near}'? offshoot ls shows all of them")),
            None if names.is_empty() => error.hint("nothing is deployed yet: offshoot deploy PATH"),
            None => error.hint(format!("deployed: {}", few(&names))),
        }
    }

    fn request(&self, call: Call) -> Result<Request<Upload>, CliError> {
        let path = format!("{}{}", self.server().prefix, call.path);
        let mut request = Request::new(call.body);
        *request.method_mut() = call.method;
        *request.uri_mut() = path.parse().map_err(|_| CliError::usage(format!("'{path}' is not a path of a URL")))?;
        *request.headers_mut() = call.headers;
        let value = |text: String| {
            HeaderValue::from_str(&text).map_err(|_| CliError::usage(format!("'{}' is not a host", self.server().host)))
        };
        request.headers_mut().insert(header::HOST, value(self.server().authority())?);
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static(concat!("offshoot/", env!("CARGO_PKG_VERSION"))));
        if request.method() == Method::POST && request.body().left == 0 {
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if let Some(token) = &self.config.token {
            let mut shown = value(format!("Bearer {}", token.expose()))?;
            shown.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, shown);
        }
        Ok(request)
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Answer, CliError> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| self.lost(&e))?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    fn no_connection(&self, why: &str) -> CliError {
        let server = self.server();
        let error = CliError::unreachable(format!("cannot reach {server}: {why}"));
        if server.is_local() {
            error.hint("is the server running? start it with: offshoot serve")
        } else {
            error.hint("check --server or OFFSHOOT_SERVER, and that the server listens on that address")
        }
    }

    /// The connection broke in the middle of a conversation.
    pub fn lost(&self, error: &hyper::Error) -> CliError {
        let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        CliError::unreachable(format!("the conversation with {} broke off: {why}", self.server()))
            .hint("did the server stop? offshoot doctor tells, and its own log says why")
    }

    /// Whatever answered is not an Offshoot server.
    fn stranger(&self, status: StatusCode) -> CliError {
        CliError::unreachable(format!("{} answered {status}, and not as an Offshoot server does", self.server()))
            .hint("is something else listening there? check --server, or start offshoot serve on another port")
    }

    /// The error that a server answered.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> CliError {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        // AWS's dialect, which some verbs speak, names its sentence otherwise, and says whose fault it is.
        let aws = || answer["message"].as_str().or(answer["Message"].as_str()).filter(|_| answer["Type"].is_string());
        let Some(sentence) = answer["error"].as_str().or_else(aws) else { return self.stranger(status) };
        let sentence = printable(sentence, false);
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return CliError::new(Exit::Unreachable, answer["kind"].as_str().unwrap_or("denied"), sentence)
                .hint("give the server's token with OFFSHOOT_TOKEN or --token-file");
        }
        let by_status = match status {
            StatusCode::NOT_FOUND => "not-found",
            StatusCode::BAD_REQUEST => "invalid-input",
            StatusCode::TOO_MANY_REQUESTS => "throttled",
            _ => "internal",
        };
        let kind = answer["kind"].as_str().unwrap_or(by_status);
        CliError::server(kind, sentence).maybe_hint(hint_for(kind).map(str::to_owned))
    }
}

/// What a person can do about an error of this kind, where the sentence itself cannot know.
fn hint_for(kind: &str) -> Option<&'static str> {
    match kind {
        "throttled" | "no-capacity" | "shutting-down" => Some("the same command may succeed in a moment"),
        "runtime-missing" | "sandbox-unavailable" | "start-failed" => {
            Some("offshoot doctor shows what this machine has and how to mend the rest")
        }
        "code-corrupt" => Some("deploy the function again"),
        "store" => Some("is the disk of the data directory full or read-only? offshoot doctor tells"),
        "internal" => Some("the server's own log has the cause"),
        _ => None,
    }
}

/// The names in the answer of `GET /info`.
pub fn function_names(list: &Value) -> Vec<String> {
    let functions = list["functions"].as_array().map(Vec::as_slice).unwrap_or_default();
    functions.iter().filter_map(|f| f["name"].as_str()).map(str::to_owned).collect()
}

fn few(names: &[String]) -> String {
    let more = if names.len() > 10 { ", …" } else { "" };
    format!("{}{more}", names.iter().take(10).cloned().collect::<Vec<_>>().join(", "))
}

/// An I/O error without its number.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::{Env, Flags, load};
    use std::io::{Read, Write};

    /// Answers the connections that come, one canned answer each, and gives the requests back.
    pub fn stub(answers: Vec<String>) -> (Client, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || answers.into_iter().map(|answer| converse(&listener, &answer)).collect();
        (client(&url), std::thread::spawn(serve))
    }
    fn converse(listener: &std::net::TcpListener, answer: &str) -> String {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 65536];
        loop {
            let count = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length =
                head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |l| l.parse().unwrap());
            if count == 0 || body.len() >= length {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request).into_owned()
    }
    pub fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
    }
    pub fn client(url: &str) -> Client {
        let env = Env::of_pairs(&[("OFFSHOOT_SERVER", url), ("OFFSHOOT_TOKEN", "t0k3n")]);
        Client::new(load(&env, &Flags::default()).unwrap().client)
    }
    fn error_of(status: &str, body: &str) -> CliError {
        let (client, server) = stub(vec![answer(status, "", body)]);
        let error = block_on(client.ask(Method::GET, "/info")).unwrap_err();
        assert!(server.join().unwrap()[0].contains("authorization: Bearer t0k3n"));
        error
    }

    #[test]
    fn answers_map_to_exit_codes() {
        let bad = error_of("400 Bad Request", r#"{"error":"the archive is not a zip","kind":"bad-archive"}"#);
        assert_eq!(
            (bad.exit, bad.kind.as_str(), bad.message.as_str()),
            (Exit::Server, "bad-archive", "the archive is not a zip")
        );
        let denied = error_of("401 Unauthorized", r#"{"error":"a token is needed","kind":"denied"}"#);
        assert_eq!(denied.exit, Exit::Unreachable);
        assert!(denied.hint.unwrap().contains("OFFSHOOT_TOKEN"));
        assert_eq!(error_of("404 Not Found", r#"{"error":"Function not found!"}"#).kind, "not-found");
        let stranger = error_of("404 Not Found", "<html>");
        assert_eq!(stranger.exit, Exit::Unreachable);
        assert!(stranger.message.contains("not as an Offshoot server does"));
        assert_eq!(error_of("200 OK", "<html>").exit, Exit::Unreachable);
    }

    #[test]
    fn a_server_that_is_not_there_gets_a_hint() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = block_on(client(&format!("http://{free}")).ask(Method::GET, "/info")).unwrap_err();
        assert_eq!(error.exit, Exit::Unreachable);
        assert!(error.message.ends_with("connection refused"), "{}", error.message);
        assert_eq!(error.hint.as_deref(), Some("is the server running? start it with: offshoot serve"));
    }

    #[test]
    fn unknown_functions_get_the_nearest_name() {
        let missing = answer("404 Not Found", "", r#"{"error":"no such function","kind":"not-found"}"#);
        let list = answer("200 OK", "", r#"{"count":2,"functions":[{"name":"hello"},{"name":"resize"}]}"#);
        let (client, server) = stub(vec![missing, list]);
        let error = block_on(client.function(&FunctionName::parse("helo").unwrap())).unwrap_err();
        assert_eq!(error.exit, Exit::Server);
        assert!(error.hint.unwrap().starts_with("did you mean 'hello'?"));
        assert!(server.join().unwrap()[0].starts_with("GET /info/helo HTTP/1.1"));
    }

    #[test]
    fn uploads_are_whole_and_counted() {
        let (client, server) = stub(vec![answer("200 OK", "", "{}")]);
        let total = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = total.clone();
        let parts = vec![Bytes::from(vec![b'a'; 100_000]), Bytes::new(), Bytes::from("end")];
        let upload = Upload::new(parts, move |n| {
            counted.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        });
        block_on(client.send(Call::new(Method::POST, "/deploy").body(upload))).unwrap();
        let request = server.join().unwrap().remove(0);
        assert!(request.contains("content-length: 100003") && request.ends_with("aend"));
        assert_eq!(total.load(std::sync::atomic::Ordering::Relaxed), 100_003);
    }
}
