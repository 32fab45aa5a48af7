//! What was deployed: everything that decides how a function runs, apart from its code.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind};
use crate::ids::FunctionName;
use crate::runtime::{Language, RuntimeName};
use crate::units::{Limits, MiB, Millis};

/// How the handler is called. Set at deploy, read only by workers: the invoker carries bytes and never looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Convention {
    /// AWS Lambda: `handler(event, context)`.
    Event,
    /// HTTP: `handler(req)` → `{statusCode?, headers?, body}`.
    Request,
}

/// How strongly an instance is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxKind {
    /// A process in its own namespaces, root, user, cgroup and system-call filter.
    Process,
}

/// What an instance may reach over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nothing: an empty network namespace with its own loopback.
    None,
    /// The machine's own network, its loopback services included.
    Host,
}

/// A function's configuration. Its JSON form is what the registry stores and what `offshoot show` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionConfig {
    /// The name, unique on this server.
    pub name: FunctionName,
    /// The runtime it runs on.
    pub runtime: RuntimeName,
    /// `file.export`, as AWS spells it: the text after the last dot names the export.
    pub handler: String,
    /// How the handler is called.
    pub convention: Convention,
    /// Memory limit.
    pub memory: MiB,
    /// Longest run of one invocation.
    pub timeout: Millis,
    /// Environment given to the function.
    pub env: BTreeMap<String, String>,
    /// Isolation.
    pub sandbox: SandboxKind,
    /// Network access.
    pub network: Network,
    /// CPU limit in cores; `None` = in proportion to memory, as AWS does (1,769 MB = one core).
    pub cpu: Option<f64>,
    /// Size of `/tmp`.
    pub tmp: MiB,
    /// Whether starts clone an initialised instance of this function.
    pub snapshot: bool,
    /// Invocations that one instance serves at once.
    pub max_concurrency: u32,
    /// Invocations that the whole function runs at once; `None` = the server's limit.
    pub concurrency: Option<u32>,
    /// Invocations per second (token bucket, burst of a tenth); 0 = no limit.
    pub rate_limit: u32,
    /// How long an idle instance is kept, in milliseconds; `None` = the server's setting.
    pub keep_alive: Option<Millis>,
}

/// The defaults that a deployment starts from.
pub mod defaults {
    use super::{MiB, Millis};
    /// Memory limit (AWS's default).
    pub const MEMORY: MiB = MiB(128);
    /// Timeout: AWS's default is 3 s; people who run functions at home wait for slower things.
    pub const TIMEOUT: Millis = Millis(30_000);
    /// Size of `/tmp` (AWS's default).
    pub const TMP: MiB = MiB(512);
}

/// Environment names that the platform sets itself; a deployment that names one is refused
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>).
pub const RESERVED_ENV: &[&str] = &[
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_METADATA_API",
    "AWS_LAMBDA_METADATA_TOKEN",
    "LD_PRELOAD",
    "LD_AUDIT",
    "NODE_OPTIONS",
    "PYTHONSTARTUP",
    "PYTHONHOME",
];

impl FunctionConfig {
    /// Checks every value against its range. The error names the field, the value and the range.
    pub fn validate(&self, limits: &Limits) -> Result<(), Error> {
        let bad = |m: String| Err(Error::new(ErrorKind::InvalidInput, m));
        match self.runtime.language {
            Language::Provided | Language::Java | Language::Dotnet => check_provided_handler(&self.handler)?,
            Language::Ruby => check_ruby_handler(&self.handler)?,
            _ => check_handler(&self.handler)?,
        }
        if !(64..=32_768).contains(&self.memory.0) {
            return bad(format!("memory is {} MiB: it must be from 64 to 32768", self.memory.0));
        }
        if !(1..=5_400_000).contains(&self.timeout.0) {
            return bad(format!("timeout is {}: it must be from 1ms to 90m", self.timeout.shown()));
        }
        if !(1..=32_768).contains(&self.tmp.0) {
            return bad(format!("tmp is {} MiB: it must be from 1 to 32768", self.tmp.0));
        }
        if !(1..=1000).contains(&self.max_concurrency) {
            return bad(format!("maxConcurrency is {}: it must be from 1 to 1000", self.max_concurrency));
        }
        if self.runtime.language == Language::Provided {
            check_provided(self)?;
        }
        if let Some(cpu) = self.cpu
            && !(0.01..=256.0).contains(&cpu)
        {
            return bad(format!("cpu is {cpu}: it must be from 0.01 to 256 cores"));
        }
        check_env(&self.env, limits)
    }

    /// The CPU limit in thousandths of a core, set or in proportion to memory.
    pub fn cpu_millis(&self) -> u64 {
        match self.cpu {
            Some(cores) => (cores * 1000.0).round() as u64,
            // AWS: "At 1,769 MB, a function has the equivalent of one vCPU" (configuration-function-common).
            None => (u64::from(self.memory.0) * 1000).div_ceil(1769).max(10),
        }
    }
}

/// A handler is `path/to/file.export`: plain characters only, since it becomes a path inside the box and an attribute name.
fn check_handler(handler: &str) -> Result<(), Error> {
    let plain = !handler.is_empty()
        && handler.len() <= 128
        && handler.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    let shaped = handler.rsplit_once('.').is_some_and(|(file, export)| !file.is_empty() && !export.is_empty());
    let inside = !handler.starts_with('/') && handler.split('/').all(|part| part != ".." && !part.is_empty());
    if plain && shaped && inside {
        return Ok(());
    }
    let shown: String = handler.chars().take(80).flat_map(char::escape_default).collect();
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!("'{shown}' is not a handler: write file.export, for example index.handler or src/app.main"),
    ))
}

/// What a custom runtime cannot be asked for.
fn check_provided(config: &FunctionConfig) -> Result<(), Error> {
    let bad = |m: &str| Err(Error::new(ErrorKind::InvalidInput, m));
    if config.convention == Convention::Request {
        return bad("a custom runtime takes events: the convention 'request' is for Node.js, Python and Ruby");
    }
    if config.snapshot {
        return bad("a custom runtime cannot be cloned: snapshot is for Node.js, Python and Ruby");
    }
    Ok(())
}

/// A Ruby handler is `path/to/file.method` or `path/to/file.Module::Class.method`, as for AWS's Ruby runtime, which splits it at
/// its dots.
fn check_ruby_handler(handler: &str) -> Result<(), Error> {
    let word = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let constant = |s: &str| s.split("::").all(|part| word(part) && part.starts_with(|c: char| c.is_ascii_uppercase()));
    let method = |s: &str| word(s.strip_suffix(['?', '!']).unwrap_or(s));
    let file = |s: &str| {
        s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-/".contains(&b)) && s.split('/').all(|part| !part.is_empty())
    };
    let parts: Vec<&str> = handler.split('.').collect();
    let good = match parts[..] {
        [path, name] => file(path) && method(name),
        [path, owner, name] => file(path) && constant(owner) && method(name),
        _ => false,
    };
    if good && handler.len() <= 128 {
        return Ok(());
    }
    let shown: String = handler.chars().take(80).flat_map(char::escape_default).collect();
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!(
            "'{shown}' is not a handler of Ruby: write file.method or file.Module::Class.method, for example \
             lambda_function.lambda_handler or src/app.Shop::Orders.process"
        ),
    ))
}

/// A custom runtime reads its handler itself, from `_HANDLER`: any short printable text (AWS: no white space, 128 characters).
fn check_provided_handler(handler: &str) -> Result<(), Error> {
    if !handler.is_empty() && handler.len() <= 128 && handler.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let shown: String = handler.chars().take(80).flat_map(char::escape_default).collect();
    Err(Error::new(ErrorKind::InvalidInput, format!("'{shown}' is not a handler: up to 128 characters without spaces")))
}

fn check_env(env: &BTreeMap<String, String>, limits: &Limits) -> Result<(), Error> {
    let bad = |m: String| Err(Error::new(ErrorKind::InvalidInput, m));
    // As JSON: braces, and for each pair four quotes, a colon and, but for the last, a comma.
    let mut size = if env.is_empty() { 2u64 } else { 1 };
    for (key, value) in env {
        let first_ok = key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        if !first_ok || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let shown: String = key.chars().take(80).flat_map(char::escape_default).collect();
            return bad(format!("'{shown}' is not an environment name: a letter, then letters, digits and _"));
        }
        if RESERVED_ENV.contains(&key.as_str()) {
            return bad(format!("the environment name {key} is set by the platform and cannot be chosen"));
        }
        if value.contains('\0') {
            return bad(format!("the value of the environment name {key} contains a NUL byte"));
        }
        size += (key.len() + value.len() + 6) as u64;
    }
    if size > limits.env_bytes {
        return bad(format!("the environment has {size} bytes as JSON: at most {} are allowed", limits.env_bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_plain_paths() {
        for good in ["index.handler", "src/app.main", "a-b.c_d", "lambda_function.lambda_handler", "a.b.c"] {
            assert!(check_handler(good).is_ok(), "{good}");
        }
        for bad in [
            "", "handler", ".handler", "index.", "../x.y", "/etc/x.y", "a/../b.c", "a//b.c", "a;b.c", "$(id).x",
            "a b.c", "é.x",
        ] {
            assert!(check_handler(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn custom_runtimes_name_their_handlers_as_they_like() {
        for good in ["bootstrap", "not.important", "a::b/c", "x.y.z"] {
            assert!(check_provided_handler(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\nb", "é", &"x".repeat(129)] {
            assert!(check_provided_handler(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ruby_handlers_are_files_and_methods() {
        for good in ["lambda_function.lambda_handler", "src/app.Shop::Orders.process", "a.B.c?", "x-y._run"] {
            assert!(check_ruby_handler(good).is_ok(), "{good}");
        }
        for bad in ["app", "app.", ".run", "a.b.c", "a.B.c.d", "/a.b", "../a.b", "a.B::.c", "a.B;C.d", "a.run\n", ""] {
            assert!(check_ruby_handler(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn environment_names_are_checked() {
        let limits = Limits::default();
        let env = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
        assert!(check_env(&env("A_1", "x"), &limits).is_ok());
        for (k, v) in [("", "x"), ("1A", "x"), ("A=B", "x"), ("LD_PRELOAD", "x"), ("_HANDLER", "x"), ("A", "x\0y")] {
            assert!(check_env(&env(k, v), &limits).is_err(), "{k}");
        }
        assert!(check_env(&env("A", &"x".repeat(5000)), &limits).is_err());
    }
}
