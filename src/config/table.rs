//! Every setting: its three names, what it takes, how it is stored and shown. A new one is a row here and a field in `types`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use offshoot_model::{Limits, Millis, Place};
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;

use super::DEFAULT_PORT;
use super::sources::Env;
use super::types::{Auth, LogFormat, Secret, ServeConfig, ServerUrl, WarmRuntimes};
use super::values::*;
use crate::cli::units::{parse_bytes, parse_millis};

/// Which verbs take a setting as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
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
    pub(super) takes: Takes,
    pub(super) scope: Scope,
    pub(super) help: &'static str,
    pub(super) set: fn(&mut Draft, &Raw) -> Result<(), String>,
    pub(super) get: fn(&Draft) -> Value,
}

pub(super) enum Takes {
    One(&'static str),
    List(&'static str),
    Bool,
    Word(&'static [&'static str]),
}

/// The values while they are being gathered.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) serve: ServeConfig,
    pub(super) port: Option<u16>,
    pub(super) server: Option<ServerUrl>,
    pub(super) token: Option<Secret>,
    pub(super) token_file: Option<PathBuf>,
}

/// A value as it was written, and the directory that relative paths in it count from.
pub(super) struct Raw<'a> {
    pub(super) items: &'a [String],
    pub(super) base: &'a Path,
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
    fn at_least_one(&self) -> Result<u32, String> {
        match self.number()? {
            0 => Err("0 would let nothing run: write a whole number from 1 on".to_owned()),
            number => Ok(number),
        }
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
        set: |d, raw| parse_port(raw.one()?).map(|port| d.port = Some(port)),
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
        help: "A file that holds the token; default: the file 'token' in the data directory, when there is one. Only its owner should read it",
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
        key: "accept_unrunnable",
        flag: "accept-unrunnable",
        env: "OFFSHOOT_ACCEPT_UNRUNNABLE",
        takes: Takes::Bool,
        scope: Scope::Serve,
        help: "Keep functions that this machine cannot run (Java, .NET, missing versions); a call of one says what is missing",
        set: |d, raw| raw.flag().map(|on| d.serve.accept_unrunnable = on),
        get: |d| json!(d.serve.accept_unrunnable),
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
        key: "template_keep_alive_ms",
        flag: "template-keep-alive-ms",
        env: "OFFSHOOT_TEMPLATE_KEEP_ALIVE_MS",
        takes: Takes::One("MS"),
        scope: Scope::Serve,
        help: "How long the template of a function without instances (snapshot = on) is kept after its last call; 0 = always",
        set: |d, raw| raw.millis().map(|time| d.serve.template_keep_alive = (time.0 > 0).then_some(time)),
        get: |d| json!(d.serve.template_keep_alive.map_or(0, |time| time.0)),
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
        key: "ec2_endpoint",
        flag: "ec2-endpoint",
        env: "OFFSHOOT_EC2_ENDPOINT",
        takes: Takes::One("URL"),
        scope: Scope::Serve,
        help: "Where subnets and security groups are that functions name in VpcConfig, which is then checked, kept and shown",
        set: |d, raw| ServerUrl::parse(raw.one()?).map(|url| d.serve.ec2_endpoint = Some(url)),
        get: |d| json!(d.serve.ec2_endpoint.as_ref().map(ServerUrl::to_string)),
    },
    Setting {
        key: "sns_endpoint",
        flag: "sns-endpoint",
        env: "OFFSHOOT_SNS_ENDPOINT",
        takes: Takes::One("URL"),
        scope: Scope::Serve,
        help: "Where topics are that speak SNS's protocol, for destinations and dead letters",
        set: |d, raw| ServerUrl::parse(raw.one()?).map(|url| d.serve.sns_endpoint = Some(url)),
        get: |d| json!(d.serve.sns_endpoint.as_ref().map(ServerUrl::to_string)),
    },
    Setting {
        key: "eventbridge_endpoint",
        flag: "eventbridge-endpoint",
        env: "OFFSHOOT_EVENTBRIDGE_ENDPOINT",
        takes: Takes::One("URL"),
        scope: Scope::Serve,
        help: "Where event buses are that speak EventBridge's protocol, for destinations of asynchronous invocations",
        set: |d, raw| ServerUrl::parse(raw.one()?).map(|url| d.serve.eventbridge_endpoint = Some(url)),
        get: |d| json!(d.serve.eventbridge_endpoint.as_ref().map(ServerUrl::to_string)),
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
            d.serve.http_destinations = raw.items.iter().map(|url| parse_destination(url)).collect::<Result<_, _>>()?;
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
        |r| r.at_least_one(),
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
    pub(super) fn new(env: &Env) -> Self {
        let serve = ServeConfig {
            listen: (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(),
            token: None,
            token_file: None,
            auth: Auth::Usual,
            data_dir: env.data_dir(),
            log: LevelFilter::INFO,
            log_format: LogFormat::Text,
            warm_runtimes: WarmRuntimes::Used,
            allow_nearest_runtime: false,
            accept_unrunnable: false,
            runtime_paths: Vec::new(),
            keep_alive: Millis(600_000),
            template_keep_alive: Some(Millis(3_600_000)),
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
            ec2_endpoint: None,
            eventbridge_endpoint: None,
            sns_endpoint: None,
            aws_access_key_id: None,
            aws_secret_access_key: None,
            aws_fallback: None,
            http_destinations: Vec::new(),
            limits: Limits::default(),
        };
        Draft { serve, port: None, server: None, token: None, token_file: None }
    }
}
