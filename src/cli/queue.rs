//! `offshoot queue ls|show|redrive|purge`: asynchronous invocations that wait, run, are delivered, or failed and are kept.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Context;
use super::client::{Client, block_on};
use super::error::{CliError, Exit};
use super::term::member;
use super::units::{now_ms, parse_moment, show_ago, show_bytes, show_millis};
use crate::config::ClientFlags;

/// Looks after asynchronous invocations.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List what is in the queue
    #[command(alias = "list")]
    Ls(Ls),
    /// Show one invocation, with its event and the record of how it ended
    #[command(alias = "get", alias = "describe")]
    Show(Show),
    /// Let invocations that failed begin again
    #[command(alias = "retry")]
    Redrive(Chosen),
    /// Remove invocations that do not run
    #[command(alias = "rm", alias = "delete")]
    Purge(Chosen),
}

#[derive(Debug, clap::Args)]
struct Ls {
    /// Only those of this function
    function: Option<String>,
    /// Only those in this state
    #[arg(long, value_parser = ["waiting", "running", "delivering", "dead"])]
    state: Option<String>,
    /// At most so many, the oldest
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// Those behind this place, which the list before named
    #[arg(long, value_name = "PLACE", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    flags: ClientFlags,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The invocation's id
    id: String,
    #[command(flatten)]
    flags: ClientFlags,
}

#[derive(Debug, clap::Args)]
struct Chosen {
    /// The invocations' ids
    #[arg(required_unless_present = "function", conflicts_with = "function")]
    ids: Vec<String>,
    /// All of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    #[command(flatten)]
    flags: ClientFlags,
}

/// Does what is asked of the queue.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    match args.verb {
        Verb::Ls(ls) => list(&ls, context),
        Verb::Show(show) => show_one(&show, context),
        Verb::Redrive(chosen) => redrive(&chosen, context),
        Verb::Purge(chosen) => purge(&chosen, context),
    }
}

fn list(args: &Ls, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let mut path = format!("/v1/queue?limit={}&after={}", args.limit, args.after);
    if let Some(function) = &args.function {
        path += &format!("&function={}", super::function_name(function)?);
    }
    if let Some(state) = &args.state {
        path += &format!("&state={state}");
    }
    let answer = block_on(client.ask(Method::GET, &path))?;
    if context.term.json() {
        context.term.document(&answer)?;
        return Ok(Exit::Ok);
    }
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty()
        && let Some(function) = &args.function
    {
        known(&client, function)?;
    }
    if !items.is_empty() {
        context.term.table(&table(&items, now_ms()))?;
    }
    let whose = args.function.as_ref().map(|function| format!("{function}: ")).unwrap_or_default();
    context.term.note(&format!("{whose}{}", summary(&answer["counts"])));
    if let Some(next) = answer["next"].as_u64() {
        context.term.note(&format!("there may be more: --after {next}"));
    }
    Ok(Exit::Ok)
}

/// What is asked of a function that has nothing in the queue may be asked of a misspelt name.
fn known(client: &Client, function: &str) -> Result<(), CliError> {
    block_on(client.function(&super::function_name(function)?)).map(drop)
}

/// One line: how many are in which state.
fn summary(counts: &Value) -> String {
    let part = |name: &str| format!("{} {name}", counts[name].as_u64().unwrap_or(0));
    ["waiting", "running", "delivering", "dead"].map(part).join(", ")
}

fn table(items: &[Value], now: u64) -> Vec<Vec<String>> {
    let heads = ["ID", "FUNCTION", "STATE", "ATTEMPTS", "ACCEPTED", "NEXT", "ERROR"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(items.iter().map(|item| row(item, now)));
    rows
}

fn row(item: &Value, now: u64) -> Vec<String> {
    let text = |key: &str| member(item, key);
    let moment = |key: &str| item[key].as_str().and_then(parse_moment);
    let due = match moment("dueAt") {
        Some(due) if item["state"] == "waiting" || item["state"] == "delivering" => {
            if due > now {
                format!("in {}", show_millis(due - now))
            } else {
                "now".to_owned()
            }
        }
        _ => "-".to_owned(),
    };
    let error: String = text("error").lines().next().unwrap_or("-").chars().take(60).collect();
    vec![
        text("requestId"),
        text("function"),
        text("state"),
        item["attempts"].as_u64().map_or("-".to_owned(), |n| n.to_string()),
        moment("acceptedAt").map_or("-".to_owned(), |then| show_ago(then, now)),
        due,
        error,
    ]
}

fn show_one(args: &Show, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let item = block_on(client.ask(Method::GET, &format!("/v1/queue/{}", id(&args.id)?))).map_err(|error| {
        if error.kind == "not-found" { error.hint("offshoot queue ls shows what is there") } else { error }
    })?;
    if context.term.json() {
        context.term.document(&json!({"item": item}))?;
        return Ok(Exit::Ok);
    }
    context.term.members(&item, |key, value| match value {
        Value::Number(n) if key == "bytes" => show_bytes(n.as_u64().unwrap_or(0)),
        other => other.to_string(),
    })?;
    Ok(Exit::Ok)
}

/// An id as it was typed, fit for a path.
fn id(text: &str) -> Result<&str, CliError> {
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Ok(text);
    }
    Err(CliError::usage(format!("'{}' is not an id", text.escape_default())).hint("offshoot queue ls shows the ids"))
}

fn redrive(args: &Chosen, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let which = match &args.function {
        Some(function) => json!({"function": super::function_name(function)?}),
        None => json!({"ids": args.ids.iter().map(|i| id(i)).collect::<Result<Vec<_>, _>>()?}),
    };
    let answer = block_on(client.tell("/v1/queue/redrive", Some(&which)))?;
    let count = answer["redriven"].as_u64().unwrap_or(0);
    if count == 0
        && let Some(function) = &args.function
    {
        known(&client, function)?;
    }
    report(count, "redriven", args, "only what is dead is redriven", context)
}

fn purge(args: &Chosen, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    if let Some(function) = &args.function {
        let path = format!("/v1/queue?function={}", super::function_name(function)?);
        let answer = block_on(client.ask(Method::DELETE, &path))?;
        let count = answer["purged"].as_u64().unwrap_or(0);
        if count == 0 {
            known(&client, function)?;
        }
        return report(count, "purged", args, RUNS, context);
    }
    let ids = args.ids.iter().map(|i| id(i)).collect::<Result<Vec<_>, _>>()?;
    let count = block_on(purge_each(&client, &ids))?;
    report(count, "purged", args, RUNS, context)
}

const RUNS: &str = "what runs is not purged";

async fn purge_each(client: &Client, ids: &[&str]) -> Result<u64, CliError> {
    let mut count = 0;
    for id in ids {
        match client.ask(Method::DELETE, &format!("/v1/queue/{id}")).await {
            Ok(_) => count += 1,
            Err(error) if error.kind == "not-found" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Says how many; ids that were not among them are the mistake of whoever typed them.
fn report(count: u64, what: &str, args: &Chosen, rule: &str, context: &Context) -> Result<Exit, CliError> {
    let missed = (args.ids.len() as u64).saturating_sub(count);
    if count == 0 && missed > 0 {
        let text = if missed == 1 { format!("{} is not", args.ids[0]) } else { "none of these ids is".to_owned() };
        return Err(CliError::server("not-found", format!("{text} in the queue in a state to be {what}: {rule}"))
            .hint("offshoot queue ls shows what is there"));
    }
    if missed > 0 {
        context
            .term
            .note(&format!("{missed} of the ids were not {what}: {rule}, and what is done is not there any more"));
    }
    match context.term.json() {
        true => context.term.document(&json!({ what: count }))?,
        false => context.term.line(&format!("{what} {count}"))?,
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::term::columns;

    #[test]
    fn rows_say_what_people_want_to_know() {
        let items = [
            json!({"requestId": "i", "function": "f", "state": "waiting", "attempts": 1, "acceptedAt": "1970-01-01T00:00:48Z",
                "dueAt": "1970-01-01T00:02:00Z", "error": "no\nmoney"}),
            json!({"requestId": "j", "function": "g", "state": "dead", "attempts": 3, "acceptedAt": "1970-01-01T00:00:00Z",
                "dueAt": "1970-01-01T00:00:30Z", "error": null}),
        ];
        assert_eq!(
            columns(&table(&items, 60_000)),
            [
                "ID  FUNCTION  STATE    ATTEMPTS  ACCEPTED  NEXT   ERROR",
                "i   f         waiting  1         12s ago   in 1m  no",
                "j   g         dead     3         1m ago    -      -",
            ]
        );
        assert_eq!(summary(&json!({"waiting": 1, "dead": 2})), "1 waiting, 0 running, 0 delivering, 2 dead");
    }

    #[test]
    fn ids_cannot_leave_their_place() {
        assert!(id("ffffffff-ffff-4fff-bfff-ffffffffffff").is_ok());
        for bad in ["", "../x", "a?b", "a b", "%2e"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
