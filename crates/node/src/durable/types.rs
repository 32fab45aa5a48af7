//! The vocabulary of durable executions, in AWS's words: operations, updates of them, their states, and how they are shown.
//!
//! Only data: no rule, no disk, no clock. Shapes and enumerations are those of AWS's service model (`lambda`, 2015-03-31).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// The execution itself: the first operation of each.
    Execution,
    /// A group of operations with a result of its own.
    Context,
    /// A piece of the function's own work.
    Step,
    /// A pause.
    Wait,
    /// Something that is answered from outside.
    Callback,
    /// The invocation of another function.
    ChainedInvoke,
}

impl Kind {
    /// The first word of its events.
    pub fn event(self) -> &'static str {
        match self {
            Kind::Execution => "Execution",
            Kind::Context => "Context",
            Kind::Step => "Step",
            Kind::Wait => "Wait",
            Kind::Callback => "Callback",
            Kind::ChainedInvoke => "ChainedInvoke",
        }
    }
}

/// What a checkpoint does to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// It begins.
    Start,
    /// It has a result.
    Succeed,
    /// It has failed for good.
    Fail,
    /// It is to be tried again later.
    Retry,
    /// It is not waited for any more.
    Cancel,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OperationStatus {
    /// It runs, or is waited for.
    Started,
    /// A step that waits for its next attempt.
    Pending,
    /// A step whose next attempt may begin.
    Ready,
    /// Ended with a result.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended because nobody waits for it any more.
    Cancelled,
    /// Ended because its time was over.
    TimedOut,
    /// Ended by a request.
    Stopped,
}

impl OperationStatus {
    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        !matches!(self, OperationStatus::Started | OperationStatus::Pending | OperationStatus::Ready)
    }
    /// The last word of the event that tells of it.
    pub fn event(self) -> &'static str {
        match self {
            OperationStatus::Started | OperationStatus::Pending | OperationStatus::Ready => "Started",
            OperationStatus::Succeeded => "Succeeded",
            OperationStatus::Failed => "Failed",
            OperationStatus::Cancelled => "Cancelled",
            OperationStatus::TimedOut => "TimedOut",
            OperationStatus::Stopped => "Stopped",
        }
    }
}

/// Where an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// It runs or is suspended.
    Running,
    /// It is to be paused at the next checkpoint of the invocation that runs.
    Pausing,
    /// Its function is not invoked until it is resumed.
    Paused,
    /// Ended with a result.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended because its time was over.
    TimedOut,
    /// Ended by a request.
    Stopped,
}

impl Status {
    /// As AWS spells it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "RUNNING",
            Status::Pausing => "PAUSING",
            Status::Paused => "PAUSED",
            Status::Succeeded => "SUCCEEDED",
            Status::Failed => "FAILED",
            Status::TimedOut => "TIMED_OUT",
            Status::Stopped => "STOPPED",
        }
    }
    /// Every status that an execution of this server can have.
    pub const ALL: &'static [Status] = &[
        Status::Running,
        Status::Pausing,
        Status::Paused,
        Status::Succeeded,
        Status::Failed,
        Status::TimedOut,
        Status::Stopped,
    ];
    /// Whether nothing follows.
    pub fn is_over(self) -> bool {
        !matches!(self, Status::Running | Status::Pausing | Status::Paused)
    }
    /// The state of its EXECUTION operation.
    pub(super) fn of_operation(self) -> OperationStatus {
        match self {
            Status::Running | Status::Pausing | Status::Paused => OperationStatus::Started,
            Status::Succeeded => OperationStatus::Succeeded,
            Status::Failed => OperationStatus::Failed,
            Status::TimedOut => OperationStatus::TimedOut,
            Status::Stopped => OperationStatus::Stopped,
        }
    }
}

/// An error, as functions and callers give it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ErrorObject {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// Whatever belongs to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_data: Option<String>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_trace: Option<Vec<String>>,
}

impl ErrorObject {
    /// One with a type and a message.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        ErrorObject { error_type: Some(kind.to_owned()), error_message: Some(message.into()), ..Self::default() }
    }
    /// What a function's own error says (`errorType`, `errorMessage`, `stackTrace`); text that is none is the message.
    pub fn of_function(body: &str) -> Self {
        let Ok(Value::Object(said)) = serde_json::from_str(body) else {
            return ErrorObject { error_message: Some(body.to_owned()), ..Self::default() };
        };
        let text = |key: &str| said.get(key).and_then(Value::as_str).map(str::to_owned);
        let line = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let lines = |key: &str| Some(said.get(key)?.as_array()?.iter().map(line).collect());
        ErrorObject {
            error_message: text("errorMessage"),
            error_type: text("errorType"),
            error_data: text("errorData"),
            stack_trace: lines("stackTrace").or_else(|| lines("trace")),
        }
    }
    /// The same as the error of an invocation.
    pub fn to_function(&self) -> String {
        let mut out = Map::new();
        let mut put = |key: &str, value: Option<Value>| drop(value.map(|v| out.insert(key.to_owned(), v)));
        put("errorType", self.error_type.clone().map(Value::from));
        put("errorMessage", self.error_message.clone().map(Value::from));
        put("errorData", self.error_data.clone().map(Value::from));
        put("stackTrace", self.stack_trace.clone().map(Value::from));
        Value::Object(out).to_string()
    }
    /// Its size as JSON, in bytes.
    pub fn size(&self) -> u64 {
        serde_json::to_string(self).map_or(0, |t| t.len() as u64)
    }

    /// The same within so many bytes: what is longer keeps its type and the beginning of its message.
    pub fn bounded(self, most: u64) -> Self {
        if self.size() <= most {
            return self;
        }
        let part = (most / 16) as usize;
        let cut = |text: Option<String>| text.map(|t| t.chars().take(part).collect());
        ErrorObject {
            error_message: cut(self.error_message),
            error_type: cut(self.error_type),
            ..ErrorObject::default()
        }
    }
}

/// One operation of an execution, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Chosen by the function; of an EXECUTION the execution's own.
    pub id: String,
    /// The context that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the SDK calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_type: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub status: OperationStatus,
    /// When it began, ms since 1970.
    pub start_ms: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ms: Option<u64>,
    /// What it was given: of an execution and of a chained invoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// How it failed, or how its last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorObject>,
    /// Of a context: its operations are needed again when it is replayed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replay_children: bool,
    /// Of a step: attempts that ended.
    #[serde(default)]
    pub attempt: u32,
    /// The end of a wait, the next attempt of a step, the last moment of a callback; ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// Seconds within which a callback has to be heard of, again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_s: Option<u64>,
    /// When it has to be heard of next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_due_ms: Option<u64>,
    /// The function that a chained invoke is for, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The place of its last change in the order of all changes.
    pub touched: u64,
}

/// How times are written: for functions in milliseconds, for callers of the API in seconds.
pub type Time = fn(u64) -> Value;

/// Milliseconds since 1970, as functions get them.
pub fn milliseconds(ms: u64) -> Value {
    json!(ms)
}

/// Seconds since 1970 with milliseconds, as AWS's API answers.
pub fn seconds(ms: u64) -> Value {
    json!(ms as f64 / 1000.0)
}

impl Operation {
    /// AWS's shape.
    pub fn shown(&self, execution: &str, time: Time) -> Value {
        let mut out = json!({
            "Id": self.id, "Type": self.kind, "Status": self.status, "StartTimestamp": time(self.start_ms),
        });
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                out[key] = value;
            }
        };
        put("ParentId", self.parent.clone().map(Value::from));
        put("Name", self.name.clone().map(Value::from));
        put("SubType", self.sub_type.clone().map(Value::from));
        put("EndTimestamp", self.end_ms.map(time));
        let (member, details) = self.details(execution, time);
        put(member, Some(details));
        out
    }

    fn details(&self, execution: &str, time: Time) -> (&'static str, Value) {
        let mut out = Map::new();
        let mut put = |key: &str, value: Option<Value>| drop(value.map(|v| out.insert(key.to_owned(), v)));
        let (result, error) = (self.result.clone().map(Value::from), self.error.as_ref().map(|e| json!(e)));
        let member = match self.kind {
            Kind::Execution => {
                put("InputPayload", self.input.clone().map(Value::from));
                "ExecutionDetails"
            }
            Kind::Context => {
                put("ReplayChildren", self.replay_children.then_some(Value::Bool(true)));
                put("Result", result);
                put("Error", error);
                "ContextDetails"
            }
            Kind::Step => {
                put("Attempt", Some(json!(self.attempt)));
                put("NextAttemptTimestamp", self.due_ms.map(time));
                put("Result", result);
                put("Error", error);
                "StepDetails"
            }
            Kind::Wait => {
                put("ScheduledEndTimestamp", self.due_ms.map(time));
                "WaitDetails"
            }
            Kind::Callback => {
                put("CallbackId", Some(json!(super::tokens::callback(execution, &self.id))));
                put("Result", result);
                put("Error", error);
                "CallbackDetails"
            }
            Kind::ChainedInvoke => {
                put("Result", result);
                put("Error", error);
                "ChainedInvokeDetails"
            }
        };
        (member, Value::Object(out))
    }
}

/// One change that a checkpoint asks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Update {
    /// Of which operation.
    pub id: String,
    /// The context that it belongs to.
    #[serde(default)]
    pub parent_id: Option<String>,
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is.
    #[serde(rename = "Type")]
    pub kind: Kind,
    /// What the SDK calls it.
    #[serde(default)]
    pub sub_type: Option<String>,
    /// What happens to it.
    pub action: Action,
    /// What it was given, or what came of it.
    #[serde(default)]
    pub payload: Option<String>,
    /// How it failed.
    #[serde(default)]
    pub error: Option<ErrorObject>,
    /// Of a context.
    #[serde(default)]
    pub context_options: Option<ContextOptions>,
    /// Of a step.
    #[serde(default)]
    pub step_options: Option<StepOptions>,
    /// Of a wait.
    #[serde(default)]
    pub wait_options: Option<WaitOptions>,
    /// Of a callback.
    #[serde(default)]
    pub callback_options: Option<CallbackOptions>,
    /// Of a chained invoke.
    #[serde(default)]
    pub chained_invoke_options: Option<ChainedInvokeOptions>,
}

/// `ContextOptions`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContextOptions {
    /// Its operations are needed again when it is replayed.
    pub replay_children: bool,
}

/// `StepOptions`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StepOptions {
    /// Seconds until the next attempt.
    pub next_attempt_delay_seconds: Option<i64>,
}

/// `WaitOptions`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitOptions {
    /// Seconds.
    pub wait_seconds: Option<i64>,
}

/// `CallbackOptions`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CallbackOptions {
    /// Seconds; 0 and nothing are none.
    pub timeout_seconds: Option<i64>,
    /// Seconds; 0 and nothing are none.
    pub heartbeat_timeout_seconds: Option<i64>,
}

/// `ChainedInvokeOptions`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ChainedInvokeOptions {
    /// A name or an ARN, with a version or an alias.
    pub function_name: Option<String>,
    /// A tenant; there are none here.
    pub tenant_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_go_over_into_those_of_functions_and_back() {
        let error = ErrorObject::of_function(r#"{"errorType":"E","errorMessage":"m","trace":["a",1]}"#);
        assert_eq!(error.stack_trace.as_deref(), Some(&["a".to_owned(), "1".to_owned()][..]));
        assert_eq!(error.to_function(), r#"{"errorMessage":"m","errorType":"E","stackTrace":["a","1"]}"#);
        assert_eq!(ErrorObject::of_function("no JSON").error_message.as_deref(), Some("no JSON"));
        assert_eq!(ErrorObject::default().to_function(), "{}");
    }

    #[test]
    fn operations_are_shown_as_aws_shows_them() {
        let operation = Operation {
            id: "a".into(),
            parent: None,
            name: Some("n".into()),
            sub_type: Some("Step".into()),
            kind: Kind::Step,
            status: OperationStatus::Pending,
            start_ms: 1500,
            end_ms: None,
            input: None,
            result: None,
            error: Some(ErrorObject::new("E", "m")),
            replay_children: false,
            attempt: 1,
            due_ms: Some(2500),
            heartbeat_s: None,
            heartbeat_due_ms: None,
            function: None,
            touched: 3,
        };
        let expected = json!({
            "Id": "a", "Type": "STEP", "Status": "PENDING", "Name": "n", "SubType": "Step", "StartTimestamp": 1.5,
            "StepDetails": {"Attempt": 1, "NextAttemptTimestamp": 2.5, "Error": {"ErrorType": "E", "ErrorMessage": "m"}},
        });
        assert_eq!(operation.shown("x", seconds), expected);
        assert_eq!(operation.shown("x", milliseconds)["StartTimestamp"], json!(1500));
        let text = serde_json::to_string(&operation).unwrap();
        assert_eq!(serde_json::from_str::<Operation>(&text).unwrap(), operation);
    }
}
