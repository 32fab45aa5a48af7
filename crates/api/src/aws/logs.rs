//! CloudWatch Logs over this server's own logs: each function writes to the group `/aws/lambda/NAME`, or to the one that its
//! `LoggingConfig` names and that others may share; each day of it (UTC) is a stream.
//! Enough for `aws logs tail --follow`, `sam logs`, `serverless logs` and for reading by hand.
//!
//! It only reads. Lines carry no instance, so streams are days and not instances.

use http::StatusCode;
use offshoot_model::FunctionName;
use offshoot_node::observe::{LogEntry, LogQuery};
use offshoot_node::registry::Version;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{MAX_DOCUMENT, fault, json_reply};
use crate::Backend;
use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::Reply;
use crate::text;

/// What `X-Amz-Target` begins with.
pub(super) const TARGET: &str = "Logs_20140328.";
const GROUP: &str = "/aws/lambda/";
/// Events of one answer, at most and when nothing is said (AWS: 10,000), and their bytes (AWS: 1 MB).
const MAX_EVENTS: usize = 10_000;
const MAX_BYTES: usize = 1 << 20;
/// Groups or streams of one answer (AWS: 50).
const MAX_LISTED: usize = 50;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Asked {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_group_name_prefix: Option<String>,
    log_group_name_pattern: Option<String>,
    log_stream_name: Option<String>,
    log_stream_names: Vec<String>,
    log_stream_name_prefix: Option<String>,
    order_by: Option<String>,
    descending: bool,
    start_from_head: bool,
    start_time: Option<i64>,
    end_time: Option<i64>,
    filter_pattern: Option<String>,
    next_token: Option<String>,
    limit: Option<usize>,
}

/// Any operation of Logs.
pub(super) async fn route<B: Backend>(call: &mut Call<'_, B>) -> Result<Reply, Refusal> {
    let target = call.parts.headers.get("x-amz-target").and_then(|v| v.to_str().ok()).unwrap_or("");
    let operation = target.strip_prefix(TARGET).unwrap_or("").to_owned();
    let body = call.collect(MAX_DOCUMENT).await?;
    let document = if body.is_empty() { &b"{}"[..] } else { &body };
    let asked: Asked = serde_json::from_slice(document).map_err(|e| {
        fault(StatusCode::BAD_REQUEST, "SerializationException", format!("the request cannot be read: {e}"))
    })?;
    let answer = match operation.as_str() {
        "DescribeLogGroups" => groups(call, &asked)?,
        "DescribeLogStreams" => streams(&lines(call, &asked).await?, &asked)?,
        "GetLogEvents" => stream_events(&lines(call, &asked).await?, &asked)?,
        "FilterLogEvents" => filter_events(&lines(call, &asked).await?, &asked)?,
        "ListTagsLogGroup" | "ListTagsForResource" => json!({"tags": {}}),
        "CreateLogGroup" if group(call, &asked).is_ok() => {
            let message = "The specified log group already exists";
            return Err(fault(StatusCode::BAD_REQUEST, "ResourceAlreadyExistsException", message));
        }
        _ => {
            let shown: String = operation.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
            let message = format!("Logs' {shown} is not supported here: logs are read, and belong to the functions");
            return Err(fault(StatusCode::BAD_REQUEST, "UnknownOperationException", message));
        }
    };
    Ok(json_reply(&answer))
}

fn invalid(message: impl Into<String>) -> Refusal {
    fault(StatusCode::BAD_REQUEST, "InvalidParameterException", message)
}

fn group_arn(place: &offshoot_model::Place, group: &str) -> String {
    format!("arn:aws:logs:{}:{}:log-group:{group}", place.region, place.account)
}

/// The group that a version of a function writes to.
fn group_of(version: &Version) -> String {
    let named = version.fields.as_deref().and_then(|fields| fields.logging.log_group.clone());
    named.unwrap_or_else(|| format!("{GROUP}{}", version.config.name))
}

fn groups<B: Backend>(call: &Call<'_, B>, asked: &Asked) -> Result<Value, Refusal> {
    let limit = asked.limit.unwrap_or(MAX_LISTED).clamp(1, MAX_LISTED);
    let fits = |group: &str| {
        asked.log_group_name_prefix.as_deref().is_none_or(|prefix| group.starts_with(prefix))
            && asked.log_group_name_pattern.as_deref().is_none_or(|part| group.contains(part))
            && asked.next_token.as_deref().is_none_or(|after| group > after)
    };
    // A group that several functions share is as old as the first of them.
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for version in call.backend().list() {
        let made = all.entry(group_of(&version)).or_insert(version.created_ms);
        *made = version.created_ms.min(*made);
    }
    let mut found: Vec<_> = all.into_iter().filter(|(group, _)| fits(group)).take(limit + 1).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let shown: Vec<Value> = found
        .iter()
        .map(|(group, created_ms)| {
            let arn = group_arn(call.backend().catalog().place(), group);
            json!({"logGroupName": group, "arn": format!("{arn}:*"), "logGroupArn": arn, "creationTime": created_ms,
                "metricFilterCount": 0, "storedBytes": 0, "logGroupClass": "STANDARD"})
        })
        .collect();
    let mut answer = json!({"logGroups": shown});
    if let (true, Some((last, _))) = (more, found.last()) {
        answer["nextToken"] = last.as_str().into();
    }
    Ok(answer)
}

/// The functions that write to the group that is asked for, and whether it is one that several may share.
fn group<B: Backend>(call: &Call<'_, B>, asked: &Asked) -> Result<(Vec<FunctionName>, bool), Refusal> {
    let given = asked.log_group_name.as_deref().or(asked.log_group_identifier.as_deref());
    let given = given.ok_or_else(|| invalid("logGroupName or logGroupIdentifier is missing"))?;
    let group = match given.strip_prefix("arn:") {
        Some(arn) => arn.split_once(":log-group:").map_or("", |(_, group)| group.strip_suffix(":*").unwrap_or(group)),
        None => given,
    };
    let name = group.strip_prefix(GROUP).and_then(|name| FunctionName::parse(name).ok());
    if let Some(name) = name.filter(|name| call.backend().get(name).is_some_and(|v| group_of(&v) == group)) {
        return Ok((vec![name], false));
    }
    let members: Vec<FunctionName> =
        call.backend().list().iter().filter(|v| group_of(v) == group).map(|v| v.config.name.clone()).collect();
    if members.is_empty() {
        let message = "The specified log group does not exist.";
        return Err(fault(StatusCode::BAD_REQUEST, "ResourceNotFoundException", message));
    }
    Ok((members, true))
}

/// One event: a line, with the place that tells it from others of the same millisecond.
struct Event {
    at: Place,
    stream: String,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    ms: u64,
    n: u64,
}

impl Place {
    fn write(self) -> String {
        format!("{}.{}", self.ms, self.n)
    }
    fn read(text: &str) -> Result<Self, Refusal> {
        let place = text.split_once('.').and_then(|(ms, n)| Some(Place { ms: ms.parse().ok()?, n: n.parse().ok()? }));
        place.ok_or_else(|| invalid("The specified nextToken is invalid."))
    }
}

/// The lines of a group in the time that is asked for.
async fn lines<B: Backend>(call: &Call<'_, B>, asked: &Asked) -> Result<Vec<Event>, Refusal> {
    let (names, shared) = group(call, asked)?;
    let since = asked.start_time.map(|ms| u64::try_from(ms).unwrap_or(0));
    let query = LogQuery { since_ms: since, ..LogQuery::default() };
    let state = Arc::clone(call.state);
    let read_all = move || -> Vec<(FunctionName, LogEntry)> {
        let logs = state.backend().logs();
        names.iter().flat_map(|name| logs.read(name, &query).into_iter().map(|line| (name.clone(), line))).collect()
    };
    let read = tokio::task::spawn_blocking(read_all);
    let lost =
        |e| offshoot_model::Error::new(offshoot_model::ErrorKind::Internal, "the log could not be read").caused_by(e);
    let mut events = events(read.await.map_err(lost)?, shared);
    if let Some(end) = asked.end_time.and_then(|ms| u64::try_from(ms).ok()) {
        // FilterLogEvents includes its end, GetLogEvents does not; nobody can tell by a millisecond.
        events.retain(|event| event.at.ms <= end);
    }
    Ok(events)
}

fn events(mut entries: Vec<(FunctionName, LogEntry)>, shared: bool) -> Vec<Event> {
    // Lines of a function are in the order in which they came in, which is that of time but for a few.
    entries.sort_by_key(|(_, entry)| entry.time_ms);
    let mut last = Place { ms: u64::MAX, n: 0 };
    let place = |(name, entry): (FunctionName, LogEntry)| {
        last =
            if entry.time_ms == last.ms { Place { n: last.n + 1, ..last } } else { Place { ms: entry.time_ms, n: 0 } };
        Event { at: last, stream: stream_of(&name, shared, entry.time_ms), text: entry.text }
    };
    entries.into_iter().map(place).collect()
}

/// `YYYY/MM/DD/[$LATEST]` and 32 digits, as AWS names streams, with the function's name where a group has several; the same
/// for all lines of a day.
fn stream_of(name: &FunctionName, shared: bool, ms: u64) -> String {
    let date = text::rfc3339(ms);
    let day = date.split('T').next().unwrap_or_default().replace('-', "/");
    let digest = crate::sigv4::hash(format!("{name} {day}").as_bytes());
    format!("{day}/{}[$LATEST]{}", if shared { name.as_str() } else { "" }, &digest[..32])
}

fn streams(events: &[Event], asked: &Asked) -> Result<Value, Refusal> {
    let limit = asked.limit.unwrap_or(MAX_LISTED).clamp(1, MAX_LISTED);
    let mut spans: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for event in events {
        let span = spans.entry(&event.stream).or_insert((event.at.ms, event.at.ms));
        span.1 = event.at.ms;
    }
    if !matches!(asked.order_by.as_deref(), None | Some("LogStreamName" | "LastEventTime")) {
        return Err(invalid("orderBy is LogStreamName or LastEventTime"));
    }
    let mut all: Vec<_> = spans.into_iter().collect();
    if asked.order_by.as_deref() == Some("LastEventTime") {
        all.sort_by_key(|(_, (_, last))| *last);
    }
    if asked.descending {
        all.reverse();
    }
    let prefix = asked.log_stream_name_prefix.as_deref().unwrap_or("");
    // A token is the name of the last stream of the page before.
    let seen = asked.next_token.as_deref().map(|token| all.iter().position(|(name, _)| *name == token));
    let from = seen.map_or(0, |at| at.map_or(usize::MAX, |at| at + 1));
    let rest = all.into_iter().skip(from);
    let mut found: Vec<_> = rest.filter(|(name, _)| name.starts_with(prefix)).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let shown: Vec<Value> = found
        .iter()
        .map(|(name, (first, last))| {
            json!({"logStreamName": name, "creationTime": first, "firstEventTimestamp": first, "lastEventTimestamp": last,
                "lastIngestionTime": last, "storedBytes": 0})
        })
        .collect();
    let mut answer = json!({"logStreams": shown});
    if let (true, Some((last, _))) = (more, found.last()) {
        answer["nextToken"] = (*last).into();
    }
    Ok(answer)
}

fn stream_events(events: &[Event], asked: &Asked) -> Result<Value, Refusal> {
    let stream = asked.log_stream_name.as_deref().ok_or_else(|| invalid("logStreamName is missing"))?;
    let of: Vec<&Event> = events.iter().filter(|event| event.stream == stream).collect();
    let limit = asked.limit.unwrap_or(MAX_EVENTS).clamp(1, MAX_EVENTS);
    let (from, to) = match asked.next_token.as_deref() {
        Some(token) => match token.split_once('/') {
            Some(("f", place)) => {
                let place = Place::read(place)?;
                let from = of.partition_point(|event| event.at <= place);
                (from, (from + limit).min(of.len()))
            }
            Some(("b", place)) => {
                let place = Place::read(place)?;
                let to = of.partition_point(|event| event.at < place);
                (to.saturating_sub(limit), to)
            }
            _ => return Err(invalid("The specified nextToken is invalid.")),
        },
        None if asked.start_from_head => (0, limit.min(of.len())),
        None => (of.len().saturating_sub(limit), of.len()),
    };
    let page = within_bytes(&of[from..to]);
    // At either end the token comes back unchanged: that is how a client knows that it is there.
    let same = |kind: &str| asked.next_token.clone().filter(|t| t.starts_with(kind));
    let at = |event: Option<&&Event>| event.map(|e| e.at.write());
    let none = || of.last().map_or("0.0".to_owned(), |e| e.at.write());
    let forward =
        at(page.last()).map(|p| format!("f/{p}")).or_else(|| same("f/")).unwrap_or_else(|| format!("f/{}", none()));
    let backward =
        at(page.first()).map(|p| format!("b/{p}")).or_else(|| same("b/")).unwrap_or_else(|| "b/0.0".to_owned());
    let shown: Vec<Value> = page
        .iter()
        .map(|e| json!({"timestamp": e.at.ms, "message": format!("{}\n", e.text), "ingestionTime": e.at.ms}))
        .collect();
    Ok(json!({"events": shown, "nextForwardToken": forward, "nextBackwardToken": backward}))
}

/// As many events as one answer may hold.
fn within_bytes<'a>(events: &'a [&'a Event]) -> &'a [&'a Event] {
    let mut bytes = 0;
    let fit = events.iter().take_while(|event| {
        bytes += event.text.len() + 64;
        bytes <= MAX_BYTES
    });
    &events[..fit.count().max(1).min(events.len())]
}

fn filter_events(events: &[Event], asked: &Asked) -> Result<Value, Refusal> {
    let pattern = Pattern::parse(asked.filter_pattern.as_deref().unwrap_or(""))?;
    let limit = asked.limit.unwrap_or(MAX_EVENTS).clamp(1, MAX_EVENTS);
    let after = asked.next_token.as_deref().map(Place::read).transpose()?;
    let prefix = asked.log_stream_name_prefix.as_deref().unwrap_or("");
    let names = &asked.log_stream_names;
    let wanted = |event: &&Event| {
        after.is_none_or(|place| event.at > place)
            && event.stream.starts_with(prefix)
            && (names.is_empty() || names.contains(&event.stream))
            && pattern.fits(&event.text)
    };
    let found: Vec<&Event> = events.iter().filter(wanted).collect();
    let page = within_bytes(&found[..found.len().min(limit)]);
    let shown: Vec<Value> = page
        .iter()
        .map(|e| {
            // 56 digits, growing with time and never the same twice: clients sort and compare by them.
            let id = format!("{:040}{:016}", e.at.ms, e.at.n);
            json!({"logStreamName": e.stream, "timestamp": e.at.ms, "message": format!("{}\n", e.text), "ingestionTime": e.at.ms,
                "eventId": id})
        })
        .collect();
    let mut answer = json!({"events": shown, "searchedLogStreams": []});
    if let (true, Some(last)) = (page.len() < found.len(), page.last()) {
        answer["nextToken"] = last.at.write().into();
    }
    Ok(answer)
}

/// A filter of plain terms: all of them must be there; of those with `?` one; those with `-` must not.
#[derive(Debug, Default, PartialEq)]
struct Pattern {
    all: Vec<String>,
    any: Vec<String>,
    none: Vec<String>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        if text.starts_with(['{', '[', '%']) {
            let message =
                "Patterns of JSON, of columns and of regular expressions are not supported here: use plain terms.";
            return Err(invalid(message));
        }
        let mut pattern = Pattern::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (kind, tail) = match rest.as_bytes()[0] {
                b'?' => (&mut pattern.any, &rest[1..]),
                b'-' => (&mut pattern.none, &rest[1..]),
                _ => (&mut pattern.all, rest),
            };
            let (term, left) = match tail.strip_prefix('"') {
                Some(quoted) => {
                    quoted.split_once('"').ok_or_else(|| invalid("Invalid filter pattern: a quote is open"))?
                }
                None => tail.split_once(char::is_whitespace).unwrap_or((tail, "")),
            };
            if term.is_empty() {
                return Err(invalid("Invalid filter pattern: a term is empty"));
            }
            kind.push(term.to_owned());
            rest = left.trim_start();
        }
        Ok(pattern)
    }

    fn fits(&self, text: &str) -> bool {
        self.all.iter().all(|term| text.contains(term))
            && (self.any.is_empty() || self.any.iter().any(|term| text.contains(term)))
            && !self.none.iter().any(|term| text.contains(term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn some() -> Vec<Event> {
        let name = FunctionName::parse("f").unwrap();
        let line = |ms, text: &str| LogEntry::platform(ms, None, text);
        let lines =
            vec![line(DAY, "START a"), line(DAY, "one ERROR"), line(DAY + 1, "two"), line(DAY * 2, "three ERROR x")];
        events(lines.into_iter().map(|line| (name.clone(), line)).collect(), false)
    }
    fn texts(answer: &Value) -> Vec<String> {
        let events = answer["events"].as_array().unwrap();
        events.iter().map(|e| e["message"].as_str().unwrap().trim_end().to_owned()).collect()
    }

    #[test]
    fn pages_meet_without_gap_or_overlap() {
        let all = some();
        let mut asked = Asked { limit: Some(1), ..Asked::default() };
        let mut seen = Vec::new();
        loop {
            let answer = filter_events(&all, &asked).unwrap();
            seen.extend(texts(&answer));
            match answer["nextToken"].as_str() {
                Some(token) => asked.next_token = Some(token.to_owned()),
                None => break,
            }
        }
        assert_eq!(seen, ["START a", "one ERROR", "two", "three ERROR x"]);
        assert!(filter_events(&all, &Asked { next_token: Some("x".into()), ..Asked::default() }).is_err());
        let ids = filter_events(&all, &Asked::default()).unwrap();
        let ids: Vec<_> =
            ids["events"].as_array().unwrap().iter().map(|e| e["eventId"].as_str().unwrap().to_owned()).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 56));
    }

    #[test]
    fn a_stream_is_read_from_either_end() {
        let all = some();
        let stream = Some(all[0].stream.clone());
        let ask = |limit, head, token: Option<&Value>| {
            let next_token = token.map(|t| t.as_str().unwrap().to_owned());
            let asked =
                Asked { log_stream_name: stream.clone(), limit, start_from_head: head, next_token, ..Asked::default() };
            stream_events(&all, &asked).unwrap()
        };
        let first = ask(Some(2), true, None);
        assert_eq!(texts(&first), ["START a", "one ERROR"]);
        let second = ask(Some(2), true, Some(&first["nextForwardToken"]));
        assert_eq!(texts(&second), ["two"]);
        let end = ask(Some(2), true, Some(&second["nextForwardToken"]));
        assert_eq!((texts(&end).len(), &end["nextForwardToken"]), (0, &second["nextForwardToken"]), "the end is known");
        let last = ask(Some(1), false, None);
        assert_eq!(texts(&last), ["two"]);
        assert_eq!(texts(&ask(Some(1), false, Some(&last["nextBackwardToken"]))), ["one ERROR"]);
    }

    #[test]
    fn streams_are_days() {
        let answer = streams(&some(), &Asked { descending: true, ..Asked::default() }).unwrap();
        let names: Vec<_> =
            answer["logStreams"].as_array().unwrap().iter().map(|s| s["logStreamName"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 2);
        assert!(
            names[0].starts_with("1970/01/03/[$LATEST]") && names[1].starts_with("1970/01/02/[$LATEST]"),
            "{names:?}"
        );
        assert_eq!(answer["logStreams"][1]["lastEventTimestamp"], DAY + 1);
        let one = streams(&some(), &Asked { limit: Some(1), ..Asked::default() }).unwrap();
        let token = one["nextToken"].as_str().unwrap().to_owned();
        let rest = streams(&some(), &Asked { next_token: Some(token), ..Asked::default() }).unwrap();
        assert_eq!(rest["logStreams"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn patterns_of_terms() {
        let fits = |pattern: &str, text: &str| Pattern::parse(pattern).unwrap().fits(text);
        assert!(fits("", "x") && fits("ERROR", "an ERROR") && !fits("ERROR", "error"));
        assert!(fits("a b", "b a") && !fits("a b", "a"));
        assert!(fits("?a ?b", "b") && !fits("?a ?b", "c"));
        assert!(fits("\"a b\"", "x a b") && !fits("\"a b\"", "b a") && !fits("a -b", "a b"));
        for bad in ["{ $.x = 1 }", "[a, b]", "%x%", "\"open", "?"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
