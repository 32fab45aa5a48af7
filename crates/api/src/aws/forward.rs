//! What this server does not do itself goes, as it came, to the endpoint that the operator named for it; without one, the
//! answer says what is missing.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::fault;
use crate::connection::Call;
use crate::error::Refusal;
use crate::invoke::nominated;
use crate::reply::{Reply, belongs_to_connection};
use crate::{Backend, body::ReplyBody, signed};

/// The longest that the other endpoint may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of its answer.
const MAX_ANSWER: usize = 64 << 20;

/// Another endpoint that speaks for AWS.
#[derive(Debug, Clone)]
pub struct Fallback {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Sends a request on, and its answer back.
pub(super) async fn route<B: Backend>(mut call: Call<'_, B>, service: &str) -> Result<Reply, Refusal> {
    let Some(to) = call.state.options.aws_fallback.clone() else {
        let message = format!(
            "{service} is not served here: this server speaks Lambda, STS, IAM's roles and Logs; name another endpoint for the rest with aws_fallback_endpoint"
        );
        return Err(fault(StatusCode::NOT_IMPLEMENTED, "UnsupportedOperationException", message));
    };
    let body = signed::hold_body(&mut call).await?;
    let request = request(&call, body)
        .map_err(|_| fault(StatusCode::BAD_REQUEST, "ValidationException", "this request cannot be sent on"))?;
    let gone = |why: String| {
        tracing::warn!(host = to.host, port = to.port, why, "the fallback endpoint did not answer");
        fault(
            StatusCode::BAD_GATEWAY,
            "ServiceUnavailableException",
            "the endpoint behind this server cannot be reached",
        )
    };
    let exchange = exchange(&to, request);
    let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    answer.map_err(gone)
}

/// The request as it came, without what belongs to this connection or shows this server's token.
fn request<B: Backend>(call: &Call<'_, B>, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
    let parts = &call.parts;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::builder().method(parts.method.clone()).uri(target);
    let nominated = nominated(&parts.headers);
    for (name, value) in &parts.headers {
        if nominated.iter().any(|own| own.eq_ignore_ascii_case(name.as_str())) {
            continue;
        }
        let token = *name == crate::auth::API_KEY
            || (call.credential.contains(name) && *name != header::AUTHORIZATION)
            || (*name == header::AUTHORIZATION && !value.as_bytes().starts_with(b"AWS4-HMAC-SHA256"));
        if !belongs_to_connection(name) && *name != header::CONTENT_LENGTH && *name != header::EXPECT && !token {
            request = match own_key(call, name, value) {
                // The key's id is this server's token: the other server is shown somebody, but not that.
                Some(token) => request.header(name, value.to_str().unwrap_or_default().replace(token, "offshoot")),
                None => request.header(name, value),
            };
        }
    }
    request.body(Full::new(body))
}

/// This server's token, where this header shows it as the id of an access key.
fn own_key<'a, B: Backend>(call: &'a Call<'_, B>, name: &HeaderName, value: &HeaderValue) -> Option<&'a str> {
    let token = call.state.options.token.as_deref()?;
    let shows = *name == header::AUTHORIZATION && value.to_str().is_ok_and(|text| text.contains(token));
    shows.then_some(token)
}

async fn exchange(to: &Fallback, request: Request<Full<Bytes>>) -> Result<Reply, String> {
    let stream = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(|e| e.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let (mut head, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
    let bytes = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
    let nominated: Vec<String> = nominated(&head.headers).into_iter().map(str::to_ascii_lowercase).collect();
    let of_connection =
        |name: &HeaderName| belongs_to_connection(name) || nominated.iter().any(|own| own == name.as_str());
    let own: Vec<_> = head.headers.keys().filter(|name| of_connection(name)).cloned().collect();
    own.iter().for_each(|name| drop(head.headers.remove(name)));
    // An answer to HEAD says how long a body is that it does not have.
    if !bytes.is_empty() {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    head.version = http::Version::HTTP_11;
    Ok(Reply::from_parts(head, ReplyBody::whole(bytes)))
}
