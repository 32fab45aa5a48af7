//! The history of an execution: one event for everything that happened to it, in AWS's shape. Written once, when it happens.
//!
//! Pure. Events are kept with their times in milliseconds and with all data; `shown` is what a caller gets of one.

use serde_json::{Map, Value, json};

use super::machine::{Head, Pause};
use super::types::{ErrorObject, Kind, Operation, OperationStatus, seconds};

fn event(operation: &Operation, word: &str, now: u64, details: Value) -> Value {
    let name = format!("{}{word}", operation.kind.event());
    let mut out = json!({"EventType": name, "EventTimestamp": now, "Id": operation.id});
    out[format!("{name}Details")] = details;
    let mut put = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            out[key] = json!(value);
        }
    };
    put("Name", &operation.name);
    put("SubType", &operation.sub_type);
    put("ParentId", &operation.parent);
    out
}

fn payload(text: &Option<String>) -> Value {
    text.as_ref().map_or_else(|| json!({}), |t| json!({ "Payload": t }))
}

fn failure(error: &Option<ErrorObject>) -> Value {
    error.as_ref().map_or_else(|| json!({}), |e| json!({ "Payload": e }))
}

/// The execution has begun.
pub fn execution_started(head: &Head, operation: &Operation) -> Value {
    let details = json!({"Input": payload(&operation.input), "ExecutionTimeout": head.timeout_s});
    event(operation, "Started", head.started_ms, details)
}

/// The execution is over.
pub fn execution_ended(head: &Head, operation: &Operation, now: u64) -> Value {
    let details = match operation.status {
        OperationStatus::Succeeded => json!({"Result": payload(&head.result)}),
        _ => json!({"Error": failure(&head.error)}),
    };
    event(operation, operation.status.event(), now, details)
}

/// An operation, or another attempt of a step, has begun.
pub fn started(operation: &Operation, now: u64) -> Value {
    let since = |at: Option<u64>| at.map(|at| at.saturating_sub(now) / 1000);
    let details = match operation.kind {
        Kind::Wait => json!({"Duration": since(operation.due_ms), "ScheduledEndTimestamp": operation.due_ms}),
        Kind::ChainedInvoke => {
            json!({"FunctionName": operation.function, "Input": payload(&operation.input)})
        }
        Kind::Callback => {
            let mut details = Map::new();
            details.extend(since(operation.due_ms).map(|s| ("Timeout".to_owned(), json!(s))));
            details.extend(operation.heartbeat_s.map(|s| ("HeartbeatTimeout".to_owned(), json!(s))));
            Value::Object(details)
        }
        Kind::Execution | Kind::Context | Kind::Step => json!({}),
    };
    event(operation, "Started", now, details)
}

/// An operation has ended; `None`: this change of it is none that the history tells of.
pub fn changed(operation: &Operation, now: u64) -> Option<Value> {
    if !operation.status.is_final() {
        return None;
    }
    let succeeded = operation.status == OperationStatus::Succeeded;
    let mut details = match operation.kind {
        Kind::Wait if succeeded => {
            let duration = operation.due_ms.map(|at| at.saturating_sub(operation.start_ms) / 1000);
            json!({ "Duration": duration })
        }
        Kind::Wait => json!({}),
        _ if succeeded => json!({"Result": payload(&operation.result)}),
        _ => json!({"Error": failure(&operation.error)}),
    };
    if operation.kind == Kind::Step {
        details["RetryDetails"] = json!({"CurrentAttempt": operation.attempt});
    }
    Some(event(operation, operation.status.event(), now, details))
}

/// An attempt of a step has ended, and another follows after so many seconds.
pub fn attempt(operation: &Operation, delay: i64, now: u64) -> Value {
    let retry = json!({"CurrentAttempt": operation.attempt, "NextAttemptDelaySeconds": delay});
    match &operation.error {
        Some(_) => event(operation, "Failed", now, json!({"Error": failure(&operation.error), "RetryDetails": retry})),
        None => {
            event(operation, "Succeeded", now, json!({"Result": payload(&operation.result), "RetryDetails": retry}))
        }
    }
}

/// The execution is paused from now on.
pub fn paused(head: &Head, pause: &Pause, now: u64) -> Value {
    let details = json!({
        "PauseRequestTimestamp": pause.requested_ms, "ExecutionTimeoutPaused": pause.stops_clock,
        "Reason": payload(&pause.reason),
    });
    of_execution(head, "ExecutionPaused", now, details)
}

/// The execution goes on.
pub fn resumed(head: &Head, reason: &Option<String>, now: u64) -> Value {
    of_execution(head, "ExecutionResumed", now, json!({"ResumeRequestTimestamp": now, "Reason": payload(reason)}))
}

fn of_execution(head: &Head, name: &str, now: u64, details: Value) -> Value {
    let mut out = json!({"EventType": name, "EventTimestamp": now, "Id": head.id, "Name": head.name});
    out[format!("{name}Details")] = details;
    out
}

/// An invocation of the function has ended.
pub fn invocation(id: &str, began: u64, now: u64, error: Option<&ErrorObject>) -> Value {
    let mut details = json!({"StartTimestamp": began, "EndTimestamp": now, "RequestId": id});
    if let Some(error) = error {
        details["Error"] = json!({ "Payload": error });
    }
    json!({"EventType": "InvocationCompleted", "EventTimestamp": now, "InvocationCompletedDetails": details})
}

/// An event as a caller gets it: with or without the data that went through the execution, times in seconds, and the id of
/// a callback where one began.
pub fn shown(mut event: Value, execution: &str, data: bool) -> Value {
    let id = event.get("Id").and_then(Value::as_str).map(|id| super::tokens::callback(execution, id));
    let Some(members) = event.as_object_mut() else { return event };
    in_seconds(members);
    for (name, details) in members.iter_mut().filter(|(name, _)| name.ends_with("Details")) {
        let Some(details) = details.as_object_mut() else { continue };
        in_seconds(details);
        if name == "CallbackStartedDetails"
            && let Some(id) = &id
        {
            details.insert("CallbackId".into(), json!(id));
        }
        for key in ["Input", "Result", "Error", "Reason"] {
            if let Some(Value::Object(held)) = details.get_mut(key) {
                if !data && key != "Error" {
                    held.remove("Payload");
                }
                held.insert("Truncated".into(), json!(!data));
            }
        }
    }
    event
}

fn in_seconds(members: &mut Map<String, Value>) {
    for key in [
        "EventTimestamp",
        "ScheduledEndTimestamp",
        "StartTimestamp",
        "EndTimestamp",
        "PauseRequestTimestamp",
        "ResumeRequestTimestamp",
    ] {
        if let Some(value) = members.get_mut(key)
            && let Some(ms) = value.as_u64()
        {
            *value = seconds(ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_left_out_on_request_and_errors_are_not() {
        let event = json!({
            "EventType": "StepSucceeded", "EventTimestamp": 1500, "Id": "a",
            "StepSucceededDetails": {"Result": {"Payload": "1"}, "RetryDetails": {"CurrentAttempt": 1}},
        });
        let whole = shown(event.clone(), "x", true);
        assert_eq!(whole["StepSucceededDetails"]["Result"], json!({"Payload": "1", "Truncated": false}));
        assert_eq!(whole["EventTimestamp"], json!(1.5));
        assert_eq!(shown(event, "x", false)["StepSucceededDetails"]["Result"], json!({"Truncated": true}));
        let failed =
            json!({"EventType": "StepFailed", "StepFailedDetails": {"Error": {"Payload": {"ErrorType": "E"}}}});
        assert_eq!(shown(failed, "x", false)["StepFailedDetails"]["Error"]["Payload"]["ErrorType"], json!("E"));
    }
}
