//! What the rest of the program gets: the server's part and the clients' part of the configuration, as values that need no
//! further reading.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use offshoot_model::{Limits, Millis, Place, RuntimeName};
use tracing::level_filters::LevelFilter;

use super::token::{TokenFile, weakness};
use crate::cli::error::CliError;

/// Everything that the server needs to know.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What callers have to show; `None` = nothing, which only a loopback address allows.
    pub token: Option<Secret>,
    /// The file that the token was read from, if it was.
    pub token_file: Option<TokenFile>,
    /// How callers show who they are.
    pub auth: Auth,
    /// Where everything durable is kept.
    pub data_dir: PathBuf,
    /// The least important diagnostics that are written.
    pub log: LevelFilter,
    /// How diagnostics are written.
    pub log_format: LogFormat,
    /// Runtimes whose template boots with the server.
    pub warm_runtimes: WarmRuntimes,
    /// Whether a function may run on the nearest version of its language when its own is missing.
    pub allow_nearest_runtime: bool,
    /// Whether functions are accepted, shown and changed that this machine cannot run.
    pub accept_unrunnable: bool,
    /// Directories in which runtimes are looked for, before the usual ones.
    pub runtime_paths: Vec<PathBuf>,
    /// How long an idle instance is kept.
    pub keep_alive: Millis,
    /// How long the template of a function without instances is kept; `None` = always.
    pub template_keep_alive: Option<Millis>,
    /// How long an instance is idle before it is frozen; `None` = never.
    pub freeze_after: Option<Millis>,
    /// Whether instances are started ahead of expected calls.
    pub prewarm: bool,
    /// How many clones of each language template are made ahead of need.
    pub spares: u32,
    /// Sandbox features whose absence the operator accepts (names from `DEGRADABLE`).
    pub allow_degraded: Vec<String>,
    /// User ids that instances run under.
    pub uid_range: RangeInclusive<u32>,
    /// The cgroup under which instances are placed; `None` = found by the server.
    pub cgroup_root: Option<PathBuf>,
    /// How long running invocations may finish after the signal to stop.
    pub drain: Millis,
    /// The region and the account that functions are told, and that AWS clients see.
    pub place: Place,
    /// Where code is fetched that AWS clients say lies in S3: `HOST:PORT`; `None` = it is not.
    pub s3_endpoint: Option<String>,
    /// Wait before the first retry of an asynchronous invocation; the other waits follow from it.
    pub async_retry_base: Millis,
    /// Where queues are reached that speak SQS's protocol.
    pub sqs_endpoint: Option<ServerUrl>,
    /// Where streams are reached that speak Kinesis' protocol.
    pub kinesis_endpoint: Option<ServerUrl>,
    /// Where streams of tables are reached that speak DynamoDB Streams' protocol.
    pub dynamodb_streams_endpoint: Option<ServerUrl>,
    /// Where subnets and security groups are asked for that functions name.
    pub ec2_endpoint: Option<ServerUrl>,
    /// Where topics are that destinations and dead letters name.
    pub sns_endpoint: Option<ServerUrl>,
    /// Where event buses are that destinations name.
    pub eventbridge_endpoint: Option<ServerUrl>,
    /// The access key that requests to queues and streams are signed with.
    pub aws_access_key_id: Option<String>,
    /// Its secret.
    pub aws_secret_access_key: Option<Secret>,
    /// Where requests for AWS services go that this server does not have.
    pub aws_fallback: Option<ServerUrl>,
    /// Where records of asynchronous invocations may be sent over HTTP.
    pub http_destinations: Vec<ServerUrl>,
    /// All limits.
    pub limits: Limits,
}

impl ServeConfig {
    /// Refuses half an access key: nothing could be signed with it.
    pub fn check_access_key(&self) -> Result<(), CliError> {
        let (have, lacks) = match (&self.aws_access_key_id, &self.aws_secret_access_key) {
            (Some(_), None) => ("aws_access_key_id", "aws_secret_access_key"),
            (None, Some(_)) => ("aws_secret_access_key", "aws_access_key_id"),
            _ => return Ok(()),
        };
        Err(CliError::config(format!("{have} is set and {lacks} is not: requests are signed with both"))
            .hint(format!("set OFFSHOOT_{} too, or neither", lacks.to_uppercase())))
    }

    /// Refuses what must not be served: an address that others can reach, open to everyone.
    pub fn check(&self) -> Result<(), CliError> {
        let file = self.data_dir.join("token");
        let (named, closed) = (self.token.is_some(), self.auth != Auth::None);
        if matches!(self.auth, Auth::SigV4 | Auth::Token) && !named {
            let what = "this way of authentication (auth) needs a token: with it access keys are made, and it still opens everything";
            let make = format!("make one: {} and start again", make_token(&file));
            return Err(CliError::config(what.to_owned()).hint(make));
        }
        if let Some(file) = self.token_file.as_ref().filter(|file| closed && file.is_written_by_all()) {
            let what = format!("everybody on this machine may write the token file {}", file.path().display());
            return Err(CliError::config(what).hint(file.cure()));
        }
        if named && closed || self.listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(CliError::config(format!(
            "listening on {} without a token would let everyone who reaches this machine deploy code to it",
            self.listen
        ))
        .hint(format!(
            "make one: {0} and start again, or name a file with --token-file, or listen on 127.0.0.1",
            make_token(&file)
        )))
    }
}

impl ServeConfig {
    /// What is served all the same, and should not stay so: what it is, and what to do about it.
    pub fn remarks(&self) -> Vec<(String, String)> {
        let mut remarks = Vec::new();
        if self.auth == Auth::None {
            return remarks;
        }
        // Secrets of container engines are files like that, so it is no reason to refuse.
        if let Some(file) = self.token_file.as_ref().filter(|file| file.is_read_by_all()) {
            let what = format!("everybody on this machine may read the token file {}", file.path().display());
            remarks.push((what, file.cure()));
        }
        let weak = self.token.as_ref().and_then(|token| weakness(token.expose()));
        if let Some(why) = weak.filter(|_| !self.listen.ip().to_canonical().is_loopback()) {
            let what = format!("others reach {}, and the token {why}: it can be guessed", self.listen);
            remarks.push((what, format!("make a better one: {}", make_token(&self.data_dir.join("token")))));
        }
        remarks
    }
}

/// What to type for a token that nobody else can read.
fn make_token(file: &std::path::Path) -> String {
    let dir = file.parent().unwrap_or(file);
    format!("(umask 077; mkdir -p {}; openssl rand -hex 32 > {})", dir.display(), file.display())
}

/// Everything that a client needs to know.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The server.
    pub server: ServerUrl,
    /// What to show it.
    pub token: Option<Secret>,
    /// The limits that packages are checked against before they are sent.
    pub limits: Limits,
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// The value, for the one place that compares or sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(set)")
    }
}

/// How callers show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// With the token, when there is one.
    Usual,
    /// Not at all, whatever token there is.
    None,
    /// With the token.
    Token,
    /// With the token, or with a signature made with an access key.
    SigV4,
}

impl Auth {
    pub(super) fn name(self) -> &'static str {
        match self {
            Auth::Usual => "usual",
            Auth::None => "none",
            Auth::Token => "token",
            Auth::SigV4 => "sigv4",
        }
    }
}

/// How diagnostics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Runtimes whose template boots with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmRuntimes {
    /// Those that a deployed function uses.
    Used,
    /// Every runtime that this machine has.
    All,
    /// None: the first cold start boots its template.
    None,
    /// These.
    Only(Vec<RuntimeName>),
}

/// Where a server answers: `http://host:port`, perhaps with a path in front of all routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path before every route: empty, or `/…` without a slash at the end.
    pub prefix: String,
}

impl ServerUrl {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err(format!(
                "'{text}': this client speaks http only; reach the server through a tunnel or a local proxy"
            ));
        }
        let wrong = || format!("'{text}' is not a server address: write http://HOST:PORT");
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri = http::Uri::from_str(&full).map_err(|_| wrong())?;
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(wrong)?;
        if uri.scheme_str() != Some("http")
            || uri.query().is_some()
            || uri.authority().is_some_and(|a| a.as_str().contains('@'))
        {
            return Err(wrong());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(ServerUrl { host, port: uri.port_u16().unwrap_or(80), prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Reads the address of something below a server: the prefix is its whole path with its query.
    pub fn parse_with_query(text: &str) -> Option<Self> {
        let (base, query) = text.split_once('?').map_or((text, None), |(base, query)| (base, Some(query)));
        let mut url = ServerUrl::parse(base).ok().filter(|_| base.starts_with("http://"))?;
        if let Some(query) = query {
            let slash = if url.prefix.is_empty() { "/" } else { "" };
            url.prefix = format!("{}{slash}?{query}", url.prefix);
        }
        Some(url)
    }

    /// The server that listens on this address, as seen from the same machine.
    pub fn of_listener(listen: SocketAddr) -> Self {
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        ServerUrl { host: ip.to_string(), port: listen.port(), prefix: String::new() }
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// `host:port`, as the `Host` header has it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.prefix)
    }
}
