//! `offshoot executions ls|show|history|stop`: durable executions, what became of them, and how they are ended.

use bytes::Bytes;
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Context;
use super::client::{Call, Upload, block_on};
use super::error::{CliError, Exit};
use super::term::{columns, printable};
use super::units::{now_ms, show_ago, show_millis, show_moment};
use crate::config::ClientFlags;

/// Looks after durable executions.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the executions of a function, the newest first
    #[command(alias = "list")]
    Ls(Ls),
    /// Show one execution, with its input and its result
    #[command(alias = "get", alias = "describe")]
    Show(One),
    /// Show everything that happened to an execution
    #[command(alias = "events")]
    History(History),
    /// End an execution
    #[command(alias = "cancel")]
    Stop(Stop),
}

#[derive(Debug, clap::Args)]
struct Ls {
    /// The function
    function: String,
    /// Only those in this state
    #[arg(long, value_parser = ["running", "succeeded", "failed", "timed_out", "stopped"])]
    status: Option<String>,
    /// At most so many, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    #[command(flatten)]
    flags: ClientFlags,
}

#[derive(Debug, clap::Args)]
struct One {
    /// The execution's ARN
    arn: String,
    #[command(flatten)]
    flags: ClientFlags,
}

#[derive(Debug, clap::Args)]
struct History {
    /// The execution's ARN
    arn: String,
    /// At most so many events, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    #[command(flatten)]
    flags: ClientFlags,
}

#[derive(Debug, clap::Args)]
struct Stop {
    /// The execution's ARN
    arn: String,
    /// Why; it becomes the execution's error
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    flags: ClientFlags,
}

/// Does what is asked of executions.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    match args.verb {
        Verb::Ls(ls) => list(&ls, context),
        Verb::Show(one) => show(&one, context),
        Verb::History(history) => events(&history, context),
        Verb::Stop(stop) => end(&stop, context),
    }
}

/// An ARN as it was typed, as one segment of a path.
fn segment(arn: &str) -> Result<String, CliError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":/-_$.".contains(&b);
    let shaped = arn.starts_with("arn:") && arn.contains("/durable-execution/");
    if !shaped || arn.len() > 1024 || !arn.bytes().all(plain) {
        let shown: String = arn.chars().take(80).flat_map(char::escape_default).collect();
        return Err(CliError::usage(format!("'{shown}' is not the ARN of an execution"))
            .hint("offshoot executions ls FUNCTION shows the ARNs"));
    }
    let safe = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    Ok(arn.bytes().map(|b| if safe(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect())
}

fn path_of(arn: &str) -> Result<String, CliError> {
    Ok(format!("/2025-12-01/durable-executions/{}", segment(arn)?))
}

/// The same error; one about an execution that is not there says which, and where the ARNs are.
fn known(error: CliError, arn: &str) -> CliError {
    if error.kind != "not-found" {
        return error;
    }
    CliError::server("not-found", format!("there is no execution {arn}"))
        .hint("offshoot executions ls FUNCTION shows the ARNs")
}

/// A time of AWS's API in milliseconds.
fn ms(value: &Value) -> Option<u64> {
    value.as_f64().filter(|s| *s >= 0.0).map(|s| (s * 1000.0).round() as u64)
}

fn list(args: &Ls, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let function = super::function_name(&args.function)?;
    let mut path = format!("/2025-12-01/functions/{function}/durable-executions?MaxItems={}", args.limit);
    if let Some(status) = &args.status {
        path += &format!("&Statuses={}", status.to_uppercase());
    }
    let answer = block_on(async {
        match client.ask(Method::GET, &path).await {
            Err(error) if error.kind == "not-found" => Err(client.unknown_function(&function).await),
            other => other,
        }
    })?;
    if context.term.json() {
        context.term.document(&answer)?;
        return Ok(Exit::Ok);
    }
    let found = answer["DurableExecutions"].as_array().cloned().unwrap_or_default();
    if found.is_empty() {
        // Only a durable function has a durable configuration.
        let about = block_on(client.ask(Method::GET, &format!("/2015-03-31/functions/{function}/configuration")));
        context.term.note(&match about {
            Ok(about) if about["DurableConfig"].is_null() => {
                format!(
                    "{function} is not durable: it has no executions (DurableConfig is set when a function is made)"
                )
            }
            _ => format!("{function} has no executions{}", if args.status.is_some() { " in this state" } else { "" }),
        });
        return Ok(Exit::Ok);
    }
    let lines = columns(&table(&found, now_ms()));
    context.term.line(&context.term.bold_out(&lines[0]))?;
    lines[1..].iter().try_for_each(|line| context.term.line(line))?;
    if answer["NextMarker"].is_string() {
        context.term.note("there are more: --limit, up to 1000");
    }
    Ok(Exit::Ok)
}

fn table(found: &[Value], now: u64) -> Vec<Vec<String>> {
    let mut rows = vec![["STATUS", "STARTED", "TOOK", "ARN"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|one| {
        let text = |key: &str| one[key].as_str().map_or("-".to_owned(), |t| printable(t, false));
        let (started, ended) = (ms(&one["StartTimestamp"]), ms(&one["EndTimestamp"]));
        let took = started.zip(ended).map_or("-".to_owned(), |(from, to)| show_millis(to.saturating_sub(from)));
        let ago = started.map_or("-".to_owned(), |then| show_ago(then, now));
        vec![text("Status").to_lowercase(), ago, took, text("DurableExecutionArn")]
    }));
    rows
}

fn show(args: &One, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let found = block_on(client.ask(Method::GET, &path_of(&args.arn)?)).map_err(|error| known(error, &args.arn))?;
    if context.term.json() {
        context.term.document(&json!({"execution": found}))?;
        return Ok(Exit::Ok);
    }
    for (key, value) in found.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            number if key.ends_with("Timestamp") => ms(number).map_or_else(|| number.to_string(), show_moment),
            other => other.to_string(),
        };
        let key = context.term.dim_out(&format!("{key:<34}"));
        context.term.line(&format!("{key} {}", printable(&shown, false)))?;
    }
    Ok(Exit::Ok)
}

fn events(args: &History, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let path = format!("{}/history?MaxItems={}", path_of(&args.arn)?, args.limit);
    let answer = block_on(client.ask(Method::GET, &path)).map_err(|error| known(error, &args.arn))?;
    if context.term.json() {
        context.term.document(&answer)?;
        return Ok(Exit::Ok);
    }
    let all = answer["Events"].as_array().cloned().unwrap_or_default();
    columns(&history(&all)).iter().try_for_each(|line| context.term.line(line))?;
    if answer["NextMarker"].is_string() {
        context.term.note("there are more: -o json shows the marker of the rest");
    }
    Ok(Exit::Ok)
}

fn history(events: &[Value]) -> Vec<Vec<String>> {
    let row = |event: &Value| {
        let text = |key: &str| event[key].as_str().map_or("-".to_owned(), |t| printable(t, false));
        vec![
            event["EventId"].to_string(),
            ms(&event["EventTimestamp"]).map_or("-".to_owned(), show_moment),
            text("EventType"),
            text("Name"),
            said(event),
        ]
    };
    events.iter().map(row).collect()
}

/// What came of it, on one line: the result, or the error's message.
fn said(event: &Value) -> String {
    let kind = event["EventType"].as_str().unwrap_or_default();
    let details = &event[format!("{kind}Details")];
    let result = details["Result"]["Payload"].as_str().or(details["Input"]["Payload"].as_str());
    let error = &details["Error"]["Payload"];
    let text = result.or(error["ErrorMessage"].as_str()).or(error["ErrorType"].as_str()).unwrap_or_default();
    printable(text, false).lines().next().unwrap_or_default().chars().take(80).collect()
}

fn end(args: &Stop, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let mut call = Call::new(Method::POST, format!("{}/stop", path_of(&args.arn)?));
    if let Some(reason) = &args.reason {
        call = call.body(Upload::new(vec![Bytes::from(json!({"ErrorMessage": reason}).to_string())], |_| {}));
    }
    let answer: Value =
        serde_json::from_slice(&block_on(client.send(call)).map_err(|error| known(error, &args.arn))?.body)
            .unwrap_or_default();
    match context.term.json() {
        true => context.term.document(&answer)?,
        false => {
            let ended = ms(&answer["StopTimestamp"]).map_or("-".to_owned(), show_moment);
            context.term.line(&format!("ended {ended}"))?;
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST/durable-execution/n/x";

    #[test]
    fn arns_stay_one_segment() {
        assert!(segment(ARN).unwrap().ends_with("f%3A%24LATEST%2Fdurable-execution%2Fn%2Fx"));
        for bad in
            ["", "f", "arn:x", "arn:/durable-execution/a?b", "arn:/durable-execution/%2e", "arn:/durable-execution/é"]
        {
            assert!(segment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rows_say_what_people_want_to_know() {
        let found = [
            json!({"Status": "RUNNING", "StartTimestamp": 48.0, "DurableExecutionArn": "a"}),
            json!({"Status": "FAILED", "StartTimestamp": 0.5, "EndTimestamp": 2.75, "DurableExecutionArn": "b"}),
        ];
        assert_eq!(
            columns(&table(&found, 60_000)),
            ["STATUS   STARTED  TOOK   ARN", "running  12s ago  -      a", "failed   59s ago  2.25s  b"]
        );
        let event = json!({"EventId": 1, "EventType": "StepFailed", "EventTimestamp": 1.5, "Name": "n",
            "StepFailedDetails": {"Error": {"Payload": {"ErrorMessage": "no\nmoney"}}}});
        assert_eq!(history(&[event])[0][2..], ["StepFailed", "n", "no"]);
    }
}
