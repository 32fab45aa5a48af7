//! Chained invokes: an execution calls another function. A durable one gets an execution of its own, whose name follows from
//! the operation, so that carrying it out twice is carrying it out once; a plain one is invoked, at least once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Answer, CallContext, Error, ErrorKind, FunctionName, Invocation, RequestId};

use super::machine::Head;
use super::types::{ErrorObject, OperationStatus, Status};
use super::{Core, Parent, Refused, Start, check, digest, random_id, rows};
use crate::pool::tap::now_ms;
use crate::recursion::fresh_trace;

/// The first and the longest pause before a call is made again that the platform could not make.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A function's name and qualifier out of a name or an ARN. The error is the operation's.
pub(super) fn target(core: &Core, text: &str) -> Result<(FunctionName, Option<String>), ErrorObject> {
    let bad = || ErrorObject::new("InvalidParameterValueException", format!("Invalid function ARN '{text}'"));
    let foreign = |what: &str| {
        ErrorObject::new(
            "InvalidParameterValueException",
            format!("Cannot start a CHAINED_INVOKE on a function in another {what}."),
        )
    };
    let place = core.host.place();
    let parts: Vec<&str> = text.split(':').collect();
    let rest = match parts[..] {
        ["arn", _, "lambda", region, _, ..] if region != place.region => return Err(foreign("region")),
        ["arn", _, "lambda", _, account, "function", ..] if account != place.account => return Err(foreign("account")),
        ["arn", _, "lambda", _, _, "function", ref rest @ ..] => rest,
        [account, "function", ..] if account != place.account => return Err(foreign("account")),
        [_, "function", ref rest @ ..] => rest,
        ref all => all,
    };
    let (name, qualifier) = match *rest {
        [name] => (name, None),
        [name, qualifier] => (name, Some(qualifier.to_owned())),
        _ => return Err(bad()),
    };
    Ok((FunctionName::parse(name).map_err(|_| bad())?, qualifier))
}

/// Whether a chained invoke can be begun at all; asked while it is checkpointed.
pub(super) fn possible(core: &Core, text: &str) -> Result<(), ErrorObject> {
    let (function, qualifier) = target(core, text)?;
    let Some(meant) = core.host.meant(&function, qualifier.as_deref()) else {
        let arn = core.host.place().function(function.as_str(), qualifier.as_deref());
        return Err(ErrorObject::new("ResourceNotFoundException", format!("Function not found: {arn}")));
    };
    if meant.durable.is_some() && qualifier.is_none() {
        let text = "You cannot invoke a durable function using an unqualified ARN.";
        return Err(ErrorObject::new("InvalidParameterValueException", text));
    }
    Ok(())
}

type Outcome = (OperationStatus, Result<String, ErrorObject>);

/// Carries a chained invoke out and tells its execution what came of it. Until its turn comes only its names are in memory.
pub(super) async fn carry_out(core: Arc<Core>, execution: String, operation: String) {
    let parent = Parent { execution, operation };
    let mut pause = PAUSE;
    loop {
        let outcome = match asked(&core, &parent, false).await {
            Some(Ok(asked)) if asked.durable => child(&core, &parent).await,
            Some(Ok(_)) => plain(&core, &parent).await,
            Some(Err(error)) => Tried::Over(failed(error)),
            None => return,
        };
        match outcome {
            Tried::Over(outcome) => return report(&core, &parent, outcome).await,
            Tried::Begun => return,
            Tried::Later => match wait(&core, pause).await {
                Some(longer) => pause = longer,
                None => return,
            },
        }
    }
}

/// What came of one try.
enum Tried {
    /// It is over like this.
    Over(Outcome),
    /// Whoever it has begun tells of its end, or it is carried out by the next server.
    Begun,
    /// The platform could not do it now.
    Later,
}

fn failed(error: ErrorObject) -> Outcome {
    (OperationStatus::Failed, Err(error))
}

/// What an open chained invoke asks for.
struct Asked {
    start: Start,
    durable: bool,
}

/// Reads it; the error is the operation's. `None`: there is nothing to be carried out any more. `whole`: with its input, and a trace
/// in any case: a chain of calls that came without one begins here, so that no loop is overlooked.
async fn asked(core: &Arc<Core>, parent: &Parent, whole: bool) -> Option<Result<Asked, ErrorObject>> {
    let operation = parent.operation.clone();
    let found = core.look(&parent.execution, move |execution| {
        let found = execution.operation(&operation).filter(|o| !o.status.is_final() && !execution.ended());
        found.map(|o| {
            let input = if whole { o.input.clone() } else { None };
            (o.function.clone().unwrap_or_default(), input, execution.head.trace.clone())
        })
    });
    let (function, input, trace) = match found.await {
        Ok(found) => found?,
        Err(error) => {
            tracing::error!(?error, "a chained invoke cannot be carried out");
            return None;
        }
    };
    Some(target(core, &function).and_then(|(function, qualifier)| {
        let durable = core.host.meant(&function, qualifier.as_deref()).is_some_and(|m| m.durable.is_some());
        let trace = match whole {
            true => Some(trace.map_or_else(new_trace, Ok).map_err(plain_error)?),
            false => None,
        };
        let input = Bytes::from(input.unwrap_or_else(|| "{}".to_owned()));
        Ok(Asked { start: Start { function, qualifier, name: None, input, trace }, durable })
    }))
}

fn new_trace() -> Result<String, Error> {
    let id = random_id().and_then(|text| RequestId::parse(&text))?;
    Ok(fresh_trace(&id, now_ms()))
}

/// Begins the execution of a durable function. It tells its parent itself, unless it is over already, or never began.
async fn child(core: &Arc<Core>, parent: &Parent) -> Tried {
    let Ok(_turn) = core.links.acquire().await else { return Tried::Begun };
    let mut start = match asked(core, parent, true).await {
        Some(Ok(asked)) => asked.start,
        Some(Err(error)) => return Tried::Over(failed(error)),
        None => return Tried::Begun,
    };
    let key = digest(parent.operation.as_bytes());
    start.name = Some(format!("{}-{}", parent.execution, &key[..16]));
    match core.begin(start, Some(parent.clone())).await {
        Ok(started) => match core.ledger.read(move |db| rows::head(db, &started.id)).await {
            Ok(Some(head)) if head.status.is_over() => Tried::Over(outcome_of(&head)),
            Ok(_) => Tried::Begun,
            Err(error) => {
                tracing::error!(%error, "an execution that another waits for cannot be read");
                Tried::Later
            }
        },
        Err(Refused::Platform(error)) if error.kind == ErrorKind::ShuttingDown => Tried::Begun,
        Err(Refused::Platform(error)) if error.kind.retryable() => Tried::Later,
        Err(refused) => Tried::Over(failed(error_of(refused))),
    }
}

fn error_of(refused: Refused) -> ErrorObject {
    match refused {
        Refused::Invalid(m) | Refused::CallbackOver(m) => ErrorObject::new("InvalidParameterValueException", m),
        Refused::NotFound(m) => ErrorObject::new("ResourceNotFoundException", m),
        Refused::AlreadyStarted(m) => ErrorObject::new("DurableExecutionAlreadyStartedException", m),
        Refused::Conflict(m) => ErrorObject::new("ResourceConflictException", m),
        Refused::Platform(error) => plain_error(error),
    }
}

fn plain_error(error: Error) -> ErrorObject {
    match error.kind {
        ErrorKind::NotFound => ErrorObject::new("ResourceNotFoundException", error.message),
        ErrorKind::InvalidInput => ErrorObject::new("InvalidParameterValueException", error.message),
        ErrorKind::RecursiveInvocation => ErrorObject::new("RecursiveInvocationException", error.message),
        _ => ErrorObject::new("ServiceException", error.message),
    }
}

/// Waits before another try, and longer the next time; `None`: the server is being taken down.
async fn wait(core: &Arc<Core>, pause: Duration) -> Option<Duration> {
    let mut closed = core.closed.subscribe();
    tokio::select! {
        () = tokio::time::sleep(pause) => Some((pause * 2).min(MAX_PAUSE)),
        _ = closed.wait_for(|closed| *closed) => None,
    }
}

/// Invokes a plain function. When the server is taken down meanwhile, the next one invokes it again.
async fn plain(core: &Arc<Core>, parent: &Parent) -> Tried {
    let Ok(_turn) = core.calls.acquire().await else { return Tried::Begun };
    if core.is_closed() {
        return Tried::Begun;
    }
    let mut start = match asked(core, parent, true).await {
        Some(Ok(asked)) => asked.start,
        Some(Err(error)) => return Tried::Over(failed(error)),
        None => return Tried::Begun,
    };
    // Counted like any call; an execution that begins is counted there.
    start.trace = match start.trace.map(|trace| core.host.next_trace(&start.function, &trace)).transpose() {
        Ok(counted) => counted,
        Err(error) => return Tried::Over(failed(plain_error(error))),
    };
    let id = match random_id().and_then(|text| RequestId::parse(&text)) {
        Ok(id) => id,
        Err(error) => return Tried::Over(failed(plain_error(error))),
    };
    let context = CallContext { qualifier: start.qualifier, trace: start.trace, ..Default::default() };
    let invocation =
        Invocation { id, function: start.function, http: None, payload: start.input, context: Some(Box::new(context)) };
    let outcome = core.host.run(invocation).await;
    if core.abandoned.load(std::sync::atomic::Ordering::Acquire) {
        return Tried::Begun;
    }
    let said = |text: String| failed(ErrorObject { error_message: Some(text), ..ErrorObject::default() });
    match outcome.map(|outcome| outcome.result) {
        Ok(Answer::Reply { body, .. }) if body.len() > check::MAX_CHAINED => Tried::Over(said(format!(
            "CHAINED_INVOKE output payload size must be less than or equal to {} bytes.",
            check::MAX_CHAINED
        ))),
        Ok(Answer::Reply { body, .. }) => Tried::Over(match String::from_utf8(body.to_vec()) {
            Ok(text) => (OperationStatus::Succeeded, Ok(text)),
            Err(_) => said("CHAINED_INVOKE response could not be decoded as UTF-8.".to_owned()),
        }),
        Ok(Answer::Failed(error)) => Tried::Over(failed(ErrorObject::of_function(&error.body))),
        Err(error) if error.kind == ErrorKind::ShuttingDown => Tried::Begun,
        Err(error) if error.kind.retryable() => Tried::Later,
        Err(error) => Tried::Over(failed(plain_error(error))),
    }
}

/// How an execution ended, as the operation that waits for it has it.
fn outcome_of(head: &Head) -> Outcome {
    let error = || Err(head.error.clone().unwrap_or_default());
    match head.status {
        Status::Succeeded => (OperationStatus::Succeeded, Ok(head.result.clone().unwrap_or_default())),
        Status::TimedOut => {
            let text = format!("CHAINED_INVOKE timed out after {} seconds.", head.timeout_s);
            (OperationStatus::TimedOut, Err(ErrorObject::new("ChainedInvoke.Timeout", text)))
        }
        Status::Stopped => (OperationStatus::Stopped, error()),
        Status::Failed | Status::Running | Status::Pausing | Status::Paused => (OperationStatus::Failed, error()),
    }
}

/// An execution that another one waits for is over. What came of it is read when its turn comes.
pub(super) async fn tell(core: Arc<Core>, parent: Parent, id: String) {
    let Ok(_turn) = core.links.acquire().await else { return };
    match core.ledger.read(move |db| rows::head(db, &id)).await {
        Ok(Some(head)) => report(&core, &parent, outcome_of(&head)).await,
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, "the end of an execution cannot be read; the next start tells whoever waits for it")
        }
    }
}

async fn report(core: &Arc<Core>, parent: &Parent, (status, outcome): Outcome) {
    let operation = parent.operation.clone();
    let told = core.change(&parent.execution, None, move |execution, now| {
        execution.chained(&operation, status, outcome, now);
        Ok(())
    });
    match told.await {
        // An execution that is not kept any more waits for nothing.
        Ok(()) | Err(Refused::NotFound(_)) => {}
        Err(error) => {
            tracing::error!(?error, "the end of a chained invoke could not be written; the next start repeats it")
        }
    }
}
