//! Durable executions: what is known of them, their history, how they are stopped, how their callbacks are answered, and the
//! two operations that the durable SDKs call from inside a function.
//!
//! What an execution is and may do is in the node; here requests are taken apart and answered in AWS's shapes.

use http::Method;
use offshoot_node::durable::types::{ErrorObject, seconds};
use offshoot_node::durable::{Caller, Filter, Head, MAX_BODY, PauseRequest, Status};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::shapes::{answer, with_marker};
use super::{Ask, cut, parse, wrong_method};
use crate::Backend;
use crate::reply::Reply;

/// Items in one answer (AWS).
const MAX_ITEMS: usize = 1000;
const DEFAULT_ITEMS: usize = 100;
/// The result or the error of a callback and the error of a stop, in bytes (AWS: 1 MB), with room for JSON's escapes.
const MAX_ANSWER: u64 = 2 << 20;

/// The body of a pause, in bytes: its texts with their escapes.
const MAX_PAUSE: u64 = 64 << 10;
/// Why an execution is paused or resumed, in characters (AWS).
const MAX_REASON: usize = 1024;

/// `/durable-executions/{arn}` and what is below it.
pub(super) async fn execution<B: Backend>(
    ask: Ask<'_, B>,
    method: &Method,
    arn: &str,
    verb: &[&str],
) -> Result<Reply, AwsError> {
    match (method, verb) {
        (&Method::GET, []) => get(ask, arn).await,
        (&Method::GET, ["history"]) => history(ask, arn).await,
        (&Method::GET, ["state"]) => state(ask, arn).await,
        (&Method::POST, ["checkpoint"]) => checkpoint(ask, arn).await,
        (&Method::POST, ["stop"]) => stop(ask, arn).await,
        (&Method::DELETE, []) => delete(ask, arn).await,
        (&Method::POST, ["pause"]) => pause(ask, arn).await,
        (&Method::POST, ["resume"]) => resume(ask, arn).await,
        _ => wrong_method(),
    }
}

/// A parameter that is true or false.
fn flag<B: Backend>(ask: &Ask<'_, B>, name: &str, default: bool) -> Result<bool, AwsError> {
    match ask.param(name) {
        None => Ok(default),
        Some("true" | "True") => Ok(true),
        Some("false" | "False") => Ok(false),
        Some(other) => Err(AwsError::constraint(other, name, "Member must be true or false")),
    }
}

/// How many items one answer is to hold; 0 is the default.
fn most<B: Backend>(ask: &Ask<'_, B>) -> Result<usize, AwsError> {
    let Some(text) = ask.param("MaxItems") else { return Ok(DEFAULT_ITEMS) };
    match text.parse::<usize>() {
        Ok(0) => Ok(DEFAULT_ITEMS),
        Ok(n) if n <= MAX_ITEMS => Ok(n),
        _ => Err(AwsError::constraint(text, "maxItems", "Member must have value less than or equal to 1000")),
    }
}

fn bad_marker() -> AwsError {
    AwsError::invalid("Invalid Marker")
}

async fn get<B: Backend>(ask: Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let durable = ask.call.backend().durable();
    let data = flag(&ask, "IncludeExecutionData", true)?;
    let head = durable.get(arn).await?;
    let mut body = summary(&ask, &head);
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[key] = value;
        }
    };
    put("Version", Some(json!(head.version)));
    put("ExecutionDataIncluded", Some(json!(data)));
    let config = json!({"ExecutionTimeout": head.timeout_s, "RetentionPeriodInDays": head.retention_days});
    put("DurableConfig", Some(config));
    put("TraceHeader", head.trace.as_ref().map(|t| json!({ "XAmznTraceId": t })));
    if !head.status.is_over() {
        put("ExpectedExecutionTimeoutTimestamp", Some(seconds(head.deadline())));
    }
    if let Some(pause) = &head.pause {
        let mut details =
            json!({"PauseRequestTimestamp": seconds(pause.requested_ms), "ExecutionTimeoutPaused": pause.stops_clock});
        if let Some(reason) = pause.reason.as_ref().filter(|_| data) {
            details["Reason"] = json!(reason);
        }
        put("PauseDetails", Some(details));
    }
    if data {
        put("InputPayload", durable.input(arn).await?.map(Value::from));
        put("Result", head.result.clone().map(Value::from));
        put("Error", head.error.as_ref().map(|e| json!(e)));
    }
    Ok(answer(200, &body))
}

/// What lists and single answers have in common.
fn summary<B: Backend>(ask: &Ask<'_, B>, head: &Head) -> Value {
    let mut out = json!({
        "DurableExecutionArn": head.arn,
        "DurableExecutionName": head.name,
        "FunctionArn": ask.place().function(head.function.as_str(), Some(&head.version)),
        "Status": head.status,
        "StartTimestamp": seconds(head.started_ms),
    });
    if let Some(ended) = head.ended_ms {
        out["EndTimestamp"] = seconds(ended);
    }
    out
}

async fn history<B: Backend>(ask: Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let (data, reverse) = (flag(&ask, "IncludeExecutionData", true)?, flag(&ask, "ReverseOrder", false)?);
    let limit = most(&ask)?;
    let after = ask.marker().map(|m| m.parse::<u64>().map_err(|_| bad_marker())).transpose()?;
    let (events, next) = ask.call.backend().durable().history(arn, after, reverse, limit, data).await?;
    Ok(answer(200, &with_marker(json!({ "Events": events }), next.map(|number| number.to_string()))))
}

async fn state<B: Backend>(ask: Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let token = ask.param("CheckpointToken").ok_or_else(|| AwsError::absent("checkpointToken"))?.to_owned();
    let (most, marker) = (most(&ask)?, ask.marker());
    let durable = ask.call.backend().durable();
    let body = durable.state(Caller::Api, arn, &token, marker.as_deref(), Some(most)).await?;
    Ok(answer(200, &body))
}

async fn checkpoint<B: Backend>(mut ask: Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let body = ask.call.collect(MAX_BODY as u64).await?;
    let body = ask.call.backend().durable().checkpoint(Caller::Api, arn, &body).await?;
    Ok(answer(200, &body))
}

/// An error as a body; none is no error.
async fn error_of<B: Backend>(ask: &mut Ask<'_, B>) -> Result<Option<ErrorObject>, AwsError> {
    let body = ask.call.collect(MAX_ANSWER).await?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let error: ErrorObject = parse(&body)?;
    Ok(Some(error).filter(|e| *e != ErrorObject::default()))
}

async fn stop<B: Backend>(mut ask: Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let error = error_of(&mut ask).await?;
    let ended = ask.call.backend().durable().stop(arn, error).await?;
    Ok(answer(200, &json!({"StopTimestamp": seconds(ended)})))
}

/// What pauses and resumes an execution.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PauseShape {
    client_token: Option<String>,
    reason: Option<String>,
    execution_timeout_paused: Option<bool>,
}

/// Reads it. The bounds are those of AWS's model.
async fn pause_of<B: Backend>(ask: &mut Ask<'_, B>) -> Result<PauseShape, AwsError> {
    let body = ask.call.collect(MAX_PAUSE).await?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(PauseShape::default());
    }
    let shape: PauseShape = parse(&body)?;
    if let Some(reason) = shape.reason.as_deref().filter(|r| r.chars().count() > MAX_REASON) {
        return Err(AwsError::constraint(reason, "reason", "Member must have length less than or equal to 1024"));
    }
    let plain = |t: &str| (1..=64).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic());
    if let Some(token) = shape.client_token.as_deref().filter(|t| !plain(t)) {
        let text = r"Member must satisfy regular expression pattern: [\x21-\x7E]+";
        return Err(AwsError::constraint(token, "clientToken", text));
    }
    Ok(shape)
}

async fn pause<B: Backend>(mut ask: Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let PauseShape { client_token, reason, execution_timeout_paused } = pause_of(&mut ask).await?;
    let asked = PauseRequest { reason, stops_clock: execution_timeout_paused.unwrap_or(true), client_token };
    ask.call.backend().durable().pause(arn, asked).await?;
    Ok(answer(202, &json!({})))
}

async fn resume<B: Backend>(mut ask: Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let PauseShape { client_token, reason, .. } = pause_of(&mut ask).await?;
    ask.call.backend().durable().resume(arn, reason, client_token).await?;
    Ok(answer(202, &json!({})))
}

async fn delete<B: Backend>(ask: Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let when = ask.call.backend().durable().delete(arn).await?;
    Ok(answer(202, &json!({"DeletionRequestTimestamp": seconds(when)})))
}

/// `/durable-execution-callbacks/{id}/{verb}`.
pub(super) async fn callback<B: Backend>(mut ask: Ask<'_, B>, id: &str, verb: &str) -> Result<Reply, AwsError> {
    match verb {
        "succeed" => {
            let result = ask.call.collect(MAX_ANSWER).await?;
            ask.call.backend().durable().answer(id, Ok(result)).await?;
        }
        "fail" => {
            let error = error_of(&mut ask).await?.unwrap_or_default();
            ask.call.backend().durable().answer(id, Err(error)).await?;
        }
        "heartbeat" => ask.call.backend().durable().heartbeat(id).await?,
        _ => return Err(AwsError::new(404, "UnknownOperationException", "There is no operation at this path.")),
    }
    Ok(answer(200, &json!({})))
}

/// `ListDurableExecutionsByFunction`.
pub(super) async fn list<B: Backend>(ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let (function, qualifier) = ask.function(segment)?;
    if ask.call.backend().get(&function).is_none() {
        return Err(ask.catalog().missing(&function, None).into());
    }
    let version = match qualifier {
        None => None,
        // An alias stands for the version that it names now.
        Some(q) => Some(ask.catalog().resolve(&function, Some(&q), 1.0)?.label()),
    };
    let mut statuses = Vec::new();
    for text in ask.params("Statuses") {
        // That of executions that are being deleted is AWS's too; nothing of this server has it.
        match Status::ALL.iter().find(|s| s.name() == text) {
            Some(status) => statuses.push(*status),
            None if text == "DELETING" => {}
            None => {
                let names: Vec<&str> = Status::ALL.iter().map(|s| s.name()).collect();
                let text_set = format!("Member must satisfy enum value set: [{}]", names.join(", "));
                return Err(AwsError::constraint(&text, "statuses", &text_set));
            }
        }
    }
    if statuses.is_empty() && ask.param("Statuses").is_some() {
        return Ok(answer(200, &json!({ "DurableExecutions": [] })));
    }
    let time = |name: &str| ask.param(name).map(|t| moment(t, name)).transpose();
    let limit = most(&ask)?;
    let filter = Filter {
        function: Some(function),
        version,
        name: ask.param("DurableExecutionName").map(str::to_owned),
        statuses,
        started_after: time("StartedAfter")?,
        started_before: time("StartedBefore")?,
        oldest_first: flag(&ask, "ReverseOrder", false)?,
        after: ask.marker().map(|m| m.parse().map_err(|_| bad_marker())).transpose()?,
        limit: limit + 1,
    };
    let found = ask.call.backend().durable().list(filter).await?;
    let (found, next) = cut(found, limit, |(seq, _)| seq.to_string());
    let shown: Vec<Value> = found.iter().map(|(_, head)| summary(&ask, head)).collect();
    Ok(answer(200, &with_marker(json!({ "DurableExecutions": shown }), next)))
}

/// A moment as AWS's clients write it in a query: ISO 8601 in UTC, or seconds since 1970. The answer is in milliseconds.
fn moment(text: &str, name: &str) -> Result<u64, AwsError> {
    let parsed = text.parse::<f64>().ok().filter(|s| *s >= 0.0).map(|s| (s * 1000.0) as u64).or_else(|| iso(text));
    parsed.ok_or_else(|| AwsError::constraint(text, name, "Member must be a time, for example 2026-01-31T12:00:00Z"))
}

fn iso(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?.split_once('T')?;
    let numbers = |text: &str, by: char| text.split(by).map(|n| n.parse::<u64>().ok()).collect::<Option<Vec<u64>>>();
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (&[year, month, day], &[hour, minute, second]) = (&numbers(date, '-')?[..], &numbers(time, ':')?[..]) else {
        return None;
    };
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    let millis: u64 = format!("{:0<3.3}", fraction).parse().ok()?;
    // Days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (y / 400, y % 400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)?;
    fits.then(|| (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_clients_write_them() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00.123Z", 951_782_400_123),
            ("2025-12-31T23:59:59+00:00", 1_767_225_599_000),
            ("1767225599.5", 1_767_225_599_500),
        ] {
            assert_eq!(moment(text, "StartedAfter").unwrap(), ms, "{text}");
        }
        for bad in ["", "yesterday", "2025-13-01T00:00:00Z", "2025-01-01", "1969-12-31T00:00:00Z", "-1", "é"] {
            assert!(moment(bad, "StartedAfter").is_err(), "{bad}");
        }
    }
}
