//! How the world talks to a node: HTTP/1.1 on top of hyper, in three dialects on one port. Glambdar's routes (`glambdar`),
//! the native ones under `/v1/` (`native`) and AWS Lambda's under a date (`lambda`) translate to the verbs of `Backend`; `guard`
//! and `auth` stand before all of them.
//!
//! This floor holds no policy and no state of its own beyond its open connections. It never parses a function's code, never
//! starts anything, and trusts no byte: not the caller's, and not the function's.

mod admin;
mod auth;
mod aws;
mod body;
mod connection;
mod error;
mod eventstream;
mod function_url;
mod glambdar;
mod guard;
mod ids;
mod invoke;
mod keys;
mod lambda;
mod multipart;
mod native;
mod ops;
mod queue;
mod reply;
mod settings;
mod signed;
pub mod sigv4;
mod stream;
mod text;
mod wire;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Error, FunctionName, Invocation, Limits, Outcome};
use offshoot_node::queue::QueuedCall;
use offshoot_node::{
    Catalog, DeployRequest, Deployed, Durable, Keyring, Load, LogStore, Metrics, Queue, Roles, Settings, Streamed,
    Version,
};
use tokio::sync::{Semaphore, watch};

pub use aws::Fallback;
pub use connection::serve_connection;

/// What this floor stands on: the node's verbs. Every future may be dropped at any point, when the caller hangs up.
pub trait Backend: Send + Sync + 'static {
    /// Makes or replaces a function. The archive is removed when this returns or is dropped. `load`: the function is loaded
    /// once, to see whether it can be.
    fn deploy(&self, request: DeployRequest, load: Load) -> impl Future<Output = Result<Deployed, Error>> + Send;
    /// Changes a function's settings.
    fn configure(
        &self,
        name: &FunctionName,
        settings: Settings,
    ) -> impl Future<Output = Result<Deployed, Error>> + Send;
    /// Deletes a function, with its log and its metrics.
    fn delete(&self, name: &FunctionName) -> impl Future<Output = Result<(), Error>> + Send;
    /// Every function, by name. From memory.
    fn list(&self) -> Vec<Arc<Version>>;
    /// One function. From memory: it is asked for on every invocation.
    fn get(&self, name: &FunctionName) -> Option<Arc<Version>>;
    /// Runs a function. A refusal for its rate limit has a message that starts with `rate limit`.
    fn invoke(&self, invocation: Invocation<Bytes>) -> impl Future<Output = Result<Outcome<Bytes>, Error>> + Send;
    /// The same, with an answer that may come in pieces.
    fn invoke_streaming(&self, invocation: Invocation<Bytes>) -> impl Future<Output = Result<Streamed, Error>> + Send {
        async move { self.invoke(invocation).await.map(Streamed::Whole) }
    }
    /// What AWS's dialect knows of functions besides what runs.
    fn catalog(&self) -> &Arc<Catalog>;
    /// Instances of a published version that are there now.
    fn instances(&self, version: &Version) -> u32;
    /// Asynchronous invocations.
    fn queue(&self) -> &Queue;
    /// Takes an invocation that is to be made later. When this returns `Ok`, it is durable and will be made.
    fn enqueue(&self, call: QueuedCall) -> impl Future<Output = Result<(), Error>> + Send {
        self.queue().accept(call)
    }
    /// Durable executions.
    fn durable(&self) -> &Durable;
    /// The access keys.
    fn keys(&self) -> &Keyring;
    /// The roles that clients wrote.
    fn roles(&self) -> &Roles;
    /// The logs.
    fn logs(&self) -> &LogStore;
    /// The metrics.
    fn metrics(&self) -> &Metrics;
    /// The limits.
    fn limits(&self) -> &Limits;
    /// Where uploads are spooled: on a disk with room for them, not in memory.
    fn tmp_dir(&self) -> &Path;
    /// Whether new work is taken: `/readyz`.
    fn ready(&self) -> bool;
}

/// What the server's configuration says about this floor.
#[derive(Debug, Clone)]
pub struct Options {
    /// The token that every request must carry, apart from the health routes.
    pub token: Option<String>,
    /// Whether requests that are signed with an access key may pass in place of those with the token.
    pub sigv4: bool,
    /// Where requests for AWS services go that this server does not have.
    pub aws_fallback: Option<Fallback>,
    /// Host names that the server answers for, besides `localhost`, `*.localhost` and IP addresses.
    pub hosts: Vec<String>,
    /// Most connections at once.
    pub max_connections: usize,
    /// Longest time for a request's head, and longest idle time of a connection.
    pub head_timeout: Duration,
    /// In each such time a body must bring 4 KiB or end.
    pub body_timeout: Duration,
    /// In each such time a caller that is behind must take 64 KiB of its answer.
    pub write_timeout: Duration,
    /// How long a closing connection waits for the caller to stop sending.
    pub linger: Duration,
    /// Where code that lies in S3 is fetched: `host:port` of a server that speaks S3 over HTTP.
    pub s3_endpoint: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            token: None,
            sigv4: false,
            aws_fallback: None,
            hosts: Vec::new(),
            max_connections: 4096,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            s3_endpoint: None,
        }
    }
}

/// Everything that the connections of one server share.
pub struct ApiState<B> {
    backend: B,
    options: Options,
    connections: AtomicUsize,
    draining: watch::Sender<bool>,
    /// Signs links to archives; made when it is first needed.
    secret: OnceLock<[u8; 32]>,
    /// Signatures that were used.
    seen: Mutex<sigv4::Seen>,
    /// Memory for bodies that a signature covers.
    held: Arc<Semaphore>,
}

impl<B: Backend> ApiState<B> {
    /// The state of a server on this backend.
    pub fn new(backend: B, options: Options) -> Arc<Self> {
        Arc::new(ApiState {
            backend,
            options,
            connections: AtomicUsize::new(0),
            draining: watch::Sender::new(false),
            secret: OnceLock::new(),
            seen: Mutex::default(),
            held: Arc::new(Semaphore::new(signed::HELD_MIB)),
        })
    }

    /// The node's verbs.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Where code that lies in S3 is fetched.
    pub(crate) fn s3_endpoint(&self) -> Option<&str> {
        self.options.s3_endpoint.as_deref()
    }

    /// Whether access keys count.
    pub(crate) fn checks_signatures(&self) -> bool {
        self.options.sigv4
    }

    /// The token that requests must carry, if any.
    pub(crate) fn token(&self) -> Option<&str> {
        self.options.token.as_deref()
    }

    /// A secret of this process.
    pub(crate) fn secret(&self) -> Result<&[u8; 32], Error> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let mut fresh = [0; 32];
        fresh[..16].copy_from_slice(&ids::random()?);
        fresh[16..].copy_from_slice(&ids::random()?);
        Ok(self.secret.get_or_init(|| fresh))
    }

    /// Asks every connection to end after the request that it is serving; new requests on it are not read.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
