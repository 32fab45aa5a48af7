//! `offshoot invoke NAME`: calls a function and prints its answer exactly as it came.
//!
//! Standard output holds the answer and nothing else; the log and the account of the time go to standard error.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use offshoot_model::FunctionName;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::client::{Answer, Call, Client, Upload, block_on};
use super::error::{CliError, Exit};
use super::term::{Term, printable};
use super::units::parse_millis;
use super::{Context, base64};
use crate::config::ClientFlags;

/// Calls a function.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  offshoot invoke hello -d '{\"name\":\"Ana\"}'\n  jq . event.json | offshoot invoke hello -e -\n  \
    offshoot invoke site --path /items?id=3 -H 'Accept: text/html'"
)]
pub struct Args {
    /// The function; NAME:QUALIFIER calls one of its versions
    name: String,
    /// The version or alias to call: a number, the name of an alias, or $LATEST
    #[arg(long, value_name = "NAME")]
    qualifier: Option<String>,
    /// The event, as JSON; for functions called by request: the body
    #[arg(short, long, value_name = "JSON", conflicts_with = "event")]
    data: Option<String>,
    /// A file that holds it; - is standard input
    #[arg(short, long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// Path and query, for functions called by request
    #[arg(long, value_name = "/PATH?QUERY", help_heading = "Request")]
    path: Option<String>,
    /// Method [default: GET, or POST with a body]
    #[arg(long, short = 'X', value_name = "METHOD", help_heading = "Request")]
    method: Option<String>,
    /// A header; may be repeated
    #[arg(long, short = 'H', value_name = "NAME:VALUE", help_heading = "Request")]
    header: Vec<String>,
    /// Give up waiting after this time (the function's own limit is set at deploy)
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse_millis(text, 1000))]
    timeout: Option<u64>,
    /// Do not wait: hand the call in and print its id
    #[arg(long = "async")]
    later: bool,
    /// How often it is tried again when the function fails: 0 to 2
    #[arg(long, value_name = "N", requires = "later", help_heading = "With --async", value_parser = clap::value_parser!(u32).range(0..=2))]
    max_retries: Option<u32>,
    /// How long it may wait to succeed: 1m to 6h
    #[arg(long, value_name = "TIME", requires = "later", help_heading = "With --async", value_parser = |text: &str| parse_millis(text, 1000))]
    max_age: Option<u64>,
    /// Who is told when it has succeeded: a function, the ARN of a queue, or an http:// address
    #[arg(long, value_name = "TARGET", requires = "later", help_heading = "With --async")]
    on_success: Option<String>,
    /// Who is told when it has failed for good
    #[arg(long, value_name = "TARGET", requires = "later", help_heading = "With --async")]
    on_failure: Option<String>,
    /// Who gets the event itself when it has failed for good
    #[arg(long, value_name = "TARGET", requires = "later", help_heading = "With --async")]
    dead_letter: Option<String>,
    #[command(flatten)]
    flags: ClientFlags,
}

/// Calls the function; the exit code tells how it ended.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let (name, in_name) = match args.name.split_once(':') {
        Some((name, qualifier)) => (super::function_name(name)?, Some(qualifier.to_owned())),
        None => (super::function_name(&args.name)?, None),
    };
    let args = match (in_name, &args.qualifier) {
        (Some(a), Some(b)) if a != *b => {
            return Err(CliError::usage(format!("the name says {a} and --qualifier says {b}: give one of them")));
        }
        (Some(qualifier), _) => Args { qualifier: Some(qualifier), ..args },
        (None, _) => args,
    };
    let payload = payload(&args)?;
    let client = context.client(&args.flags)?;
    let answer = block_on(call(&client, &name, &args, payload))?;
    if args.later {
        return show_accepted(&answer, context);
    }
    let account = Account::read(&answer.headers);
    if !context.term.quiet && !context.term.json() {
        show_log(&account, &context.term);
    }
    if context.term.json() {
        context.term.document(&document(&name, &account, &answer.body))?;
    } else {
        context.term.out(&answer.body)?;
        if context.term.out_is_terminal() && !answer.body.ends_with(b"\n") {
            context.term.out(b"\n")?;
        }
        show_account(&account, &answer.body, &context.term);
    }
    Ok(account.failure.as_deref().map_or(Exit::Ok, Exit::of_failure))
}

/// The id of a call that is made later.
fn show_accepted(answer: &Answer, context: &Context) -> Result<Exit, CliError> {
    let accepted: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let Some(id) = accepted["requestId"].as_str() else {
        return Err(CliError::server("internal", "the server did not say under which id the call was accepted"));
    };
    match context.term.json() {
        true => context.term.document(&accepted)?,
        false => context.term.line(id)?,
    }
    Ok(Exit::Ok)
}

fn payload(args: &Args) -> Result<Option<Bytes>, CliError> {
    if let Some(text) = &args.data {
        return Ok(Some(text.clone().into()));
    }
    let Some(path) = &args.event else { return Ok(None) };
    let read = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = read.map_err(|e| CliError::config(format!("cannot read the event from {}: {e}", path.display())))?;
    Ok(Some(bytes.into()))
}

async fn call(client: &Client, name: &FunctionName, args: &Args, payload: Option<Bytes>) -> Result<Answer, CliError> {
    let function = client.function(name).await?;
    let call = Call::new(Method::POST, format!("/v1/functions/{name}/invoke"));
    let call = if function["convention"] == "request" {
        as_request(call, args, payload)?
    } else {
        as_event(call, name, args, payload)?
    };
    let kind = HeaderName::from_static("offshoot-invocation-type");
    let mut call = if args.later { call.header(kind, HeaderValue::from_static("Event")) } else { call };
    for (name, flag, value) in said(args)? {
        call = call.header(HeaderName::from_static(name), header_value(flag, &value)?);
    }
    let Some(limit) = args.timeout else { return client.send(call).await };
    let answer = tokio::time::timeout(Duration::from_millis(limit), client.send(call)).await;
    answer.unwrap_or_else(|_| {
        let message = format!("'{name}' did not answer within {limit} ms (--timeout)");
        Err(CliError::new(Exit::TimedOut, "timeout", message).hint("it may still be running: offshoot logs shows"))
    })
}

/// What flags say about the call as a whole: header, flag and value.
fn said(args: &Args) -> Result<Vec<(&'static str, &'static str, String)>, CliError> {
    let age = args.max_age.map(|ms| match ms % 1000 {
        0 => Ok((ms / 1000).to_string()),
        _ => Err(CliError::usage("--max-age is in whole seconds")),
    });
    let all = [
        ("offshoot-qualifier", "--qualifier", args.qualifier.clone()),
        ("offshoot-max-retries", "--max-retries", args.max_retries.map(|n| n.to_string())),
        ("offshoot-max-age", "--max-age", age.transpose()?),
        ("offshoot-on-success", "--on-success", args.on_success.clone()),
        ("offshoot-on-failure", "--on-failure", args.on_failure.clone()),
        ("offshoot-dead-letter", "--dead-letter", args.dead_letter.clone()),
    ];
    Ok(all.into_iter().filter_map(|(header, flag, value)| Some((header, flag, value?))).collect())
}

fn as_event(call: Call, name: &FunctionName, args: &Args, payload: Option<Bytes>) -> Result<Call, CliError> {
    if args.path.is_some() || args.method.is_some() || !args.header.is_empty() {
        return Err(CliError::usage(format!(
            "'{name}' takes an event, so --path, --method and --header have no meaning for it"
        ))
        .hint("give the event with -d JSON, or deploy the function with --convention request"));
    }
    let event = payload.unwrap_or(Bytes::from_static(b"{}"));
    check_json(&event, args.data.is_some())?;
    let json = HeaderValue::from_static("application/json");
    Ok(call.header(http::header::CONTENT_TYPE, json).body(Upload::new(vec![event], |_| {})))
}

fn check_json(event: &[u8], typed: bool) -> Result<(), CliError> {
    let Err(error) = serde_json::from_slice::<IgnoredAny>(event) else { return Ok(()) };
    let hint = if event.starts_with(b"@") {
        "a file is given with -e FILE, standard input with -e -"
    } else if typed {
        "quote it for the shell: -d '{\"name\":\"Ana\"}'; a plain text is written -d '\"text\"'"
    } else {
        "an event is one JSON value; a plain text needs quotes"
    };
    Err(CliError::usage(format!("the event is not JSON: {error}")).hint(hint))
}

fn as_request(call: Call, args: &Args, payload: Option<Bytes>) -> Result<Call, CliError> {
    let target = args.path.as_deref().unwrap_or("/");
    if !target.starts_with('/') {
        return Err(CliError::usage(format!("--path {target}: a path begins with /")));
    }
    let target = encoded(target);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let method = args.method.as_deref().unwrap_or(if payload.is_some() { "POST" } else { "GET" }).to_ascii_uppercase();
    let mut call = call
        .header(HeaderName::from_static("offshoot-method"), header_value("--method", &method)?)
        .header(HeaderName::from_static("offshoot-path"), header_value("--path", path)?)
        .header(HeaderName::from_static("offshoot-query"), header_value("--path", query)?);
    let body = payload.unwrap_or_default();
    let mut typed = false;
    for header in &args.header {
        let (name, value) = header_of(header)?;
        typed |= name == "offshoot-header-content-type";
        call = call.header(name, value);
    }
    if !typed && !body.is_empty() && serde_json::from_slice::<IgnoredAny>(&body).is_ok() {
        call = call.header(
            HeaderName::from_static("offshoot-header-content-type"),
            HeaderValue::from_static("application/json"),
        );
    }
    Ok(call.body(Upload::new(vec![body], |_| {})))
}

/// A path and query as HTTP writes it; what is percent-encoded already stays.
fn encoded(target: &str) -> String {
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"#<>".contains(&b);
    target.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn header_value(what: &str, text: &str) -> Result<HeaderValue, CliError> {
    HeaderValue::from_str(text).map_err(|_| {
        CliError::usage(format!("{what}: '{}' has characters that HTTP does not allow", text.escape_default()))
    })
}

/// `Name: value` as the header that carries it.
fn header_of(text: &str) -> Result<(HeaderName, HeaderValue), CliError> {
    let wrong = || CliError::usage(format!("--header '{text}': NAME:VALUE is expected"));
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(format!("offshoot-header-{}", name.trim()).as_bytes()).map_err(|_| wrong())?;
    if name == "offshoot-header-" {
        return Err(wrong());
    }
    Ok((name, header_value("--header", value.trim())?))
}

/// What the server says about an invocation, from the headers of its answer.
#[derive(Debug, Default, PartialEq)]
struct Account {
    request_id: Option<String>,
    start: Option<String>,
    timing: Vec<(String, f64)>,
    memory: Option<(u64, u64)>,
    log: Vec<u8>,
    status: Option<u16>,
    reply_headers: Option<Value>,
    failure: Option<String>,
}

impl Account {
    fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let owned = |name: &str| text(name).map(|value| printable(value, false));
        let pair =
            |part: &str| part.split_once('=').and_then(|(k, v)| Some((k.trim().to_owned(), v.trim().parse().ok()?)));
        Account {
            request_id: owned("offshoot-request-id"),
            start: owned("offshoot-start"),
            timing: text("offshoot-timing").unwrap_or_default().split(';').filter_map(pair).collect(),
            memory: text("offshoot-memory")
                .and_then(|m| m.split_once('/'))
                .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?))),
            log: text("offshoot-log").and_then(base64::decode).unwrap_or_default(),
            status: text("offshoot-status").and_then(|status| status.parse().ok()),
            reply_headers: text("offshoot-reply-headers").and_then(|pairs| serde_json::from_str(pairs).ok()),
            failure: owned("offshoot-function-error"),
        }
    }

    fn phase(&self, name: &str) -> Option<f64> {
        self.timing.iter().find(|(phase, _)| phase == name).map(|(_, ms)| *ms)
    }

    /// One line: `200 · cold · 4.2 ms = queue 0.0 + start 2.1 + init 1.0 + run 0.9 · 31/128 MB`.
    fn line(&self) -> String {
        let warm = self.start.as_deref() == Some("warm");
        let mut parts = Vec::new();
        parts.extend(self.status.filter(|status| *status != 0).map(|status| status.to_string()));
        parts.extend(self.start.as_ref().map(|_| if warm { "warm" } else { "cold" }.to_owned()));
        let phases = ["queue", "start", "init", "run"].into_iter().filter_map(|name| Some((name, self.phase(name)?)));
        let shown = phases.filter(|(name, ms)| *ms > 0.0 || !(warm && matches!(*name, "start" | "init")));
        let sum = shown.map(|(name, ms)| format!("{name} {ms:.1}")).collect::<Vec<_>>().join(" + ");
        parts.extend(
            self.phase("total")
                .map(|ms| if sum.is_empty() { format!("{ms:.1} ms") } else { format!("{ms:.1} ms = {sum}") }),
        );
        let mb = |bytes: u64| (bytes as f64 / 1_048_576.0).round();
        parts.extend(
            self.memory.filter(|(peak, _)| *peak > 0).map(|(peak, limit)| format!("{}/{} MB", mb(peak), mb(limit))),
        );
        parts.join(" · ")
    }
}

fn show_log(account: &Account, term: &Term) {
    let text = String::from_utf8_lossy(&account.log);
    for line in text.lines() {
        term.note(&term.dim(&term.log_text(line)));
    }
}

fn show_account(account: &Account, body: &[u8], term: &Term) {
    if let Some(cause) = &account.failure {
        let error: Value = serde_json::from_slice(body).unwrap_or_default();
        let part = |key: &str| error[key].as_str().map(|text| printable(text, false)).unwrap_or_default();
        let (kind, message) = (part("errorType"), part("errorMessage"));
        let colon = if kind.is_empty() || message.is_empty() { "" } else { ": " };
        term.note(&format!("{} {kind}{colon}{message}", term.red(&format!("function error ({cause}):"))));
    }
    let line = account.line();
    if !line.is_empty() {
        term.note(&term.dim(&line));
    }
    if term.verbose {
        let text = |value: &Option<String>| value.clone().unwrap_or("-".to_owned());
        term.note(&term.dim(&format!("request {} · start {}", text(&account.request_id), text(&account.start))));
        for pair in account.reply_headers.iter().filter_map(Value::as_array).flatten() {
            let part = |at: usize| printable(pair[at].as_str().unwrap_or_default(), false);
            term.note(&term.dim(&format!("{}: {}", part(0), part(1))));
        }
    }
}

/// The one document of `-o json`. A result that is JSON stays exactly as the function wrote it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    function: &'a str,
    request_id: &'a Option<String>,
    start: &'a Option<String>,
    timing_ms: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: &'a Option<Value>,
    function_error: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    log: String,
}

fn document<'a>(name: &'a FunctionName, account: &'a Account, body: &'a [u8]) -> Document<'a> {
    let result = serde_json::from_slice::<&RawValue>(body).ok();
    let text = std::str::from_utf8(body).ok();
    Document {
        function: name.as_str(),
        request_id: &account.request_id,
        start: &account.start,
        timing_ms: account.timing.iter().map(|(name, ms)| (name.clone(), Value::from(*ms))).collect(),
        memory_bytes: account.memory.map(|m| m.0),
        memory_limit_bytes: account.memory.map(|m| m.1),
        status: account.status,
        headers: &account.reply_headers,
        function_error: &account.failure,
        result,
        result_text: text.filter(|_| result.is_none()),
        result_base64: text.is_none().then(|| base64::encode(body)),
        log: String::from_utf8_lossy(&account.log).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answer, stub};
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    fn args(line: &[&str]) -> Args {
        Line::parse_from([&["invoke", "f"], line].concat()).args
    }
    fn account(pairs: &[(&'static str, &'static str)]) -> Account {
        Account::read(&pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect())
    }
    /// Calls against a server that answers with this function, then with a reply; gives the second request back.
    fn sent(convention: &str, line: &[&str]) -> Result<String, CliError> {
        let meta = answer("200 OK", "", &format!(r#"{{"name":"f","convention":"{convention}"}}"#));
        let (client, server) = stub(vec![meta, answer("200 OK", "", "{}")]);
        let args = args(line);
        let payload = payload(&args)?;
        block_on(call(&client, &FunctionName::parse("f").unwrap(), &args, payload))?;
        Ok(server.join().unwrap().remove(1))
    }

    #[test]
    fn the_account_of_the_time() {
        let timing = "queue=0.04;start=2.1;init=1.0;run=0.9;total=4.2";
        let cold = account(&[
            ("offshoot-start", "clone"),
            ("offshoot-timing", timing),
            ("offshoot-memory", "32505856/134217728"),
        ]);
        assert_eq!(cold.line(), "cold · 4.2 ms = queue 0.0 + start 2.1 + init 1.0 + run 0.9 · 31/128 MB");
        let timing = "queue=0.0;start=0;init=0.0;run=0.9;total=1.0";
        let warm = account(&[
            ("offshoot-status", "404"),
            ("offshoot-start", "warm"),
            ("offshoot-timing", timing),
            ("offshoot-memory", "0/134217728"),
        ]);
        assert_eq!(warm.line(), "404 · warm · 1.0 ms = queue 0.0 + run 0.9");
        assert_eq!(account(&[]).line(), "");
        assert_eq!(account(&[("offshoot-timing", "nonsense;total=x"), ("offshoot-log", "!")]), Account::default());
    }

    #[test]
    fn events_are_sent_as_they_are() {
        assert!(sent("event", &["-d", r#"{"a": 1.0}"#]).unwrap().ends_with("\r\n\r\n{\"a\": 1.0}"));
        let none = sent("event", &[]).unwrap();
        assert!(none.starts_with("POST /v1/functions/f/invoke HTTP/1.1") && none.ends_with("\r\n\r\n{}"));
    }

    #[test]
    fn bad_events_are_usage_errors_with_a_position() {
        let error = sent("event", &["-d", "{name:1}"]).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains("line 1 column 2"), "{}", error.message);
        assert!(sent("event", &["-d", "@file"]).unwrap_err().hint.unwrap().contains("-e FILE"));
        assert!(sent("event", &["--path", "/x"]).unwrap_err().message.contains("takes an event"));
        assert_eq!(sent("event", &["-e", "/nowhere.json"]).unwrap_err().exit, Exit::Config);
    }

    #[test]
    fn requests_carry_method_path_and_headers() {
        let request = sent("request", &["--path", "/a/b?c=d", "-H", "X-A: 1", "-H", "X-A: 2", "-d", "[1]"]).unwrap();
        for line in [
            "offshoot-method: POST",
            "offshoot-path: /a/b",
            "offshoot-query: c=d",
            "offshoot-header-x-a: 1",
            "offshoot-header-x-a: 2",
            "offshoot-header-content-type: application/json",
        ] {
            assert!(request.contains(line), "{line} in {request}");
        }
        assert!(request.ends_with("\r\n\r\n[1]"));
        assert!(sent("request", &["--path", "/ü b%20?x=#"]).unwrap().contains("offshoot-path: /%C3%BC%20b%20\r\n"));
        let plain = sent("request", &["-d", "not json"]).unwrap();
        assert!(!plain.contains("content-type") && plain.ends_with("not json"));
        assert!(sent("request", &[]).unwrap().contains("offshoot-method: GET"));
        for wrong in [&["--path", "x"][..], &["-H", "novalue"], &["-H", ": x"], &["--method", "a\nb"]] {
            assert_eq!(sent("request", wrong).unwrap_err().exit, Exit::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn documents_keep_results_as_written() {
        let name = FunctionName::parse("f").unwrap();
        let account = account(&[("offshoot-function-error", "timeout"), ("offshoot-log", "aGk=")]);
        let text = |body: &[u8]| serde_json::to_string(&document(&name, &account, body)).unwrap();
        assert!(text(b"{\"n\": 12345678901234567890123}").contains(r#""result":{"n": 12345678901234567890123}"#));
        assert!(text(b"plain").contains(r#""resultText":"plain""#));
        assert!(
            text(b"\xff").contains(r#""resultBase64":"/w==""#)
                && text(b"\xff").contains(r#""functionError":"timeout""#)
        );
        assert!(text(b"1").contains(r#""log":"hi""#));
    }
}
