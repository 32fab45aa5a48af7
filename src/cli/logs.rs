//! `offshoot logs NAME`: what a function wrote, and what the platform wrote about it.
//!
//! Times are in UTC. With `-o json` the result is one document, or with `-f` one JSON object per line.

use bytes::{Buf, BytesMut};
use http::{HeaderValue, Method, header};
use http_body_util::BodyExt;
use offshoot_model::FunctionName;
use serde_json::{Value, json};

use super::Context;
use super::client::{Call, Client, block_on};
use super::error::{CliError, Exit};
use super::units::{now_ms, parse_millis, parse_moment, show_moment};
use crate::config::ClientFlags;

/// Shows what a function wrote.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The function
    name: String,
    /// Keep showing what comes
    #[arg(short, long)]
    follow: bool,
    /// Only what is younger than this (10m, 2h30m), or since this moment (2026-01-31T12:00:00Z)
    #[arg(short, long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only this invocation; the beginning of its id will do
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// At most this many lines, the last ones
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 100)]
    lines: u32,
    #[command(flatten)]
    flags: ClientFlags,
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Ago(u64),
    At(u64),
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Some(moment) = parse_moment(text) {
        return Ok(Since::At(moment));
    }
    let wrong = |_| format!("'{text}' is neither a time span such as 10m nor a moment such as 2026-01-31T12:00:00Z");
    parse_millis(text.trim_end_matches("ago").trim(), 1000).map(Since::Ago).map_err(wrong)
}

/// Prints the log.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let name = super::function_name(&args.name)?;
    let client = context.client(&args.flags)?;
    let path = path(&name, &args, now_ms());
    block_on(async {
        let mut printer =
            Printer { context, collected: (context.term.json() && !args.follow).then(Vec::new), count: 0 };
        tokio::select! {
            read = read(&client, &name, &path, &mut printer) => read?,
            () = context.term.reader_goes(), if args.follow => {}
        }
        if context.term.reader_is_gone() {
            return Ok(Exit::Ok);
        }
        if let Some(id) = args.request_id.as_ref().filter(|_| printer.count == 0) {
            let id: String = id.chars().take(64).flat_map(char::escape_default).collect();
            context.term.note(&format!("{name} has no lines of an invocation '{id}'; -o json shows whole ids"));
        }
        if let Some(lines) = printer.collected {
            context.term.document(&json!({"function": name.as_str(), "logs": lines}))?;
        }
        if args.follow {
            return Err(CliError::unreachable(format!("{} has closed the log", client.server()))
                .hint("did the server stop, or was the function removed?"));
        }
        Ok(Exit::Ok)
    })
}

fn path(name: &FunctionName, args: &Args, now: u64) -> String {
    let mut path = format!("/logs/{name}?limit={}", args.lines);
    match args.since {
        Some(Since::Ago(span)) => path += &format!("&since={}", now.saturating_sub(span)),
        Some(Since::At(moment)) => path += &format!("&since={moment}"),
        None => {}
    }
    if let Some(id) = &args.request_id {
        let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        path += &format!("&requestId={}", id.chars().filter(plain).collect::<String>());
    }
    if args.follow {
        path += "&follow=1";
    }
    path
}

async fn read(client: &Client, name: &FunctionName, path: &str, printer: &mut Printer<'_>) -> Result<(), CliError> {
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    let call = Call::new(Method::GET, path).header(header::ACCEPT, ndjson);
    let response = match client.open(call).await {
        Err(error) if error.kind == "not-found" => return Err(client.unknown_function(name).await),
        other => other?,
    };
    let mut body = response.into_body();
    let mut pending = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| client.lost(&e))?.into_data() {
            pending.extend_from_slice(&data);
        }
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line = pending.split_to(end);
            pending.advance(1);
            printer.line(&line)?;
        }
        if printer.context.term.reader_is_gone() {
            return Ok(());
        }
    }
    printer.line(&pending)
}

/// Shows lines as they come, or collects them.
struct Printer<'a> {
    context: &'a Context,
    collected: Option<Vec<Value>>,
    /// Lines so far.
    count: u64,
}

impl Printer<'_> {
    fn line(&mut self, line: &[u8]) -> Result<(), CliError> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        let record: Value = serde_json::from_slice(line).map_err(|_| {
            CliError::unreachable("the server sent a log line that is not JSON").hint("is it an Offshoot server?")
        })?;
        self.count += 1;
        let term = &self.context.term;
        match &mut self.collected {
            Some(all) => {
                all.push(record);
                Ok(())
            }
            None if term.json() => term.line(&record.to_string()),
            None => {
                let (head, text) = shown(&record);
                let text = term.log_text_out(text.trim_end_matches('\n')).replace('\n', "\n    ");
                term.line(&format!("{} {text}", term.dim_out(&head)))
            }
        }
    }
}

/// The head of a line (time, invocation, stream) and its text.
fn shown(record: &Value) -> (String, &str) {
    let time = show_moment(record["time"].as_u64().unwrap_or_default());
    let id: String = record["requestId"].as_str().unwrap_or("-").chars().take(8).filter(|c| !c.is_control()).collect();
    let stream = match record["stream"].as_str() {
        Some("stderr") => "err",
        Some("platform") => "sys",
        _ => "out",
    };
    (format!("{time} {id:<8} {stream}"), record["text"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answer, stub};
    use super::*;

    fn args(since: Option<Since>) -> Args {
        Args { name: "f".into(), follow: false, since, request_id: None, lines: 100, flags: ClientFlags::default() }
    }

    #[test]
    fn moments_and_spans() {
        assert_eq!(parse_since("10m"), Ok(Since::Ago(600_000)));
        assert_eq!(parse_since("10m ago"), Ok(Since::Ago(600_000)));
        assert_eq!(parse_since("1970-01-01T00:00:01Z"), Ok(Since::At(1000)));
        assert!(parse_since("yesterday").is_err());
    }

    #[test]
    fn questions() {
        let name = FunctionName::parse("f").unwrap();
        assert_eq!(path(&name, &args(None), 0), "/logs/f?limit=100");
        let full = Args { follow: true, request_id: Some("ab-1&x=2".into()), lines: 5, ..args(Some(Since::Ago(1000))) };
        assert_eq!(path(&name, &full, 5000), "/logs/f?limit=5&since=4000&requestId=ab-1x2&follow=1");
    }

    #[test]
    fn lines_are_split_wherever_they_come() {
        let body =
            "{\"time\":0,\"requestId\":\"8f50aaaa-bbbb\",\"stream\":\"stderr\",\"text\":\"a\"}\n\n{\"text\":\"b\"}";
        let (client, server) = stub(vec![answer("200 OK", "", body)]);
        let context = Context::for_tests();
        let mut printer = Printer { context: &context, collected: Some(Vec::new()), count: 0 };
        block_on(read(&client, &FunctionName::parse("f").unwrap(), "/logs/f", &mut printer)).unwrap();
        assert!(server.join().unwrap()[0].contains("accept: application/x-ndjson"));
        let lines = printer.collected.unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(shown(&lines[0]), ("1970-01-01T00:00:00.000Z 8f50aaaa err".to_owned(), "a"));
    }
}
