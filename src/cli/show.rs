//! `offshoot show NAME`: everything that the server says about a function.

use serde_json::{Value, json};

use super::Context;
use super::client::block_on;
use super::error::{CliError, Exit};
use super::term::printable;
use super::units::{show_bytes, show_millis};
use crate::config::ClientFlags;

/// The settings that come first, in this order; whatever else the server says follows.
const FIRST: &[&str] = &[
    "name",
    "revision",
    "runtime",
    "handler",
    "convention",
    "memory",
    "timeout",
    "cpu",
    "tmp",
    "sandbox",
    "network",
    "snapshot",
    "maxConcurrency",
    "concurrency",
    "rateLimit",
    "keepAlive",
    "codeBytes",
    "codeSha256",
    "createdAt",
    "updatedAt",
    "lastInvokedAt",
    "invokeCount",
];

/// Shows everything about a function.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The function
    name: String,
    #[command(flatten)]
    flags: ClientFlags,
}

/// Prints the function's settings.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let name = super::function_name(&args.name)?;
    let client = context.client(&args.flags)?;
    let function = block_on(client.function(&name))?;
    if context.term.json() {
        context.term.document(&json!({"function": function}))?;
    } else {
        lines(&function).iter().try_for_each(|(key, value)| {
            context.term.line(&format!("{} {}", context.term.dim_out(&format!("{key:<16}")), printable(value, false)))
        })?;
    }
    Ok(Exit::Ok)
}

fn lines(function: &Value) -> Vec<(String, String)> {
    let Some(members) = function.as_object() else { return Vec::new() };
    let first = FIRST.iter().filter_map(|key| members.get(*key).map(|value| (*key, value)));
    let rest = members
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .filter(|(key, _)| !FIRST.contains(key) && *key != "env");
    let mut lines: Vec<_> = first.chain(rest).map(|(key, value)| (key.to_owned(), shown(key, value))).collect();
    if let Some(env) = members.get("env").and_then(Value::as_object) {
        lines.extend(env.iter().map(|(key, value)| ("env".to_owned(), format!("{key}={}", shown("", value)))));
    }
    lines
}

fn shown(key: &str, value: &Value) -> String {
    match (key, value) {
        ("cpu", Value::Null) => "in proportion to memory".to_owned(),
        ("concurrency" | "keepAlive", Value::Null) => "the server's setting".to_owned(),
        ("lastInvokedAt", Value::Null) => "never".to_owned(),
        ("rateLimit", n) if n == 0 => "no limit".to_owned(),
        ("rateLimit", n) => format!("{n} per second"),
        ("memory" | "tmp", n) => format!("{n} MB"),
        ("timeout" | "keepAlive", n) => n.as_u64().map_or_else(|| n.to_string(), show_millis),
        ("codeBytes", n) => n.as_u64().map_or_else(|| n.to_string(), show_bytes),
        (_, Value::Bool(on)) => if *on { "on" } else { "off" }.to_owned(),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Null) => "-".to_owned(),
        (_, other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_settings_come_first_and_unknown_ones_are_not_lost() {
        let function = json!({"later": 1, "timeout": 1500, "name": "f", "cpu": null, "env": {"A": "x"}, "snapshot": true, "rateLimit": 0});
        let expected = [
            ("name", "f"),
            ("timeout", "1.5s"),
            ("cpu", "in proportion to memory"),
            ("snapshot", "on"),
            ("rateLimit", "no limit"),
            ("later", "1"),
            ("env", "A=x"),
        ];
        assert_eq!(lines(&function), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
