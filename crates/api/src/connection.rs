//! One connection from its first byte to its last: hyper with our limits around it, the checks at the door, the choice of
//! a route, and the net under a panic.
//!
//! A caller that hangs up drops what is running for it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use offshoot_model::ErrorKind;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::auth::Credential;
use crate::body::{BodyError, Inflow};
use crate::error::{Dialect, Refusal};
use crate::reply::Reply;
use crate::wire::{HeadWatch, Patience, Wire};
use crate::{ApiState, Backend, aws, function_url, glambdar, guard, lambda, native, ops, signed};

/// Header bytes of one request.
const MAX_HEAD: usize = 64 << 10;
/// Bytes of one connection that are read ahead or wait to be written.
const MAX_BUFFER: usize = 128 << 10;

/// What the requests of one connection share.
struct Connection<B> {
    state: Arc<ApiState<B>>,
    watch: Arc<HeadWatch>,
    peer: Option<SocketAddr>,
}

/// One request on its way through the routes.
pub(crate) struct Call<'a, B> {
    pub state: &'a Arc<ApiState<B>>,
    pub parts: Parts,
    pub credential: Credential,
    pub peer: Option<SocketAddr>,
    /// The access key that the request is signed with.
    pub signer: Option<String>,
    body: Option<Incoming>,
    /// The body, when its signature was checked, and this request's share of the memory for such bodies.
    kept: Option<(Bytes, OwnedSemaphorePermit)>,
    watch: &'a HeadWatch,
}

impl<B: Backend> Call<'_, B> {
    /// The node's verbs.
    pub fn backend(&self) -> &B {
        self.state.backend()
    }
    /// The body, to be read piece by piece.
    pub fn inflow(&mut self, limit: u64) -> Result<Inflow, BodyError> {
        if let Some((bytes, _)) = &self.kept {
            return Inflow::of_bytes(bytes.clone(), limit);
        }
        let body = self.body.take().ok_or(BodyError::Broken)?;
        Inflow::new(body, limit, self.state.options.body_timeout)
    }
    /// The whole body.
    pub async fn collect(&mut self, limit: u64) -> Result<Bytes, BodyError> {
        if let Some((bytes, _)) = &self.kept {
            return if bytes.len() as u64 > limit { Err(BodyError::TooLarge(limit)) } else { Ok(bytes.clone()) };
        }
        if self.body.as_ref().is_some_and(Body::is_end_stream) {
            return Ok(Bytes::new());
        }
        let whole = self.inflow(limit)?.collect().await?;
        self.watch.rearm();
        Ok(whole)
    }
}

impl<B> Call<'_, B> {
    /// The body, when it was read before its route was known.
    pub fn kept(&self) -> Option<Bytes> {
        self.kept.as_ref().map(|(body, _)| body.clone())
    }
    /// Keeps such a body.
    pub fn keep(&mut self, body: Bytes, held: OwnedSemaphorePermit) {
        self.kept = Some((body, held));
    }
}

/// Serves HTTP/1.1 on one connection until it ends. The caller has set `TCP_NODELAY`.
pub async fn serve_connection<B, I>(io: I, state: Arc<ApiState<B>>, peer: Option<SocketAddr>)
where
    B: Backend,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(_slot) = Slot::take(&state) else { return refuse(io).await };
    let options = &state.options;
    let watch = HeadWatch::new();
    let patience = Patience { write: options.write_timeout, linger: options.linger };
    let wire = Wire::new(io, Arc::clone(&watch), patience);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_BUFFER)
        // A caller that closes its side has gone: its invocation is dropped.
        .half_close(false);
    let mut draining = state.draining.subscribe();
    let connection = Arc::new(Connection { state: Arc::clone(&state), watch, peer });
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(answer(&connection, request).await) }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(wire), service));
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = drained(&mut draining) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(peer = ?peer, error = %e, "connection ended");
    }
}

/// Waits until the server drains.
pub(crate) async fn drained(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|now| *now).await;
}

/// A place among the connections of this server.
struct Slot<'a, B>(&'a ApiState<B>);

impl<'a, B> Slot<'a, B> {
    fn take(state: &'a ApiState<B>) -> Option<Self> {
        let slot = Slot(state);
        (state.connections.fetch_add(1, Ordering::Relaxed) < state.options.max_connections).then_some(slot)
    }
}

impl<B> Drop for Slot<'_, B> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn refuse<I: AsyncWrite + Unpin>(mut io: I) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 61\r\n\
        Retry-After: 1\r\nConnection: close\r\n\r\n{\"error\":\"this server has as many connections as it allows\"}\n";
    let said = async {
        let _ = io.write_all(FULL).await;
        let _ = io.shutdown().await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
}

/// The net: whatever happens inside, the caller gets an answer and the server goes on.
async fn answer<B: Backend>(connection: &Connection<B>, request: Request<Incoming>) -> Reply {
    let dialect = dialect_of(&request);
    let mut inner = pin!(admit(connection, request));
    let result = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(_) => {
            let message = "this request met a bug in the server";
            let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Internal.code(), message);
            Poll::Ready(Err(refusal.closing()))
        }
    })
    .await;
    result.unwrap_or_else(|refusal| refusal.into_reply(dialect))
}

/// The family of routes that a request is for, as far as its head says.
fn dialect_of(request: &Request<Incoming>) -> Dialect {
    match request.uri().path() {
        path if path.starts_with(native::PREFIX) => return Dialect::Native,
        path if lambda::is_ours(path) => return Dialect::Lambda,
        _ => {}
    }
    match aws::door(aws::Head { method: request.method(), uri: request.uri(), headers: request.headers() }) {
        Some(door) => Dialect::Aws { xml: aws::speaks_xml(&door) },
        None => Dialect::Glambdar,
    }
}

async fn admit<B: Backend>(connection: &Connection<B>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let faults = connection.watch.take();
    let (parts, body) = request.into_parts();
    let state = &connection.state;
    guard::check(&parts, faults, &state.options.hosts)?;
    if body.is_end_stream() {
        connection.watch.rearm();
    }
    let (credential, signer, kept, peer) = (Vec::new(), None, None, connection.peer);
    let call = Call { state, parts, credential, peer, signer, body: Some(body), kept, watch: &connection.watch };
    route(call).await
}

async fn route<B: Backend>(mut call: Call<'_, B>) -> Result<Reply, Refusal> {
    // What belongs to a function's URL is the function's, whatever its path; who may call it, the URL says.
    if let Some(id) = function_url::id_of(&call.parts) {
        return Ok(Box::pin(function_url::serve(call, &id)).await);
    }
    let path = call.parts.uri.path();
    if path.starts_with(lambda::ARCHIVES) {
        return Ok(lambda::archive(call).await);
    }
    if let Some(reply) = ops::open(path, &call)? {
        return Ok(reply);
    }
    call.credential = signed::admit(&mut call).await?;
    let path = call.parts.uri.path();
    if path.starts_with(glambdar::INVOKE) {
        return glambdar::invoke(call).await;
    }
    if path.starts_with(native::PREFIX) {
        return native::route(call).await;
    }
    if lambda::is_ours(path) {
        return Ok(lambda::route(call).await);
    }
    if let Some(door) = aws::door(aws::Head::of(&call.parts)) {
        return Box::pin(aws::route(call, door)).await;
    }
    if path == "/metrics" {
        return ops::metrics(&call);
    }
    // The routes of people and tools: their futures are large and their speed is not what counts.
    Box::pin(glambdar::route(call)).await
}
