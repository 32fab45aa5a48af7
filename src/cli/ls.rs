//! `offshoot ls`: lists what is deployed.

use http::Method;
use serde_json::{Value, json};

use super::Context;
use super::client::block_on;
use super::error::{CliError, Exit};
use super::units::{now_ms, parse_moment, show_ago, show_millis};
use crate::config::ClientFlags;

/// Lists the functions.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: ClientFlags,
}

/// Prints the list.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let list = block_on(client.ask(Method::GET, "/info"))?;
    let mut functions = list["functions"].as_array().cloned().unwrap_or_default();
    functions.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    if context.term.json() {
        context.term.document(&json!({"count": functions.len(), "functions": functions}))?;
    } else if functions.is_empty() {
        context.term.note(&format!("nothing is deployed on {}; start with: offshoot deploy PATH", client.server()));
    } else {
        context.term.table(&table(&functions, now_ms()))?;
    }
    Ok(Exit::Ok)
}

fn table(functions: &[Value], now: u64) -> Vec<Vec<String>> {
    let heads = ["NAME", "RUNTIME", "MEM", "TIMEOUT", "INVOCATIONS", "LAST", "UPDATED"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(functions.iter().map(|f| row(f, now)));
    rows
}

fn row(f: &Value, now: u64) -> Vec<String> {
    let text = |key: &str| f[key].as_str().unwrap_or("-").to_owned();
    let count = |key: &str, show: &dyn Fn(u64) -> String| f[key].as_u64().map_or("-".to_owned(), show);
    let ago = |key: &str, never: &str| {
        f[key].as_str().and_then(parse_moment).map_or(never.to_owned(), |then| show_ago(then, now))
    };
    vec![
        text("name"),
        text("runtime"),
        count("memory", &|mib| format!("{mib} MB")),
        count("timeout", &show_millis),
        count("invokeCount", &|n| n.to_string()),
        ago("lastInvokedAt", "never"),
        ago("updatedAt", "-"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::term::columns;

    #[test]
    fn rows_say_what_people_want_to_know() {
        let functions = [
            json!({"name": "hello", "runtime": "nodejs20.x", "memory": 128, "timeout": 30_000, "invokeCount": 7,
                "lastInvokedAt": "1970-01-01T00:00:48.000Z", "updatedAt": "1970-01-01T00:00:00Z"}),
            json!({"name": "x", "lastInvokedAt": null}),
        ];
        assert_eq!(
            columns(&table(&functions, 60_000)),
            [
                "NAME   RUNTIME     MEM     TIMEOUT  INVOCATIONS  LAST     UPDATED",
                "hello  nodejs20.x  128 MB  30s      7            12s ago  1m ago",
                "x      -           -       -        -            never    -",
            ]
        );
    }
}
