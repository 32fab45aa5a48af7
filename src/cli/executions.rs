//! `offshoot executions ls|show|history|pause|resume|stop|rm`: durable executions, what became of them, and how they are held and ended.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Context;
use super::client::{Client, block_on};
use super::error::{CliError, Exit};
use super::term::{columns, member, printable};
use super::units::{now_ms, parse_moment, show_ago, show_millis, show_moment};
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
    /// Do not call an execution's function until it is resumed
    Pause(Pause),
    /// Go on with an execution that is paused
    Resume(Why),
    /// End an execution
    #[command(alias = "cancel")]
    Stop(Stop),
    /// Forget an execution that is over
    #[command(alias = "remove", alias = "delete")]
    Rm(One),
}

#[derive(Debug, clap::Args)]
struct Ls {
    /// The function
    function: String,
    /// Only those in this state
    #[arg(long, alias = "status", value_parser = ["running", "pausing", "paused", "succeeded", "failed", "timed_out", "stopped"])]
    state: Option<String>,
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
struct Pause {
    #[command(flatten)]
    why: Why,
    /// Let the execution's time go on meanwhile
    #[arg(long)]
    keep_clock: bool,
}

#[derive(Debug, clap::Args)]
struct Why {
    /// The execution's ARN
    arn: String,
    /// Why; it becomes part of the execution's history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
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
        Verb::Pause(pause) => hold(&pause.why, "pause", Some(!pause.keep_clock), context),
        Verb::Resume(why) => hold(&why, "resume", None, context),
        Verb::Stop(stop) => end(&stop, context),
        Verb::Rm(one) => forget(&one, context),
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

/// A document of AWS's API as the command line's own documents are: names in lower camel case, states in lower case, moments as RFC 3339.
pub fn house(aws: &Value) -> Value {
    match aws {
        Value::Object(members) => members.iter().map(|(key, value)| renamed(key, value)).collect(),
        Value::Array(all) => all.iter().map(house).collect(),
        other => other.clone(),
    }
}

fn renamed(key: &str, value: &Value) -> (String, Value) {
    const NAMES: &[(&str, &str)] = &[
        ("DurableExecutions", "executions"),
        ("DurableExecutionArn", "arn"),
        ("DurableExecutionName", "name"),
        ("DurableConfig", "durable"),
        ("ExpectedExecutionTimeoutTimestamp", "timesOutAt"),
        ("StartTimestamp", "startedAt"),
        ("EndTimestamp", "endedAt"),
        ("StopTimestamp", "stoppedAt"),
        ("EventTimestamp", "at"),
        ("EventType", "type"),
        ("EventId", "number"),
        ("Id", "operation"),
        ("Status", "state"),
        ("NextMarker", "next"),
    ];
    let known = NAMES.iter().find(|(aws, _)| *aws == key).map(|(_, ours)| (*ours).to_owned());
    let details = key.len() > "Details".len() && key.ends_with("Details") && !key.starts_with("Retry");
    let name = known.unwrap_or_else(|| if details { "details".to_owned() } else { lower_first(key) });
    let value = match (key, value) {
        ("Status", Value::String(text)) => Value::from(text.to_lowercase()),
        (_, Value::Number(seconds)) if key.ends_with("Timestamp") => {
            let ms = seconds.as_f64().filter(|s| *s >= 0.0).map(|s| (s * 1000.0).round() as u64);
            ms.map_or(Value::Null, |ms| Value::from(show_moment(ms)))
        }
        (_, other) => house(other),
    };
    (name, value)
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// A member that is a moment, in milliseconds since 1970.
fn ms(object: &Value, key: &str) -> Option<u64> {
    object[key].as_str().and_then(parse_moment)
}

fn list(args: &Ls, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let function = super::function_name(&args.function)?;
    let mut path = format!("/2025-12-01/functions/{function}/durable-executions?MaxItems={}", args.limit);
    if let Some(state) = &args.state {
        path += &format!("&Statuses={}", state.to_uppercase());
    }
    let answer = block_on(async {
        match client.ask(Method::GET, &path).await {
            Err(error) if error.kind == "not-found" => Err(client.unknown_function(&function).await),
            other => other,
        }
    })?;
    let answer = house(&answer);
    if context.term.json() {
        context.term.document(&answer)?;
        return Ok(Exit::Ok);
    }
    let found = answer["executions"].as_array().cloned().unwrap_or_default();
    if found.is_empty() {
        // Only a durable function has a durable configuration.
        let about = block_on(client.ask(Method::GET, &format!("/2015-03-31/functions/{function}/configuration")));
        context.term.note(&match about {
            Ok(about) if about["DurableConfig"].is_null() => {
                format!(
                    "{function} is not durable: it has no executions (DurableConfig is set when a function is made)"
                )
            }
            _ => format!("{function} has no executions{}", if args.state.is_some() { " in this state" } else { "" }),
        });
        return Ok(Exit::Ok);
    }
    context.term.table(&table(&found, now_ms()))?;
    if answer["next"].is_string() {
        context.term.note("there are more: --limit, up to 1000");
    }
    Ok(Exit::Ok)
}

fn table(found: &[Value], now: u64) -> Vec<Vec<String>> {
    let mut rows = vec![["STATE", "STARTED", "TOOK", "ARN"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|one| {
        let (started, ended) = (ms(one, "startedAt"), ms(one, "endedAt"));
        let took = started.zip(ended).map_or("-".to_owned(), |(from, to)| show_millis(to.saturating_sub(from)));
        let ago = started.map_or("-".to_owned(), |then| show_ago(then, now));
        vec![member(one, "state"), ago, took, member(one, "arn")]
    }));
    rows
}

fn show(args: &One, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let found = block_on(client.ask(Method::GET, &path_of(&args.arn)?)).map_err(|error| known(error, &args.arn))?;
    let found = house(&found);
    match context.term.json() {
        true => context.term.document(&json!({"execution": found}))?,
        false => context.term.members(&found, |_, value| value.to_string())?,
    }
    Ok(Exit::Ok)
}

fn events(args: &History, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let (all, next) = block_on(pages(&client, &path_of(&args.arn)?, args.limit)).map_err(|e| known(e, &args.arn))?;
    if context.term.json() {
        let mut document = json!({"events": all});
        if let Some(next) = next {
            document["next"] = Value::from(next);
        }
        context.term.document(&document)?;
        return Ok(Exit::Ok);
    }
    columns(&history(&all)).iter().try_for_each(|line| context.term.line(line))?;
    if next.is_some() {
        context.term.note("there are more: --limit, up to 1000");
    }
    Ok(Exit::Ok)
}

/// So many events, over as many answers as it takes: one that is large ends early.
async fn pages(client: &Client, path: &str, limit: u64) -> Result<(Vec<Value>, Option<String>), CliError> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let left = limit - all.len() as u64;
        let page = house(&client.ask(Method::GET, &format!("{path}/history?MaxItems={left}{after}")).await?);
        let events = page["events"].as_array().cloned().unwrap_or_default();
        let came = events.len();
        all.extend(events);
        match page["next"].as_str() {
            Some(next) if came > 0 && (all.len() as u64) < limit => after = format!("&Marker={next}"),
            next => return Ok((all, next.map(str::to_owned))),
        }
    }
}

fn history(events: &[Value]) -> Vec<Vec<String>> {
    let row = |event: &Value| {
        vec![
            event["number"].to_string(),
            member(event, "at"),
            member(event, "type"),
            member(event, "name"),
            said(event),
        ]
    };
    events.iter().map(row).collect()
}

/// What came of it, on one line: the result, or the error's message.
fn said(event: &Value) -> String {
    let details = &event["details"];
    let result = details["result"]["payload"].as_str().or(details["input"]["payload"].as_str());
    let error = &details["error"]["payload"];
    let text = result.or(error["errorMessage"].as_str()).or(error["errorType"].as_str()).unwrap_or_default();
    printable(text, false).lines().next().unwrap_or_default().chars().take(80).collect()
}

fn end(args: &Stop, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let why = args.reason.as_ref().map(|reason| json!({"ErrorMessage": reason}));
    let told = block_on(client.tell(&format!("{}/stop", path_of(&args.arn)?), why.as_ref()));
    let answer = house(&told.map_err(|error| known(error, &args.arn))?);
    match context.term.json() {
        true => context.term.document(&answer)?,
        false => context.term.line(&format!("ended {}", member(&answer, "stoppedAt")))?,
    }
    Ok(Exit::Ok)
}

/// Pauses or resumes.
fn hold(args: &Why, verb: &str, stops_clock: Option<bool>, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let mut asked = json!({});
    if let Some(reason) = &args.reason {
        asked["Reason"] = json!(reason);
    }
    if let Some(stops) = stops_clock {
        asked["ExecutionTimeoutPaused"] = json!(stops);
    }
    let path = path_of(&args.arn)?;
    let found = block_on(async {
        client.tell(&format!("{path}/{verb}"), Some(&asked)).await?;
        client.ask(Method::GET, &format!("{path}?IncludeExecutionData=false")).await
    });
    let found = house(&found.map_err(|error| known(error, &args.arn))?);
    match context.term.json() {
        true => context.term.document(&json!({"execution": found}))?,
        false => context.term.line(&member(&found, "state"))?,
    }
    Ok(Exit::Ok)
}

fn forget(args: &One, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    block_on(client.ask(Method::DELETE, &path_of(&args.arn)?)).map_err(|error| known(error, &args.arn))?;
    match context.term.json() {
        true => context.term.document(&json!({"removed": [args.arn]}))?,
        false => context.term.line(&format!("removed {}", args.arn))?,
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
        let found = json!({"DurableExecutions": [
            {"Status": "RUNNING", "StartTimestamp": 48.0, "DurableExecutionArn": "a"},
            {"Status": "FAILED", "StartTimestamp": 0.5, "EndTimestamp": 2.75, "DurableExecutionArn": "b"},
        ]});
        let found = house(&found)["executions"].as_array().cloned().unwrap();
        assert_eq!(
            columns(&table(&found, 60_000)),
            ["STATE    STARTED  TOOK   ARN", "running  12s ago  -      a", "failed   59s ago  2.25s  b"]
        );
        let event = json!({"EventId": 1, "EventType": "StepFailed", "EventTimestamp": 1.5, "Name": "n",
            "StepFailedDetails": {"Error": {"Payload": {"ErrorMessage": "no\nmoney"}}}});
        assert_eq!(history(&[house(&event)])[0], ["1", "1970-01-01T00:00:01.500Z", "StepFailed", "n", "no"]);
    }

    #[test]
    fn documents_are_in_the_words_of_the_command_line() {
        let aws = json!({"DurableExecutionArn": "a", "Status": "TIMED_OUT", "StartTimestamp": 1.5, "EndTimestamp": null,
            "DurableConfig": {"ExecutionTimeout": 3}, "Error": {"ErrorType": "E"}, "InputPayload": "{\"Status\":1}"});
        let ours = json!({"arn": "a", "state": "timed_out", "startedAt": "1970-01-01T00:00:01.500Z", "endedAt": null,
            "durable": {"executionTimeout": 3}, "error": {"errorType": "E"}, "inputPayload": "{\"Status\":1}"});
        assert_eq!(house(&aws), ours);
    }
}
