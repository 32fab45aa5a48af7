//! Chained invokes: an execution calls another function. A durable one gets an execution of its own, whose name follows from
//! the operation, so that carrying it out twice is carrying it out once; a plain one is invoked, at least once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Answer, CallContext, Error, ErrorKind, FunctionName, Invocation, RequestId};

use super::machine::Head;
use super::types::{ErrorObject, OperationStatus, Status};
use super::{Core, Parent, Refused, Start, check, digest, random_id};

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

/// Carries a chained invoke out and tells its execution what came of it.
pub(super) async fn carry_out(core: Arc<Core>, execution: String, operation: String) {
    let whose = operation.clone();
    let asked = core.look(&execution, move |execution| {
        let found = execution.operation(&whose).filter(|o| !o.status.is_final() && !execution.ended());
        found.map(|o| {
            let function = o.function.clone().unwrap_or_default();
            (function, o.input.clone().unwrap_or_else(|| "{}".to_owned()), execution.head.trace.clone())
        })
    });
    let (function, input, trace) = match asked.await {
        Ok(Some(asked)) => asked,
        Ok(None) => return,
        Err(error) => return tracing::error!(?error, "a chained invoke cannot be carried out"),
    };
    let outcome = match target(&core, &function) {
        Err(error) => Some((OperationStatus::Failed, Err(error))),
        Ok((function, qualifier)) => {
            let durable = core.host.meant(&function, qualifier.as_deref()).is_some_and(|m| m.durable.is_some());
            let start = Start { function, qualifier, name: None, input: Bytes::from(input), trace };
            let parent = Parent { execution: execution.clone(), operation: operation.clone() };
            if durable { child(&core, start, parent).await } else { plain(&core, start).await }
        }
    };
    if let Some(outcome) = outcome {
        report(&core, &Parent { execution, operation }, outcome).await;
    }
}

/// Begins the execution of a durable function. It tells its parent itself, unless it is over already, or never began.
async fn child(core: &Arc<Core>, mut start: Start, parent: Parent) -> Option<Outcome> {
    let key = digest(parent.operation.as_bytes());
    start.name = Some(format!("{}-{}", parent.execution, &key[..16]));
    let mut pause = PAUSE;
    loop {
        match core.begin(start.clone(), Some(parent.clone())).await {
            Ok(started) => {
                let over = core.look(&started.id, |execution| execution.ended().then(|| execution.head.clone()));
                return over.await.ok().flatten().map(|head| outcome_of(&head));
            }
            Err(Refused::Platform(error)) if error.kind == ErrorKind::ShuttingDown => return None,
            Err(Refused::Platform(error)) if error.kind.retryable() => pause = wait(core, pause).await?,
            Err(refused) => return Some((OperationStatus::Failed, Err(error_of(refused)))),
        }
    }
}

fn error_of(refused: Refused) -> ErrorObject {
    match refused {
        Refused::Invalid(m) | Refused::CallbackOver(m) => ErrorObject::new("InvalidParameterValueException", m),
        Refused::NotFound(m) => ErrorObject::new("ResourceNotFoundException", m),
        Refused::AlreadyStarted(m) => ErrorObject::new("DurableExecutionAlreadyStartedException", m),
        Refused::Platform(error) => ErrorObject::new("ServiceException", error.message),
    }
}

fn plain_error(error: Error) -> ErrorObject {
    match error.kind {
        ErrorKind::NotFound => ErrorObject::new("ResourceNotFoundException", error.message),
        ErrorKind::InvalidInput => ErrorObject::new("InvalidParameterValueException", error.message),
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

/// Invokes a plain function. `None`: the server is being taken down; it is invoked again by the next one.
async fn plain(core: &Arc<Core>, start: Start) -> Option<Outcome> {
    let mut pause = PAUSE;
    loop {
        let turn = core.calls.acquire().await.ok()?;
        if core.is_closed() {
            return None;
        }
        let id = random_id().and_then(|text| RequestId::parse(&text)).ok()?;
        let context =
            CallContext { qualifier: start.qualifier.clone(), trace: start.trace.clone(), ..Default::default() };
        let invocation = Invocation {
            id,
            function: start.function.clone(),
            http: None,
            payload: start.input.clone(),
            context: Some(Box::new(context)),
        };
        let outcome = core.host.run(invocation).await;
        drop(turn);
        if core.abandoned.load(std::sync::atomic::Ordering::Acquire) {
            return None;
        }
        let failed = |error: ErrorObject| Some((OperationStatus::Failed, Err(error)));
        match outcome.map(|outcome| outcome.result) {
            Ok(Answer::Reply { body, .. }) if body.len() > check::MAX_CHAINED => {
                let text = format!(
                    "CHAINED_INVOKE output payload size must be less than or equal to {} bytes.",
                    check::MAX_CHAINED
                );
                return failed(ErrorObject { error_message: Some(text), ..ErrorObject::default() });
            }
            Ok(Answer::Reply { body, .. }) => match String::from_utf8(body.to_vec()) {
                Ok(text) => return Some((OperationStatus::Succeeded, Ok(text))),
                Err(_) => {
                    let text = "CHAINED_INVOKE response could not be decoded as UTF-8.";
                    return failed(ErrorObject { error_message: Some(text.into()), ..ErrorObject::default() });
                }
            },
            Ok(Answer::Failed(error)) => return failed(ErrorObject::of_function(&error.body)),
            Err(error) if error.kind == ErrorKind::ShuttingDown => return None,
            Err(error) if error.kind.retryable() => pause = wait(core, pause).await?,
            Err(error) => return failed(plain_error(error)),
        }
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
        Status::Failed | Status::Running => (OperationStatus::Failed, error()),
    }
}

/// An execution that another one waits for is over.
pub(super) async fn tell(core: Arc<Core>, parent: Parent, head: Head) {
    report(&core, &parent, outcome_of(&head)).await;
}

async fn report(core: &Arc<Core>, parent: &Parent, (status, outcome): Outcome) {
    let operation = parent.operation.clone();
    let told = core.change(&parent.execution, move |execution, now| {
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
