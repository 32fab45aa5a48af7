//! `offshoot show NAME`: everything that the server says about a function.

use http::Method;
use offshoot_model::FunctionName;
use serde_json::{Value, json};

use super::Context;
use super::client::{Client, block_on};
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
    let function = block_on(async {
        let mut function = client.function(&name).await?;
        more(&client, &name, &mut function).await;
        Ok(function)
    })?;
    if context.term.json() {
        context.term.document(&json!({"function": function}))?;
    } else {
        lines(&function).iter().try_for_each(|(key, value)| {
            context.term.line(&format!("{} {}", context.term.dim_out(&format!("{key:<16}")), printable(value, false)))
        })?;
    }
    Ok(Exit::Ok)
}

/// Adds what AWS's dialect knows besides, where there is any: layers, versions, aliases, the form of the log, what makes it durable.
async fn more(client: &Client, name: &FunctionName, function: &mut Value) {
    let ask = async |what: &str| {
        client.ask(Method::GET, &format!("/2015-03-31/functions/{name}/{what}")).await.unwrap_or_default()
    };
    let (about, versions, aliases) = (ask("configuration").await, ask("versions").await, ask("aliases").await);
    let texts = |list: &Value, text: &dyn Fn(&Value) -> Option<String>| -> Vec<String> {
        list.as_array().map(|all| all.iter().filter_map(text).collect()).unwrap_or_default()
    };
    let own = |value: &Value| value.as_str().map(str::to_owned);
    let alias = |a: &Value| Some(format!("{} → {}", a["Name"].as_str()?, a["FunctionVersion"].as_str()?));
    for (key, list) in [
        ("layers", texts(&about["Layers"], &|layer| own(&layer["Arn"]))),
        ("versions", texts(&versions["Versions"], &|v| own(&v["Version"]).filter(|v| v != "$LATEST"))),
        ("aliases", texts(&aliases["Aliases"], &alias)),
    ] {
        if !list.is_empty() {
            function[key] = json!(list);
        }
    }
    if let Some(format) = about["LoggingConfig"]["LogFormat"].as_str().filter(|format| *format != "Text") {
        function["logFormat"] = json!(format);
    }
    if about["DurableConfig"].is_object() {
        function["durable"] = super::executions::house(&about["DurableConfig"]);
    }
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
        (_, Value::Array(all)) => all.iter().map(|one| shown("", one)).collect::<Vec<_>>().join(", "),
        ("durable", Value::Object(all)) => {
            all.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
        }
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
