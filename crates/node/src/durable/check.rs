//! Whether a checkpoint fits: its shape, its sizes, and what may follow what. Everything is checked before anything is
//! changed, so a checkpoint takes effect whole or not at all.
//!
//! The rules are those of AWS's service, as its model and its SDKs' testing libraries show them. Pure.

use std::collections::HashMap;

use super::machine::Execution;
use super::types::{Action, Kind, OperationStatus, Update};

/// Operations of one execution (AWS's quota).
pub const MAX_OPERATIONS: usize = 3000;
/// What one execution may have written, in bytes (AWS's quota: 100 MB).
pub const MAX_WRITTEN: u64 = 100 << 20;
/// The payload of an operation, in bytes (AWS's model).
pub const MAX_PAYLOAD: usize = 6 << 20;
/// An error in a checkpoint, in bytes of its JSON.
pub const MAX_ERROR: u64 = 32 << 10;
/// What goes into a chained invoke, and what comes back, in bytes.
pub const MAX_CHAINED: usize = 1 << 20;
/// The longest wait and the longest delay between two attempts, in seconds: a leap year.
pub const MAX_SECONDS: i64 = 31_622_400;
/// The longest time of a callback, in seconds (AWS's model).
const MAX_CALLBACK_SECONDS: i64 = 99_999_999;

type Checked = Result<(), String>;

/// Whether these updates may be applied now. The error is the sentence for the caller.
pub fn check(execution: &Execution, updates: &[Update]) -> Checked {
    executions_last(updates)?;
    let mut started: HashMap<&str, Kind> = HashMap::new();
    let mut seen: HashMap<&str, &Update> = HashMap::new();
    let mut written = execution.head.written;
    for update in updates {
        shape(update)?;
        twice(update, &seen)?;
        parent(execution, update, &started)?;
        sizes(execution, update)?;
        consistent(execution, update)?;
        transition(execution, update, &seen)?;
        if update.action == Action::Start {
            started.insert(&update.id, update.kind);
        }
        seen.insert(&update.id, update);
        written = written.saturating_add(most(update));
    }
    let new = seen.iter().filter(|(id, u)| u.kind != Kind::Execution && execution.operation(id).is_none()).count();
    if execution.operations().len() + new > MAX_OPERATIONS {
        return Err(format!("A durable execution can have at most {MAX_OPERATIONS} operations."));
    }
    if written > MAX_WRITTEN {
        return Err(format!("A durable execution can write at most {MAX_WRITTEN} bytes."));
    }
    Ok(())
}

/// Members of an event besides its texts, in bytes; a test holds it to that.
const EVENT: u64 = 600;

/// What an update can add to what an execution has written, in bytes: itself, and the events that tell of it.
pub fn most(update: &Update) -> u64 {
    // As JSON, with what is escaped in it.
    let text = |t: &Option<String>| t.as_ref().map_or(0, |t| serde_json::to_string(t).map_or(0, |t| t.len() as u64));
    let names = text(&update.name) + text(&update.parent_id) + text(&update.sub_type) + update.id.len() as u64;
    let function = update.chained_invoke_options.as_ref().map_or(0, |o| text(&o.function_name));
    let told = names + EVENT + function;
    // An operation that ends without having begun has the event of its beginning too; what it was given or gave is told once. A chained
    // invoke that is refused has an error of ours.
    let refused = if update.kind == Kind::ChainedInvoke { EVENT + 2 * function } else { 0 };
    weight(update) + 2 * told + text(&update.payload) + update.error.as_ref().map_or(0, |e| e.size()) + refused
}

/// What an update itself counts for, in bytes.
pub fn weight(update: &Update) -> u64 {
    let text = |t: &Option<String>| t.as_ref().map_or(0, |t| t.len() as u64);
    text(&update.payload) + text(&update.name) + update.error.as_ref().map_or(0, |e| e.size()) + update.id.len() as u64
}

fn executions_last(updates: &[Update]) -> Checked {
    let count = updates.iter().filter(|u| u.kind == Kind::Execution).count();
    if count > 1 {
        return Err("Cannot checkpoint multiple EXECUTION updates.".into());
    }
    if count == 1 && updates.last().is_none_or(|u| u.kind != Kind::Execution) {
        return Err("EXECUTION checkpoint must be the last update.".into());
    }
    Ok(())
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn shape(update: &Update) -> Checked {
    if !is_id(&update.id) || update.parent_id.as_deref().is_some_and(|p| !is_id(p)) {
        return Err("An operation's Id has 1 to 64 letters, digits, '-' and '_'.".into());
    }
    let name = update.name.as_deref();
    if name.is_some_and(|n| n.is_empty() || n.len() > 256 || !n.bytes().all(|b| (b' '..=b'~').contains(&b))) {
        return Err("An operation's Name has 1 to 256 printable ASCII characters.".into());
    }
    if update.sub_type.as_deref().is_some_and(|s| s.len() > 32 || !is_id(s)) {
        return Err("An operation's SubType has 1 to 32 letters, digits, '-' and '_'.".into());
    }
    let within = |value: Option<i64>, what: &str, low: i64, high: i64| match value {
        Some(v) if !(low..=high).contains(&v) => Err(format!("{what} is {v}: it must be from {low} to {high}.")),
        _ => Ok(()),
    };
    let step = update.step_options.as_ref().and_then(|o| o.next_attempt_delay_seconds);
    within(step, "NextAttemptDelaySeconds", 1, MAX_SECONDS)?;
    within(update.wait_options.as_ref().and_then(|o| o.wait_seconds), "WaitSeconds", 1, MAX_SECONDS)?;
    let callback = update.callback_options.clone().unwrap_or_default();
    within(callback.timeout_seconds, "TimeoutSeconds", 0, MAX_CALLBACK_SECONDS)?;
    within(callback.heartbeat_timeout_seconds, "HeartbeatTimeoutSeconds", 0, MAX_CALLBACK_SECONDS)
}

/// An operation is updated once in a checkpoint; a step and a context may also begin and end in one.
fn twice(update: &Update, seen: &HashMap<&str, &Update>) -> Checked {
    let Some(last) = seen.get(update.id.as_str()) else { return Ok(()) };
    let grouped = matches!(last.kind, Kind::Step | Kind::Context);
    if grouped && last.action == Action::Start && update.action != Action::Start {
        return Ok(());
    }
    Err("Cannot checkpoint multiple operations with the same ID.".into())
}

fn parent(execution: &Execution, update: &Update, started: &HashMap<&str, Kind>) -> Checked {
    let Some(parent) = update.parent_id.as_deref() else { return Ok(()) };
    let kind = started.get(parent).copied().or_else(|| execution.operation(parent).map(|o| o.kind));
    if kind == Some(Kind::Context) { Ok(()) } else { Err("Invalid parent operation id.".into()) }
}

fn sizes(execution: &Execution, update: &Update) -> Checked {
    if update.error.as_ref().is_some_and(|e| e.size() > MAX_ERROR) {
        return Err(format!("Error object size must be less than {MAX_ERROR} bytes."));
    }
    let size = update.payload.as_ref().map_or(0, String::len);
    if size > MAX_PAYLOAD {
        return Err(format!("Payload size must be less than or equal to {MAX_PAYLOAD} bytes."));
    }
    match update.kind {
        Kind::ChainedInvoke if size > MAX_CHAINED => {
            Err(format!("CHAINED_INVOKE input payload size must be less than or equal to {MAX_CHAINED} bytes."))
        }
        Kind::Execution if execution.head.parent.is_some() && size > MAX_CHAINED => Err(too_large_for_parent()),
        _ => Ok(()),
    }
}

/// What an execution is told whose result does not go into the operation that waits for it.
pub fn too_large_for_parent() -> String {
    format!("Execution output payload size must be less than or equal to {MAX_CHAINED} bytes.")
}

/// What an operation is does not change.
fn consistent(execution: &Execution, update: &Update) -> Checked {
    let Some(now) = execution.operation(&update.id) else { return Ok(()) };
    let differs = |new: &Option<String>, old: &Option<String>| new.is_some() && new != old;
    let wrong = if update.kind != now.kind {
        "type"
    } else if differs(&update.sub_type, &now.sub_type) {
        "subtype"
    } else if differs(&update.name, &now.name) {
        "name"
    } else if differs(&update.parent_id, &now.parent) {
        return Err("Inconsistent parent operation id.".into());
    } else {
        return Ok(());
    };
    Err(format!("Inconsistent operation {wrong}."))
}

/// What may follow what.
fn transition(execution: &Execution, update: &Update, seen: &HashMap<&str, &Update>) -> Checked {
    // An operation that began earlier in the same checkpoint runs.
    let began = seen.contains_key(update.id.as_str()).then_some(OperationStatus::Started);
    let now = began.or_else(|| execution.operation(&update.id).map(|o| o.status));
    let open = |allowed: &[OperationStatus]| now.is_none_or(|status| allowed.contains(&status));
    let refuse = |text: &str| Err(text.to_owned());
    use OperationStatus::{Ready, Started};
    match (update.kind, update.action) {
        (Kind::Execution, Action::Succeed) | (Kind::Context, Action::Succeed) | (Kind::Step, Action::Succeed)
            if update.error.is_some() =>
        {
            refuse("Cannot provide an Error for SUCCEED action.")
        }
        (Kind::Execution, Action::Fail) | (Kind::Context, Action::Fail) | (Kind::Step, Action::Fail)
            if update.payload.is_some() =>
        {
            refuse("Cannot provide a Payload for FAIL action.")
        }
        (Kind::Execution, Action::Succeed | Action::Fail) => Ok(()),
        (Kind::Execution, _) => refuse("Invalid EXECUTION action."),
        (Kind::Context, Action::Start) if now.is_some() => refuse("Cannot start a CONTEXT that already exist."),
        (Kind::Context, Action::Start) => Ok(()),
        (Kind::Context, Action::Succeed | Action::Fail) if open(&[Started]) => Ok(()),
        (Kind::Context, Action::Succeed | Action::Fail) => refuse("Invalid current CONTEXT state to close."),
        (Kind::Step, Action::Start) if open(&[Ready]) => Ok(()),
        (Kind::Step, Action::Start) => refuse("Invalid current STEP state to start."),
        (Kind::Step, Action::Succeed | Action::Fail) if open(&[Started, Ready]) => Ok(()),
        (Kind::Step, Action::Succeed | Action::Fail) => refuse("Invalid current STEP state to close."),
        (Kind::Step, Action::Retry) => retry(update, open(&[Started, Ready])),
        (Kind::Wait, Action::Start) if now.is_some() => refuse("Cannot start a WAIT that already exist."),
        (Kind::Wait, Action::Start) => Ok(()),
        (Kind::Wait, Action::Cancel) if now == Some(Started) => Ok(()),
        (Kind::Wait, Action::Cancel) => refuse("Cannot cancel a WAIT that does not exist or has already completed."),
        (Kind::Callback, Action::Start) if now.is_some() => refuse("Cannot start a CALLBACK that already exist."),
        (Kind::Callback, Action::Start) => Ok(()),
        (Kind::ChainedInvoke, Action::Start) if now.is_some() => {
            refuse("Cannot start a CHAINED_INVOKE operation that already exists.")
        }
        (Kind::ChainedInvoke, Action::Start) => chained(update),
        _ => refuse("Invalid action for the given operation type."),
    }
}

fn retry(update: &Update, open: bool) -> Checked {
    let refuse = |text: &str| Err(text.to_owned());
    match update.step_options {
        _ if !open => refuse("Invalid current STEP state to re-attempt."),
        None => refuse("Invalid StepOptions for the given action."),
        Some(_) if update.error.is_some() && update.payload.is_some() => {
            refuse("Cannot provide both error and payload to RETRY a STEP.")
        }
        Some(_) => Ok(()),
    }
}

fn chained(update: &Update) -> Checked {
    let options = update.chained_invoke_options.as_ref();
    let Some(function) = options.and_then(|o| o.function_name.as_deref()) else {
        return Err("Update for CHAINED_INVOKE operation requires ChainedInvokeOptions.".into());
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:$".contains(&b);
    if function.is_empty() || function.len() > 256 || !function.bytes().all(plain) {
        return Err(format!("Invalid function ARN '{}'", function.chars().take(300).collect::<String>()));
    }
    if options.is_some_and(|o| o.tenant_id.is_some()) {
        return Err("TenantId: functions of this server have no tenants.".into());
    }
    Ok(())
}
