//! Every setting in one table, and the only reader of the process environment and of configuration files.
//!
//! A setting can be given as a flag, as an `OFFSHOOT_*` variable and in a file. A flag wins over the environment, the
//! environment over files, and among files the project's (`./offshoot.toml`) over the user's
//! (`$XDG_CONFIG_HOME/offshoot/config.toml`) over the machine's (`/etc/offshoot/config.toml`). `--config FILE` or
//! `OFFSHOOT_CONFIG` replaces these three by one. Nothing here is guessed: a name that is not in the table is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use offshoot_model::{Limits, Millis, Place, RuntimeName};
use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};
use tracing::level_filters::LevelFilter;

use crate::cli::error::CliError;
use crate::cli::units::{nearest, parse_bytes, parse_millis};

/// The file that names the configuration instead of the three usual ones.
const CONFIG_VARIABLE: &str = "OFFSHOOT_CONFIG";
/// The port that is used when an address names none.
const DEFAULT_PORT: u16 = 9000;
/// Missing sandbox features that an operator can accept.
pub const DEGRADABLE: &[&str] = &["cgroup", "landlock", "uid", "userns"];

// ── What the rest of the program gets ────────────────────────────────────────────────────────────────────────────────

/// Everything that the server needs to know.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What callers have to show; `None` = nothing, which only a loopback address allows.
    pub token: Option<Secret>,
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
    /// Directories in which runtimes are looked for, before the usual ones.
    pub runtime_paths: Vec<PathBuf>,
    /// How long an idle instance is kept.
    pub keep_alive: Millis,
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
    /// Refuses what must not be served: an address that others can reach, open to everyone.
    pub fn check(&self) -> Result<(), CliError> {
        let file = self.data_dir.join("token");
        let (named, closed) = (self.token.is_some(), self.auth != Auth::None);
        if matches!(self.auth, Auth::SigV4 | Auth::Token) && !named {
            let what = "this way of authentication (auth) needs a token: with it access keys are made, and it still opens everything";
            let make = format!("make one: {} and start again", make_token(&file));
            return Err(CliError::config(what.to_owned()).hint(make));
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
pub struct Secret(String);

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
    fn name(self) -> &'static str {
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
    fn parse(text: &str) -> Result<Self, String> {
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
    fn of_listener(listen: SocketAddr) -> Self {
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

/// Where a value comes from. The order is the precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A file and a line of it.
    File(PathBuf, usize, FileRank),
    /// A variable of the environment.
    Env(&'static str),
    /// A flag.
    Flag(&'static str),
}

/// The precedence among files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileRank {
    /// `/etc/offshoot/config.toml`.
    System,
    /// `$XDG_CONFIG_HOME/offshoot/config.toml`.
    User,
    /// `./offshoot.toml`.
    Project,
    /// The file that `--config` or `OFFSHOOT_CONFIG` names.
    Named,
}

impl Origin {
    fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File(_, _, rank) => 1 + *rank as u8,
            Origin::Env(_) => 5,
            Origin::Flag(_) => 6,
        }
    }
}
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line, _) => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

// ── The environment ──────────────────────────────────────────────────────────────────────────────────────────────────

/// The process environment and working directory, read once.
#[derive(Debug, Clone, Default)]
pub struct Env {
    vars: BTreeMap<String, String>,
    /// The working directory.
    pub cwd: PathBuf,
}

impl Env {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let vars = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
        Env { vars, cwd: std::env::current_dir().unwrap_or_default() }
    }
    /// A variable, unless it is unset or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
    /// An environment of these variables alone.
    #[cfg(test)]
    pub fn of_pairs(vars: &[(&str, &str)]) -> Self {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Env { vars, ..Env::default() }
    }
    fn dir(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
    fn user_dir(&self, xdg: &str, in_home: &str) -> Option<PathBuf> {
        self.dir(xdg).or_else(|| self.dir("HOME").map(|home| home.join(in_home))).map(|dir| dir.join("offshoot"))
    }
    fn data_dir(&self) -> PathBuf {
        let systemd = self.get("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').next()).map(PathBuf::from);
        let user = || self.user_dir("XDG_DATA_HOME", ".local/share");
        systemd.filter(|dir| dir.is_absolute()).or_else(user).unwrap_or_else(|| PathBuf::from("/var/lib/offshoot"))
    }
    fn files(&self) -> Vec<(PathBuf, FileRank)> {
        let mut files = vec![(PathBuf::from("/etc/offshoot/config.toml"), FileRank::System)];
        if let Some(dir) = self.user_dir("XDG_CONFIG_HOME", ".config") {
            files.push((dir.join("config.toml"), FileRank::User));
        }
        files.push((self.cwd.join("offshoot.toml"), FileRank::Project));
        files
    }
}

// ── The table ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Which verbs take a setting as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Serve,
    Client,
    Both,
}

/// One setting: its three names, what it takes, and how it is stored and shown.
pub struct Setting {
    /// The name in files; `limits.x` is `x` in the table `[limits]`.
    pub key: &'static str,
    /// The flag, without dashes.
    pub flag: &'static str,
    /// The variable.
    pub env: &'static str,
    takes: Takes,
    scope: Scope,
    help: &'static str,
    set: fn(&mut Draft, &Raw) -> Result<(), String>,
    get: fn(&Draft) -> Value,
}

enum Takes {
    One(&'static str),
    List(&'static str),
    Bool,
    Word(&'static [&'static str]),
}

/// The values while they are being gathered.
#[derive(Debug, Clone)]
struct Draft {
    serve: ServeConfig,
    port: Option<u16>,
    server: Option<ServerUrl>,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
}

/// A value as it was written, and the directory that relative paths in it count from.
struct Raw<'a> {
    items: &'a [String],
    base: &'a Path,
}

impl Raw<'_> {
    fn one(&self) -> Result<&str, String> {
        match self.items {
            [one] => Ok(one.trim()),
            _ => Err("exactly one value is expected".to_owned()),
        }
    }
    fn path(&self) -> Result<PathBuf, String> {
        match self.one()? {
            "" => Err("a path is expected".to_owned()),
            path => Ok(self.base.join(path)),
        }
    }
    fn flag(&self) -> Result<bool, String> {
        match self.one()?.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "1" => Ok(true),
            "false" | "off" | "no" | "0" => Ok(false),
            other => Err(format!("'{other}' is neither true nor false")),
        }
    }
    fn number<T: FromStr>(&self) -> Result<T, String> {
        let text = self.one()?;
        text.replace('_', "").parse().map_err(|_| format!("'{text}' is not a whole number in range"))
    }
    fn millis(&self) -> Result<Millis, String> {
        parse_millis(self.one()?, 1).map(Millis)
    }
}

/// A row for a limit: the field of `Limits`, how it is read, what it is.
macro_rules! limit {
    ($field:ident, $flag:literal, $env:literal, $value:literal, $read:expr, $help:literal) => {
        Setting {
            key: concat!("limits.", stringify!($field)),
            flag: $flag,
            env: $env,
            takes: Takes::One($value),
            scope: Scope::Serve,
            help: $help,
            set: |d, raw| {
                let read: fn(&Raw) -> Result<_, String> = $read;
                d.serve.limits.$field = read(raw)?;
                Ok(())
            },
            get: |d| json!(d.serve.limits.$field),
        }
    };
}

/// Every setting.
pub static SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        flag: "listen",
        env: "OFFSHOOT_LISTEN",
        takes: Takes::One("ADDR:PORT"),
        scope: Scope::Serve,
        help: "Where to listen; :PORT alone means 127.0.0.1. Any other address than loopback needs a token",
        set: |d, raw| parse_listen(raw.one()?).map(|listen| d.serve.listen = listen),
        get: |d| json!(d.serve.listen.to_string()),
    },
    Setting {
        key: "port",
        flag: "port",
        env: "OFFSHOOT_PORT",
        takes: Takes::One("PORT"),
        scope: Scope::Serve,
        help: "Replaces the port of the listen address",
        set: |d, raw| raw.number().map(|port| d.port = Some(port)),
        get: |d| json!(d.port),
    },
    Setting {
        key: "server",
        flag: "server",
        env: "OFFSHOOT_SERVER",
        takes: Takes::One("URL"),
        scope: Scope::Client,
        help: "The server to talk to; default: the listen address on this machine",
        set: |d, raw| ServerUrl::parse(raw.one()?).map(|server| d.server = Some(server)),
        get: |d| json!(d.server.as_ref().map(ServerUrl::to_string)),
    },
    Setting {
        key: "token",
        flag: "token",
        env: "OFFSHOOT_TOKEN",
        takes: Takes::One("TOKEN"),
        scope: Scope::Both,
        help: "What callers have to show. Prefer token_file: flags are visible in the list of processes",
        set: |d, raw| parse_token(raw.one()?).map(|token| d.token = Some(token)),
        get: |d| json!(d.serve.token.as_ref().map(|_| "(set)")),
    },
    Setting {
        key: "token_file",
        flag: "token-file",
        env: "OFFSHOOT_TOKEN_FILE",
        takes: Takes::One("FILE"),
        scope: Scope::Both,
        help: "A file that holds the token; default: the file 'token' in the data directory, when there is one",
        set: |d, raw| raw.path().map(|path| d.token_file = Some(path)),
        get: |d| json!(d.token_file),
    },
    Setting {
        key: "auth",
        flag: "auth",
        env: "OFFSHOOT_AUTH",
        takes: Takes::Word(&["usual", "none", "token", "sigv4"]),
        scope: Scope::Serve,
        help: "How callers show who they are: usual (with the token, when there is one), none, token, sigv4 (signatures as for AWS, and the token)",
        set: |d, raw| parse_auth(raw.one()?).map(|auth| d.serve.auth = auth),
        get: |d| json!(d.serve.auth.name()),
    },
    Setting {
        key: "data_dir",
        flag: "data-dir",
        env: "OFFSHOOT_DATA_DIR",
        takes: Takes::One("DIR"),
        scope: Scope::Both,
        help: "Where everything durable is kept; default: $STATE_DIRECTORY, else $XDG_DATA_HOME/offshoot",
        set: |d, raw| raw.path().map(|path| d.serve.data_dir = path),
        get: |d| json!(d.serve.data_dir),
    },
    Setting {
        key: "log",
        flag: "log",
        env: "OFFSHOOT_LOG",
        takes: Takes::Word(&["off", "error", "warn", "info", "debug", "trace"]),
        scope: Scope::Serve,
        help: "The least important diagnostics that are written",
        set: |d, raw| parse_level(raw.one()?).map(|level| d.serve.log = level),
        get: |d| json!(d.serve.log.to_string()),
    },
    Setting {
        key: "log_format",
        flag: "log-format",
        env: "OFFSHOOT_LOG_FORMAT",
        takes: Takes::Word(&["text", "json"]),
        scope: Scope::Serve,
        help: "How diagnostics are written",
        set: |d, raw| parse_log_format(raw.one()?).map(|format| d.serve.log_format = format),
        get: |d| json!(if d.serve.log_format == LogFormat::Json { "json" } else { "text" }),
    },
    Setting {
        key: "warm_runtimes",
        flag: "warm-runtimes",
        env: "OFFSHOOT_WARM_RUNTIMES",
        takes: Takes::List("used|all|none|NAME,…"),
        scope: Scope::Serve,
        help: "Runtimes whose template boots ahead of the first start: those of deployed functions, all, none, or these",
        set: |d, raw| parse_warm(raw.items).map(|warm| d.serve.warm_runtimes = warm),
        get: |d| show_warm(&d.serve.warm_runtimes),
    },
    Setting {
        key: "allow_nearest_runtime",
        flag: "allow-nearest-runtime",
        env: "OFFSHOOT_ALLOW_NEAREST_RUNTIME",
        takes: Takes::Bool,
        scope: Scope::Serve,
        help: "Run a function on the nearest version of its language when this machine lacks its own",
        set: |d, raw| raw.flag().map(|on| d.serve.allow_nearest_runtime = on),
        get: |d| json!(d.serve.allow_nearest_runtime),
    },
    Setting {
        key: "runtime_paths",
        flag: "runtime-paths",
        env: "OFFSHOOT_RUNTIME_PATHS",
        takes: Takes::List("DIR,…"),
        scope: Scope::Serve,
        help: "Directories in which runtimes are looked for, before the usual ones",
        set: |d, raw| {
            d.serve.runtime_paths = raw.items.iter().map(|dir| raw.base.join(dir)).collect();
            Ok(())
        },
        get: |d| json!(d.serve.runtime_paths),
    },
    Setting {
        key: "keep_alive_ms",
        flag: "keep-alive-ms",
        env: "OFFSHOOT_KEEP_ALIVE_MS",
        takes: Takes::One("MS"),
        scope: Scope::Serve,
        help: "How long an idle instance is kept",
        set: |d, raw| raw.millis().map(|time| d.serve.keep_alive = time),
        get: |d| json!(d.serve.keep_alive),
    },
    Setting {
        key: "freeze_after_ms",
        flag: "freeze-after-ms",
        env: "OFFSHOOT_FREEZE_AFTER_MS",
        takes: Takes::One("MS"),
        scope: Scope::Serve,
        help: "How long an instance is idle before it is frozen; 0 = never",
        set: |d, raw| raw.millis().map(|time| d.serve.freeze_after = (time.0 > 0).then_some(time)),
        get: |d| json!(d.serve.freeze_after.map_or(0, |time| time.0)),
    },
    Setting {
        key: "prewarm",
        flag: "prewarm",
        env: "OFFSHOOT_PREWARM",
        takes: Takes::Bool,
        scope: Scope::Serve,
        help: "Start instances ahead of expected calls",
        set: |d, raw| raw.flag().map(|on| d.serve.prewarm = on),
        get: |d| json!(d.serve.prewarm),
    },
    Setting {
        key: "spares",
        flag: "spares",
        env: "OFFSHOOT_SPARES",
        takes: Takes::One("CLONES"),
        scope: Scope::Serve,
        help: "Clones of each language template made ahead of need, in boxes that wait for a function; a few MB each",
        set: |d, raw| raw.number().map(|count: u32| d.serve.spares = count),
        get: |d| json!(d.serve.spares),
    },
    Setting {
        key: "allow_degraded",
        flag: "allow-degraded",
        env: "OFFSHOOT_ALLOW_DEGRADED",
        takes: Takes::List("FEATURE,…"),
        scope: Scope::Serve,
        help: "Sandbox features whose absence you accept: cgroup, landlock, uid, userns",
        set: |d, raw| parse_degraded(raw.items).map(|features| d.serve.allow_degraded = features),
        get: |d| json!(d.serve.allow_degraded),
    },
    Setting {
        key: "uid_range",
        flag: "uid-range",
        env: "OFFSHOOT_UID_RANGE",
        takes: Takes::One("FIRST-LAST"),
        scope: Scope::Serve,
        help: "User ids that instances run under; nothing else on this machine may use them",
        set: |d, raw| parse_uids(raw.one()?).map(|range| d.serve.uid_range = range),
        get: |d| json!(format!("{}-{}", d.serve.uid_range.start(), d.serve.uid_range.end())),
    },
    Setting {
        key: "cgroup_root",
        flag: "cgroup-root",
        env: "OFFSHOOT_CGROUP_ROOT",
        takes: Takes::One("DIR|auto"),
        scope: Scope::Serve,
        help: "The cgroup under which instances are placed",
        set: |d, raw| {
            d.serve.cgroup_root = if raw.one()? == "auto" { None } else { Some(raw.path()?) };
            Ok(())
        },
        get: |d| d.serve.cgroup_root.as_ref().map_or(json!("auto"), |dir| json!(dir)),
    },
    Setting {
        key: "region",
        flag: "region",
        env: "OFFSHOOT_REGION",
        takes: Takes::One("REGION"),
        scope: Scope::Serve,
        help: "The AWS region that functions and AWS clients are told",
        set: |d, raw| {
            let place = &d.serve.place;
            d.serve.place = Place::new(raw.one()?, &place.account).map_err(|e| e.message)?;
            Ok(())
        },
        get: |d| json!(d.serve.place.region),
    },
    Setting {
        key: "account",
        flag: "account",
        env: "OFFSHOOT_ACCOUNT",
        takes: Takes::One("ID"),
        scope: Scope::Serve,
        help: "The AWS account that functions and AWS clients are told: twelve digits",
        set: |d, raw| {
            let place = &d.serve.place;
            d.serve.place = Place::new(&place.region, raw.one()?).map_err(|e| e.message)?;
            Ok(())
        },
        get: |d| json!(d.serve.place.account),
    },
    Setting {
        key: "s3_endpoint",
        flag: "s3-endpoint",
        env: "OFFSHOOT_S3_ENDPOINT",
        takes: Takes::One("HOST:PORT"),
        scope: Scope::Serve,
        help: "A server that speaks S3 over http, from which code given as S3Bucket and S3Key is fetched without credentials",
        set: |d, raw| {
            let server = ServerUrl::parse(raw.one()?)?;
            d.serve.s3_endpoint = Some(server.authority());
            Ok(())
        },
        get: |d| json!(d.serve.s3_endpoint),
    },
    Setting {
        key: "drain_ms",
        flag: "drain-ms",
        env: "OFFSHOOT_DRAIN_MS",
        takes: Takes::One("MS"),
        scope: Scope::Serve,
        help: "How long running invocations may finish after the signal to stop",
        set: |d, raw| raw.millis().map(|time| d.serve.drain = time),
        get: |d| json!(d.serve.drain),
    },
    Setting {
        key: "async_retry_base_ms",
        flag: "async-retry-base-ms",
        env: "OFFSHOOT_ASYNC_RETRY_BASE_MS",
        takes: Takes::One("MS"),
        scope: Scope::Serve,
        help: "Wait before the first retry of an asynchronous invocation; twice that before the second",
        set: |d, raw| raw.millis().map(|time| d.serve.async_retry_base = time),
        get: |d| json!(d.serve.async_retry_base),
    },
    Setting {
        key: "sqs_endpoint",
        flag: "sqs-endpoint",
        env: "OFFSHOOT_SQS_ENDPOINT",
        takes: Takes::One("URL"),
        scope: Scope::Serve,
        help: "Where queues are that speak SQS's protocol: for event source mappings, and for destinations and dead letters",
        set: |d, raw| ServerUrl::parse(raw.one()?).map(|url| d.serve.sqs_endpoint = Some(url)),
        get: |d| json!(d.serve.sqs_endpoint.as_ref().map(ServerUrl::to_string)),
    },
    Setting {
        key: "kinesis_endpoint",
        flag: "kinesis-endpoint",
        env: "OFFSHOOT_KINESIS_ENDPOINT",
        takes: Takes::One("URL"),
        scope: Scope::Serve,
        help: "Where streams are that speak Kinesis' protocol, for event source mappings",
        set: |d, raw| ServerUrl::parse(raw.one()?).map(|url| d.serve.kinesis_endpoint = Some(url)),
        get: |d| json!(d.serve.kinesis_endpoint.as_ref().map(ServerUrl::to_string)),
    },
    Setting {
        key: "dynamodb_streams_endpoint",
        flag: "dynamodb-streams-endpoint",
        env: "OFFSHOOT_DYNAMODB_STREAMS_ENDPOINT",
        takes: Takes::One("URL"),
        scope: Scope::Serve,
        help: "Where streams of tables are that speak DynamoDB Streams' protocol, for event source mappings",
        set: |d, raw| ServerUrl::parse(raw.one()?).map(|url| d.serve.dynamodb_streams_endpoint = Some(url)),
        get: |d| json!(d.serve.dynamodb_streams_endpoint.as_ref().map(ServerUrl::to_string)),
    },
    Setting {
        key: "aws_access_key_id",
        flag: "aws-access-key-id",
        env: "OFFSHOOT_AWS_ACCESS_KEY_ID",
        takes: Takes::One("ID"),
        scope: Scope::Serve,
        help: "The id of the access key that requests to queues and streams are signed with; without one they are signed by nobody",
        set: |d, raw| {
            let id = raw.one()?;
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err("an access key's id consists of letters and digits".to_owned());
            }
            d.serve.aws_access_key_id = Some(id.to_owned());
            Ok(())
        },
        get: |d| json!(d.serve.aws_access_key_id),
    },
    Setting {
        key: "aws_secret_access_key",
        flag: "aws-secret-access-key",
        env: "OFFSHOOT_AWS_SECRET_ACCESS_KEY",
        takes: Takes::One("SECRET"),
        scope: Scope::Serve,
        help: "Its secret. Prefer the variable or a file: flags are visible in the list of processes",
        set: |d, raw| raw.one().map(|secret| d.serve.aws_secret_access_key = Some(Secret(secret.to_owned()))),
        get: |d| json!(d.serve.aws_secret_access_key.as_ref().map(|_| "(set)")),
    },
    Setting {
        key: "aws_fallback_endpoint",
        flag: "aws-fallback-endpoint",
        env: "OFFSHOOT_AWS_FALLBACK_ENDPOINT",
        takes: Takes::One("URL"),
        scope: Scope::Serve,
        help: "Where requests for AWS services go that this server does not have: http://HOST:PORT",
        set: |d, raw| {
            let url = ServerUrl::parse(raw.one()?)?;
            if !url.prefix.is_empty() {
                return Err("an address without a path is expected: signed paths cannot be changed".to_owned());
            }
            d.serve.aws_fallback = Some(url);
            Ok(())
        },
        get: |d| json!(d.serve.aws_fallback.as_ref().map(ServerUrl::to_string)),
    },
    Setting {
        key: "http_destinations",
        flag: "http-destinations",
        env: "OFFSHOOT_HTTP_DESTINATIONS",
        takes: Takes::List("URL,…"),
        scope: Scope::Serve,
        help: "Where records of asynchronous invocations may be sent over HTTP: these addresses and what is below them",
        set: |d, raw| {
            d.serve.http_destinations = raw.items.iter().map(|url| ServerUrl::parse(url)).collect::<Result<_, _>>()?;
            Ok(())
        },
        get: |d| json!(d.serve.http_destinations.iter().map(ServerUrl::to_string).collect::<Vec<_>>()),
    },
    limit!(
        zipped_bytes,
        "limits-zipped-bytes",
        "OFFSHOOT_LIMITS_ZIPPED_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Largest archive as uploaded"
    ),
    limit!(
        unzipped_bytes,
        "limits-unzipped-bytes",
        "OFFSHOOT_LIMITS_UNZIPPED_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Largest archive once unpacked"
    ),
    limit!(
        archive_entries,
        "limits-archive-entries",
        "OFFSHOOT_LIMITS_ARCHIVE_ENTRIES",
        "N",
        |r| r.number(),
        "Most entries in an archive"
    ),
    limit!(
        request_bytes,
        "limits-request-bytes",
        "OFFSHOOT_LIMITS_REQUEST_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Largest request body of an invocation"
    ),
    limit!(
        reply_bytes,
        "limits-reply-bytes",
        "OFFSHOOT_LIMITS_REPLY_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Largest reply of an invocation"
    ),
    limit!(
        stream_bytes,
        "limits-stream-bytes",
        "OFFSHOOT_LIMITS_STREAM_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Largest streamed reply of an invocation"
    ),
    limit!(
        env_bytes,
        "limits-env-bytes",
        "OFFSHOOT_LIMITS_ENV_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Largest environment of a function"
    ),
    limit!(
        concurrency,
        "limits-concurrency",
        "OFFSHOOT_LIMITS_CONCURRENCY",
        "N",
        |r| r.number(),
        "Most invocations running at once, over all functions"
    ),
    limit!(
        memory_budget_mib,
        "limits-memory-budget-mib",
        "OFFSHOOT_LIMITS_MEMORY_BUDGET_MIB",
        "MIB",
        |r| parse_mib(r.one()?),
        "Memory promised to instances before idle ones are stopped; 0 = three quarters of the machine"
    ),
    limit!(
        queue_wait_ms,
        "limits-queue-wait-ms",
        "OFFSHOOT_LIMITS_QUEUE_WAIT_MS",
        "MS",
        |r| parse_millis(r.one()?, 1),
        "Longest wait for an instance before an invocation is throttled"
    ),
    limit!(
        init_ms,
        "limits-init-ms",
        "OFFSHOOT_LIMITS_INIT_MS",
        "MS",
        |r| parse_millis(r.one()?, 1),
        "Longest initialisation of an instance"
    ),
    limit!(
        invocation_log_bytes,
        "limits-invocation-log-bytes",
        "OFFSHOOT_LIMITS_INVOCATION_LOG_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Log text kept for one invocation"
    ),
    limit!(
        function_log_bytes,
        "limits-function-log-bytes",
        "OFFSHOOT_LIMITS_FUNCTION_LOG_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Log text kept for one function"
    ),
    limit!(
        async_items,
        "limits-async-items",
        "OFFSHOOT_LIMITS_ASYNC_ITEMS",
        "N",
        |r| r.number(),
        "Asynchronous invocations of one function that wait; and as many that are kept after they failed"
    ),
    limit!(
        async_bytes,
        "limits-async-bytes",
        "OFFSHOOT_LIMITS_ASYNC_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Bytes of all asynchronous invocations that wait; and as many of those kept after they failed"
    ),
    limit!(
        async_payload_bytes,
        "limits-async-payload-bytes",
        "OFFSHOOT_LIMITS_ASYNC_PAYLOAD_BYTES",
        "BYTES",
        |r| parse_bytes(r.one()?, 1),
        "Largest event of an asynchronous invocation"
    ),
];

impl Draft {
    fn new(env: &Env) -> Self {
        let serve = ServeConfig {
            listen: (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(),
            token: None,
            auth: Auth::Usual,
            data_dir: env.data_dir(),
            log: LevelFilter::INFO,
            log_format: LogFormat::Text,
            warm_runtimes: WarmRuntimes::Used,
            allow_nearest_runtime: false,
            runtime_paths: Vec::new(),
            keep_alive: Millis(600_000),
            freeze_after: Some(Millis(5_000)),
            prewarm: true,
            spares: 2,
            allow_degraded: Vec::new(),
            uid_range: 200_000..=265_535,
            cgroup_root: None,
            drain: Millis(30_000),
            place: Place::default(),
            s3_endpoint: None,
            async_retry_base: Millis(60_000),
            sqs_endpoint: None,
            kinesis_endpoint: None,
            dynamodb_streams_endpoint: None,
            aws_access_key_id: None,
            aws_secret_access_key: None,
            aws_fallback: None,
            http_destinations: Vec::new(),
            limits: Limits::default(),
        };
        Draft { serve, port: None, server: None, token: None, token_file: None }
    }
}

// ── Reading single values ────────────────────────────────────────────────────────────────────────────────────────────

/// `ADDR:PORT`, `ADDR`, `:PORT` or `PORT`; `localhost` is 127.0.0.1. Names are not looked up: they may move.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost").map(|rest| format!("127.0.0.1{rest}"));
    let text = local.as_deref().unwrap_or(text);
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok((ip, DEFAULT_PORT).into());
    }
    match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => Err(format!("'{text}' is not an address to listen on: write ADDR:PORT, for example 127.0.0.1:9000")),
    }
}

fn parse_token(text: &str) -> Result<Secret, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Secret(text.to_owned()));
    }
    Err("a token is one word of visible ASCII characters".to_owned())
}

fn parse_auth(text: &str) -> Result<Auth, String> {
    let all = [Auth::Usual, Auth::None, Auth::Token, Auth::SigV4];
    let unknown = || format!("'{text}' is not a way of authentication: write usual, none, token or sigv4");
    all.into_iter().find(|auth| auth.name() == text).ok_or_else(unknown)
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    let levels = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    let wanted = text.to_ascii_lowercase();
    let found = levels.into_iter().find(|level| level.to_string() == wanted);
    found.ok_or_else(|| format!("'{text}' is not a level: write off, error, warn, info, debug or trace"))
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("'{text}' is not a log format: write text or json")),
    }
}

fn parse_warm(items: &[String]) -> Result<WarmRuntimes, String> {
    match items {
        [one] if one == "used" => Ok(WarmRuntimes::Used),
        [one] if one == "all" => Ok(WarmRuntimes::All),
        [one] if one == "none" => Ok(WarmRuntimes::None),
        [] => Ok(WarmRuntimes::None),
        names => {
            let parsed = names.iter().map(|name| RuntimeName::parse(name).map_err(|e| e.message));
            Ok(WarmRuntimes::Only(parsed.collect::<Result<_, _>>()?))
        }
    }
}

fn show_warm(warm: &WarmRuntimes) -> Value {
    match warm {
        WarmRuntimes::Used => json!("used"),
        WarmRuntimes::All => json!("all"),
        WarmRuntimes::None => json!("none"),
        WarmRuntimes::Only(names) => json!(names),
    }
}

fn parse_degraded(items: &[String]) -> Result<Vec<String>, String> {
    let unknown = |name: &String| {
        let near = nearest(name, DEGRADABLE.iter().copied()).map(|n| format!("did you mean {n}? ")).unwrap_or_default();
        format!("'{name}' is not a sandbox feature: {near}known are {}", DEGRADABLE.join(", "))
    };
    let check = |name: &String| if DEGRADABLE.contains(&name.as_str()) { Ok(name.clone()) } else { Err(unknown(name)) };
    items.iter().map(check).collect()
}

fn parse_uids(text: &str) -> Result<RangeInclusive<u32>, String> {
    let ends = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match ends {
        Some((first, last)) if 1 <= first && first <= last && last < u32::MAX => Ok(first..=last),
        _ => Err(format!("'{text}' is not a range of user ids: write FIRST-LAST, for example 200000-265535")),
    }
}

fn parse_mib(text: &str) -> Result<u32, String> {
    u32::try_from(parse_bytes(text, 1 << 20)? >> 20).map_err(|_| format!("'{text}' is more memory than can be counted"))
}

// ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// One value of a TOML file: the names that lead to it, its text, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The names, outermost first.
    pub path: Vec<String>,
    /// The value, or the members of a list.
    pub items: Vec<String>,
    /// Whether it is a list.
    pub list: bool,
    /// Its line, from 1.
    pub line: usize,
}

/// Reads a TOML file into its values; `None` when there is no such file.
pub fn read_toml(path: &Path) -> Result<Option<Vec<Entry>>, CliError> {
    match std::fs::read_to_string(path) {
        Ok(text) => flatten(&text)
            .map(Some)
            .map_err(|(line, what)| CliError::config(format!("{}:{line}: {what}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(CliError::config(format!("cannot read {}: {e}", path.display()))
            .hint("make it readable for this user, or move it away")),
    }
}

fn flatten(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let line_of = |offset: usize| text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|e| (line_of(e.span().map_or(0, |s| s.start)), e.message().to_owned()))?;
    let mut entries = Vec::new();
    flatten_table(table.get_ref(), &[], &line_of, &mut entries)?;
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn flatten_table(
    table: &DeTable<'_>,
    above: &[String],
    line_of: &dyn Fn(usize) -> usize,
    into: &mut Vec<Entry>,
) -> Result<(), (usize, String)> {
    for (name, value) in table.iter() {
        let line = line_of(name.span().start);
        let mut path = above.to_vec();
        path.push(name.get_ref().clone().into_owned());
        if let DeValue::Table(inner) = value.get_ref() {
            flatten_table(inner, &path, line_of, into)?;
            continue;
        }
        let (items, list) = match value.get_ref() {
            DeValue::Array(members) => (members.iter().map(|m| scalar(m.get_ref())).collect::<Option<Vec<_>>>(), true),
            one => (scalar(one).map(|text| vec![text]), false),
        };
        let items = items.ok_or_else(|| (line, format!("{}: a list of plain values is expected", path.join("."))))?;
        into.push(Entry { path, items, list, line });
    }
    Ok(())
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(n) => {
            Some(i128::from_str_radix(n.as_str(), n.radix()).map_or(n.as_str().to_owned(), |n| n.to_string()))
        }
        DeValue::Float(n) => Some(n.as_str().to_owned()),
        DeValue::Boolean(b) => Some(b.to_string()),
        DeValue::Datetime(moment) => Some(moment.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

// ── Flags ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The settings given as flags.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Flags {
    fn augment(command: Command, scope: Scope) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help(format!("Read this configuration file instead of the usual ones [env {CONFIG_VARIABLE}]"));
        let draft = Draft::new(&Env::default());
        let rows = SETTINGS.iter().filter(|s| s.scope == scope || s.scope == Scope::Both);
        command.arg(config.help_heading("Settings")).args(rows.map(|setting| setting.arg(&draft)))
    }

    fn read(matches: &ArgMatches) -> Self {
        let mut flags = Flags { config: matches.get_one::<String>("config").map(PathBuf::from), ..Flags::default() };
        for setting in SETTINGS {
            if let Ok(Some(values)) = matches.try_get_many::<String>(setting.flag) {
                flags.values.insert(setting.key, values.cloned().collect());
            }
        }
        flags
    }
}

impl Setting {
    fn arg(&self, draft: &Draft) -> Arg {
        let default = match (self.get)(draft) {
            Value::Null => String::new(),
            Value::Array(_) => String::new(),
            _ if self.key == "data_dir" => String::new(),
            Value::String(text) => format!(" [default {text}]"),
            other => format!(" [default {other}]"),
        };
        let arg = Arg::new(self.flag).long(self.flag).help(format!("{} [env {}]{default}", self.help, self.env));
        let limit = self.key.starts_with("limits.");
        let arg = arg.help_heading(if limit { "Limits" } else { "Settings" }).hide_short_help(limit);
        match self.takes {
            Takes::One(value) => arg.value_name(value),
            Takes::List(value) => arg.value_name(value).action(ArgAction::Append),
            Takes::Word(words) => arg.value_name("WORD").value_parser(clap::builder::PossibleValuesParser::new(words)),
            Takes::Bool => arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true"),
        }
    }
}

macro_rules! flags_for {
    ($(#[$doc:meta])* $name:ident, $scope:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name(pub Flags);
        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                Flags::augment(command, $scope)
            }
            fn augment_args_for_update(command: Command) -> Command {
                Flags::augment(command, $scope)
            }
        }
        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok($name(Flags::read(matches)))
            }
            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0 = Flags::read(matches);
                Ok(())
            }
        }
    };
}
flags_for!(
    /// The flags of verbs that serve.
    ServeFlags,
    Scope::Serve
);
flags_for!(
    /// The flags of verbs that talk to a server.
    ClientFlags,
    Scope::Client
);

// ── Gathering ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A value with its origin, before it is understood.
struct Given {
    items: Vec<String>,
    origin: Origin,
    base: PathBuf,
}
type AllGiven = BTreeMap<&'static str, Given>;

/// The effective configuration.
pub struct Loaded {
    /// For the server.
    pub serve: ServeConfig,
    /// For clients.
    pub client: ClientConfig,
    /// Every setting with its effective value and origin, in the order of the table.
    pub rows: Vec<(&'static str, Value, Origin)>,
}

/// Reads flags, environment and files into the effective configuration.
pub fn load(env: &Env, flags: &Flags) -> Result<Loaded, CliError> {
    let mut given = AllGiven::new();
    read_files(env, flags, &mut given)?;
    read_env(env, &mut given)?;
    for (key, values) in &flags.values {
        if let Some(setting) = SETTINGS.iter().find(|s| s.key == *key) {
            let items = values.iter().flat_map(|value| setting.split(value)).collect();
            given.insert(key, Given { items, origin: Origin::Flag(setting.flag), base: env.cwd.clone() });
        }
    }
    let mut draft = Draft::new(env);
    for setting in SETTINGS {
        if let Some(value) = given.get(setting.key) {
            let raw = Raw { items: &value.items, base: &value.base };
            (setting.set)(&mut draft, &raw).map_err(|what| refused(setting, &value.origin, &what))?;
        }
    }
    finish(draft, &given)
}

impl Setting {
    fn split(&self, text: &str) -> Vec<String> {
        match self.takes {
            Takes::List(_) => {
                text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
            }
            _ => vec![text.to_owned()],
        }
    }
}

fn refused(setting: &Setting, origin: &Origin, what: &str) -> CliError {
    match origin {
        Origin::Flag(flag) => CliError::usage(format!("--{flag}: {what}")),
        Origin::Env(name) => CliError::config(format!("environment variable {name}: {what}")),
        other => CliError::config(format!("{other}: {}: {what}", setting.key)),
    }
}

fn read_files(env: &Env, flags: &Flags, given: &mut AllGiven) -> Result<(), CliError> {
    let named = flags.config.clone().or_else(|| env.get(CONFIG_VARIABLE).map(PathBuf::from));
    let files = match &named {
        Some(path) => vec![(env.cwd.join(path), FileRank::Named)],
        None => env.files(),
    };
    for (path, rank) in files {
        match read_toml(&path)? {
            Some(entries) => entries.into_iter().try_for_each(|entry| take_entry(&path, rank, entry, given))?,
            None if rank == FileRank::Named => {
                return Err(CliError::config(format!("the configuration file {} does not exist", path.display()))
                    .hint(format!("correct --config or {CONFIG_VARIABLE}")));
            }
            None => {}
        }
    }
    Ok(())
}

fn take_entry(path: &Path, rank: FileRank, entry: Entry, given: &mut AllGiven) -> Result<(), CliError> {
    let key = entry.path.join(".");
    let place = format!("{}:{}", path.display(), entry.line);
    let Some(setting) = SETTINGS.iter().find(|s| s.key == key) else {
        let near = nearest(&key, SETTINGS.iter().map(|s| s.key));
        return Err(CliError::config(format!("{place}: '{key}' is not a setting")).hint(match near {
            Some(near) => format!("did you mean '{near}'?"),
            None => "offshoot serve --print-config lists every setting".to_owned(),
        }));
    };
    if setting.key == "server" && rank == FileRank::Project {
        return Err(CliError::config(format!(
            "{place}: 'server' cannot be set here: a directory that you change into must not decide who gets your token"
        ))
        .hint("set it in your own configuration file, in OFFSHOOT_SERVER, or with --server"));
    }
    let items =
        if entry.list { entry.items } else { entry.items.iter().flat_map(|item| setting.split(item)).collect() };
    let base = path.parent().unwrap_or(Path::new("/")).to_owned();
    given.insert(setting.key, Given { items, origin: Origin::File(path.to_owned(), entry.line, rank), base });
    Ok(())
}

/// AWS's own names for the addresses of services: they count where the server's own name for the setting is not set.
const AWS_ENDPOINTS: [(&str, &str); 3] = [
    ("sqs_endpoint", "AWS_ENDPOINT_URL_SQS"),
    ("kinesis_endpoint", "AWS_ENDPOINT_URL_KINESIS"),
    ("dynamodb_streams_endpoint", "AWS_ENDPOINT_URL_DYNAMODB_STREAMS"),
];

fn read_env(env: &Env, given: &mut AllGiven) -> Result<(), CliError> {
    for (key, name) in AWS_ENDPOINTS {
        if let Some(value) = env.get(name).filter(|value| !value.is_empty()) {
            let origin = Origin::Env(name);
            given.insert(key, Given { items: vec![value.to_owned()], origin, base: env.cwd.clone() });
        }
    }
    for (name, value) in env.vars.iter().filter(|(name, value)| name.starts_with("OFFSHOOT_") && !value.is_empty()) {
        if name == CONFIG_VARIABLE || is_service_link(name, value) {
            continue;
        }
        let Some(setting) = SETTINGS.iter().find(|s| s.env == name) else {
            let near = nearest(name, SETTINGS.iter().map(|s| s.env).chain([CONFIG_VARIABLE]));
            return Err(CliError::config(format!("the environment variable {name} is not a setting of offshoot"))
                .hint(match near {
                    Some(near) => format!("did you mean {near}? If not, unset it"),
                    None => "unset it; offshoot serve --help lists every variable".to_owned(),
                }));
        };
        given.insert(
            setting.key,
            Given { items: setting.split(value), origin: Origin::Env(setting.env), base: env.cwd.clone() },
        );
    }
    Ok(())
}

/// Variables that Kubernetes and Docker links add for a service that happens to be called `offshoot`.
fn is_service_link(name: &str, value: &str) -> bool {
    let address = value.starts_with("tcp://") || value.starts_with("udp://");
    let rest = name.trim_start_matches("OFFSHOOT_");
    rest == "SERVICE_HOST"
        || rest.starts_with("SERVICE_PORT")
        || (rest == "PORT" && address)
        || rest.strip_prefix("PORT_").is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
}

/// Settles what depends on more than one setting: the port, the token, the server's address.
fn finish(mut draft: Draft, given: &AllGiven) -> Result<Loaded, CliError> {
    let origin = |key: &str| given.get(key).map_or(Origin::Default, |value| value.origin.clone());
    match draft.port {
        Some(port) if origin("port").rank() >= origin("listen").rank() => draft.serve.listen.set_port(port),
        _ => {}
    }
    let server = draft.server.get_or_insert_with(|| ServerUrl::of_listener(draft.serve.listen)).clone();
    let found_in_data_dir = settle_token(&mut draft, origin("token"), origin("token_file"))?;
    let client = ClientConfig {
        // A token that was not given for this purpose is shown to this machine only.
        token: draft.serve.token.clone().filter(|_| !found_in_data_dir || server.is_local()),
        server,
        limits: draft.serve.limits.clone(),
    };
    let rows = SETTINGS.iter().map(|s| (s.key, (s.get)(&draft), origin(s.key))).collect();
    Ok(Loaded { serve: draft.serve, client, rows })
}

/// Decides between the token, its file and the file in the data directory; true: it is from the data directory.
fn settle_token(draft: &mut Draft, token: Origin, file: Origin) -> Result<bool, CliError> {
    if draft.token.is_some() && token.rank() == file.rank() {
        return Err(
            CliError::config(format!("both token ({token}) and token_file ({file}) are set")).hint("keep one of them")
        );
    }
    if draft.token.is_some() && token.rank() > file.rank() {
        draft.serve.token = draft.token.clone();
        draft.token_file = None;
        return Ok(false);
    }
    let named = draft.token_file.clone();
    let path = named.clone().unwrap_or_else(|| draft.serve.data_dir.join("token"));
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let token =
                parse_token(text.trim()).map_err(|what| CliError::config(format!("{}: {what}", path.display())))?;
            draft.serve.token = Some(token);
            draft.token_file = Some(path);
            Ok(named.is_none())
        }
        Err(_) if named.is_none() => Ok(false),
        Err(e) => Err(CliError::config(format!("cannot read the token file {} ({file}): {e}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::Exit;

    /// A home of its own, so that no test sees the files of the machine's user.
    struct Home(tempfile::TempDir);
    impl Home {
        fn new() -> Self {
            Home(tempfile::tempdir().unwrap())
        }
        fn path(&self, below: &str) -> PathBuf {
            self.0.path().join(below)
        }
        fn write(&self, below: &str, text: &str) -> &Self {
            let path = self.path(below);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }
        fn env(&self, vars: &[(&str, &str)]) -> Env {
            let mut env = Env { cwd: self.path("project"), ..Env::default() };
            env.vars.insert("HOME".into(), self.path("").display().to_string());
            env.vars.extend(vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            env
        }
        fn load(&self, vars: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, CliError> {
            load(&self.env(vars), &flags_of(flags))
        }
    }

    fn command() -> Command {
        ServeFlags::augment_args(Command::new("serve"))
    }
    fn flags_of(args: &[&str]) -> Flags {
        Flags::read(&command().get_matches_from([&["serve"], args].concat()))
    }
    fn origin(loaded: &Loaded, key: &str) -> Origin {
        loaded.rows.iter().find(|row| row.0 == key).unwrap().2.clone()
    }
    fn fails(result: Result<Loaded, CliError>) -> CliError {
        result.map(|_| ()).unwrap_err()
    }

    #[test]
    fn every_setting_has_its_three_forms() {
        let client = ClientFlags::augment_args(Command::new("ls"));
        for setting in SETTINGS {
            assert_eq!(setting.flag, setting.key.replace(['_', '.'], "-"));
            assert_eq!(setting.env, format!("OFFSHOOT_{}", setting.key.replace('.', "_").to_ascii_uppercase()));
            let offered = |c: &Command| c.get_arguments().any(|arg| arg.get_long() == Some(setting.flag));
            assert!(offered(&command()) || offered(&client), "{}", setting.key);
        }
    }

    #[test]
    fn awss_names_for_addresses_count_below_our_own() {
        let home = Home::new();
        let aws = ("AWS_ENDPOINT_URL_KINESIS", "http://127.0.0.1:4567");
        let kinesis =
            |vars: &[(&str, &str)]| home.load(vars, &[]).unwrap().serve.kinesis_endpoint.map(|u| u.to_string());
        assert_eq!(kinesis(&[aws]).as_deref(), Some("http://127.0.0.1:4567"));
        assert_eq!(kinesis(&[aws, ("OFFSHOOT_KINESIS_ENDPOINT", "http://other:1")]).as_deref(), Some("http://other:1"));
        let error = fails(home.load(&[("AWS_ENDPOINT_URL_SQS", "ftp://x")], &[]));
        assert!(error.message.contains("AWS_ENDPOINT_URL_SQS"), "{}", error.message);
    }

    #[test]
    fn every_limit_of_the_model_is_a_setting_with_the_same_default() {
        let loaded = Home::new().load(&[], &[]).unwrap();
        for (name, value) in serde_json::to_value(Limits::default()).unwrap().as_object().unwrap() {
            let row = loaded.rows.iter().find(|row| row.0 == format!("limits.{name}"));
            assert_eq!(&row.unwrap_or_else(|| panic!("{name}")).1, value);
        }
    }

    #[test]
    fn every_form_of_every_setting_arrives() {
        let value = |key: &str| match key {
            "listen" => "127.0.0.1:4566",
            "server"
            | "http_destinations"
            | "sqs_endpoint"
            | "kinesis_endpoint"
            | "dynamodb_streams_endpoint"
            | "aws_fallback_endpoint" => "http://example.org:81",
            "token" => "t0k3n",
            "log" => "debug",
            "log_format" => "json",
            "auth" => "sigv4",
            "warm_runtimes" => "python3.11",
            "allow_degraded" => "userns",
            "uid_range" => "300000-300010",
            "data_dir" | "runtime_paths" | "cgroup_root" => "/somewhere",
            "allow_nearest_runtime" => "true",
            "prewarm" => "false",
            "region" => "eu-west-1",
            "account" => "123456789012",
            "s3_endpoint" => "http://127.0.0.1:9001",
            _ => "77",
        };
        let home = Home::new();
        home.write("77", "from-a-file");
        let seen = |loaded: &Loaded, key: &str| loaded.rows.iter().find(|r| r.0 == key).unwrap().1.clone();
        let before = home.load(&[], &[]).unwrap();
        for setting in SETTINGS {
            let text = if setting.key == "token_file" {
                home.path("77").display().to_string()
            } else {
                value(setting.key).to_owned()
            };
            let by_env = home.load(&[(setting.env, &text)], &[]).unwrap();
            home.write("named.toml", &format!("{} = \"{text}\"\n", setting.key));
            let named = home.path("named.toml").display().to_string();
            let by_file = home.load(&[], &["--config", &named]).unwrap();
            assert_ne!(seen(&by_env, setting.key), seen(&before, setting.key), "{}", setting.key);
            assert_eq!(seen(&by_env, setting.key), seen(&by_file, setting.key), "{}", setting.key);
            if setting.scope != Scope::Client {
                let by_flag = home.load(&[], &[&format!("--{}={text}", setting.flag)]).unwrap();
                assert_eq!(seen(&by_flag, setting.key), seen(&by_env, setting.key), "{}", setting.key);
            }
        }
    }

    #[test]
    fn flags_win_over_environment_over_files() {
        let home = Home::new();
        home.write(".config/offshoot/config.toml", "keep_alive_ms = 1\ndrain_ms = 1\nlog = 'warn'\n");
        home.write("project/offshoot.toml", "keep_alive_ms = 2\ndrain_ms = \"2s\"\n");
        let loaded = home.load(&[("OFFSHOOT_KEEP_ALIVE_MS", "3")], &["--keep-alive-ms", "4"]).unwrap();
        assert_eq!(loaded.serve.keep_alive, Millis(4));
        assert_eq!(origin(&loaded, "keep_alive_ms"), Origin::Flag("keep-alive-ms"));
        assert_eq!(home.load(&[("OFFSHOOT_KEEP_ALIVE_MS", "3")], &[]).unwrap().serve.keep_alive, Millis(3));
        assert_eq!(home.load(&[("OFFSHOOT_KEEP_ALIVE_MS", "")], &[]).unwrap().serve.keep_alive, Millis(2));
        assert_eq!(loaded.serve.drain, Millis(2000));
        assert_eq!(origin(&loaded, "drain_ms"), Origin::File(home.path("project/offshoot.toml"), 2, FileRank::Project));
        assert_eq!(loaded.serve.log, LevelFilter::WARN);
        assert_eq!(origin(&loaded, "prewarm"), Origin::Default);
    }

    #[test]
    fn a_named_file_replaces_the_usual_ones() {
        let home = Home::new();
        home.write("project/offshoot.toml", "keep_alive_ms = 2\n")
            .write("named.toml", "drain_ms = 5\ndata_dir = 'data'\n");
        let named = home.path("named.toml").display().to_string();
        let loaded = home.load(&[("OFFSHOOT_CONFIG", &named)], &[]).unwrap();
        assert_eq!((loaded.serve.drain, loaded.serve.keep_alive), (Millis(5), Millis(600_000)));
        assert_eq!(loaded.serve.data_dir, home.path("data"), "relative to the file");
        let missing = fails(home.load(&[], &["--config", "nowhere.toml"]));
        assert_eq!(missing.exit, Exit::Config);
        assert!(missing.message.contains("nowhere.toml"));
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest() {
        let home = Home::new();
        home.write("project/offshoot.toml", "# one\nprewarm = true\n[limits]\nrequest_byte = 5\n");
        let error = fails(home.load(&[], &[]));
        assert!(
            error.message.ends_with("offshoot.toml:4: 'limits.request_byte' is not a setting"),
            "{}",
            error.message
        );
        assert_eq!(error.hint.as_deref(), Some("did you mean 'limits.request_bytes'?"));
        let error = fails(Home::new().load(&[("OFFSHOOT_LISTN", "x")], &[]));
        assert_eq!(error.hint.as_deref(), Some("did you mean OFFSHOOT_LISTEN? If not, unset it"));
        assert!(command().try_get_matches_from(["serve", "--listn", "x"]).is_err());
    }

    #[test]
    fn bad_values_name_their_place() {
        let home = Home::new();
        home.write("project/offshoot.toml", "\nuid_range = '5'\n");
        assert!(fails(home.load(&[], &[])).message.contains("offshoot.toml:2: uid_range: '5' is not a range"));
        home.write("project/offshoot.toml", "a = \n");
        assert!(fails(home.load(&[], &[])).message.contains("offshoot.toml:1: "));
        let clean = Home::new();
        assert_eq!(fails(clean.load(&[], &["--drain-ms", "soon"])).exit, Exit::Usage);
        let error = fails(clean.load(&[("OFFSHOOT_ALLOW_DEGRADED", "cgroups")], &[]));
        assert!(error.message.contains("did you mean cgroup?"), "{}", error.message);
        assert!(
            fails(clean.load(&[("OFFSHOOT_LIMITS_CONCURRENCY", "-1")], &[]))
                .message
                .contains("OFFSHOOT_LIMITS_CONCURRENCY")
        );
    }

    #[test]
    fn links_of_orchestrators_are_not_settings() {
        let links = [
            ("OFFSHOOT_PORT", "tcp://10.0.0.1:9000"),
            ("OFFSHOOT_SERVICE_HOST", "10.0.0.1"),
            ("OFFSHOOT_SERVICE_PORT_HTTP", "9000"),
            ("OFFSHOOT_PORT_9000_TCP_ADDR", "10.0.0.1"),
        ];
        assert_eq!(Home::new().load(&links, &[]).unwrap().serve.listen.port(), 9000);
    }

    #[test]
    fn addresses() {
        for (text, address) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            (":4566", "127.0.0.1:4566"),
            ("4566", "127.0.0.1:4566"),
            ("localhost:81", "127.0.0.1:81"),
            ("localhost", "127.0.0.1:9000"),
            ("0.0.0.0", "0.0.0.0:9000"),
            ("[::1]:82", "[::1]:82"),
            ("::", "[::]:9000"),
        ] {
            assert_eq!(parse_listen(text).unwrap().to_string(), address, "{text}");
        }
        for text in ["", "example.org:80", "127.0.0.1:99999", "70000"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_port_replaces_the_port_of_a_weaker_or_equal_origin() {
        let home = Home::new();
        let listen = |vars: &[(&str, &str)], flags: &[&str]| home.load(vars, flags).unwrap().serve.listen.to_string();
        assert_eq!(listen(&[], &["--port", "81"]), "127.0.0.1:81");
        assert_eq!(listen(&[("OFFSHOOT_LISTEN", "[::1]:9")], &["--port", "81"]), "[::1]:81");
        assert_eq!(listen(&[("OFFSHOOT_PORT", "81")], &["--listen", "127.0.0.1:9"]), "127.0.0.1:9");
    }

    #[test]
    fn only_loopback_is_served_without_a_token() {
        let home = Home::new();
        let check =
            |listen: &str, token: &[(&str, &str)]| home.load(token, &["--listen", listen]).unwrap().serve.check();
        for open in ["127.0.0.1:9000", "[::1]:9000", "127.9.9.9:1"] {
            assert!(check(open, &[]).is_ok(), "{open}");
        }
        for wide in ["0.0.0.0:9000", "[::]:9000", "192.168.1.1:1"] {
            let error = check(wide, &[]).unwrap_err();
            assert_eq!(error.exit, Exit::Config);
            assert!(error.hint.unwrap().contains("--token-file"));
            assert!(check(wide, &[("OFFSHOOT_TOKEN", "abc")]).is_ok());
        }
    }

    #[test]
    fn tokens_come_from_one_place_and_are_never_shown() {
        let home = Home::new();
        home.write("project/t", " from-file\n").write(".local/share/offshoot/token", "from-data-dir\n");
        let token = |loaded: Loaded| loaded.serve.token.unwrap().expose().to_owned();
        assert_eq!(token(home.load(&[], &[]).unwrap()), "from-data-dir");
        assert_eq!(token(home.load(&[("OFFSHOOT_TOKEN_FILE", "t")], &[]).unwrap()), "from-file");
        assert_eq!(token(home.load(&[("OFFSHOOT_TOKEN_FILE", "t")], &["--token", "by-flag"]).unwrap()), "by-flag");
        assert_eq!(token(home.load(&[("OFFSHOOT_TOKEN", "by-env")], &["--token-file", "t"]).unwrap()), "from-file");
        assert_eq!(fails(home.load(&[], &["--token", "a", "--token-file", "t"])).exit, Exit::Config);
        assert!(home.load(&[], &["--token", "a b"]).is_err());
        assert!(home.load(&[], &["--token-file", "missing"]).is_err());
        let loaded = home.load(&[("OFFSHOOT_TOKEN", "s3cret")], &[]).unwrap();
        assert!(!format!("{:?} {:?}", loaded.serve, loaded.rows).contains("s3cret"));
    }

    #[test]
    fn the_token_of_the_data_directory_stays_on_this_machine() {
        let home = Home::new();
        home.write(".local/share/offshoot/token", "local\n");
        let client = |vars: &[(&str, &str)]| home.load(vars, &[]).unwrap().client;
        assert!(client(&[]).token.is_some());
        assert!(client(&[("OFFSHOOT_SERVER", "http://localhost:1")]).token.is_some());
        assert!(client(&[("OFFSHOOT_SERVER", "http://example.org")]).token.is_none());
        assert!(client(&[("OFFSHOOT_SERVER", "http://example.org"), ("OFFSHOOT_TOKEN", "x")]).token.is_some());
        home.write("project/offshoot.toml", "server = 'http://example.org'");
        assert!(fails(home.load(&[], &[])).message.contains("'server' cannot be set here"));
    }

    #[test]
    fn servers() {
        for (text, shown) in [
            ("http://a:1", "http://a:1"),
            ("a:1/", "http://a:1"),
            ("http://a/x/", "http://a:80/x"),
            ("http://[::1]:9000", "http://[::1]:9000"),
        ] {
            assert_eq!(ServerUrl::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in ["", "https://a", "ftp://a", "http://", "http://u:p@a", "http://a/?q"] {
            assert!(ServerUrl::parse(text).is_err(), "{text}");
        }
        let derived = Home::new().load(&[("OFFSHOOT_LISTEN", "0.0.0.0:81")], &[]).unwrap();
        assert_eq!(derived.client.server.to_string(), "http://127.0.0.1:81");
    }

    #[test]
    fn data_directories() {
        let home = Home::new();
        let dir = |vars: &[(&str, &str)]| home.load(vars, &[]).unwrap().serve.data_dir;
        assert_eq!(dir(&[]), home.path(".local/share/offshoot"));
        assert_eq!(dir(&[("XDG_DATA_HOME", "/x")]), PathBuf::from("/x/offshoot"));
        assert_eq!(dir(&[("XDG_DATA_HOME", "relative")]), home.path(".local/share/offshoot"));
        assert_eq!(
            dir(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_DATA_HOME", "/x")]),
            PathBuf::from("/var/lib/a")
        );
        assert_eq!(dir(&[("HOME", "")]), PathBuf::from("/var/lib/offshoot"));
    }
}
