//! Who invokes the function of an execution, again and again until it is suspended or over, and who notices when something
//! is due.
//!
//! No instance is held while an execution waits: an invocation that suspends has ended like any other.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Answer, CallContext, Error, ErrorKind, Invocation, Outcome, RequestId};
use serde_json::{Value, json};

use super::machine::{Ending, Execution};
use super::types::{ErrorObject, milliseconds};
use super::{Cell, Core, Held, random_id};
use crate::pool::tap::now_ms;

/// Operations that an invocation is given at once, in bytes; it asks for the others.
pub(super) const PAGE_BYTES: usize = 4 << 20;
/// Operations that an invocation is given at once.
const PAGE_ITEMS: usize = 1000;
/// The longest sleep of whoever keeps time: so that a clock that is set is noticed.
const MAX_SLEEP: Duration = Duration::from_secs(30);

/// Invokes an execution's function as long as it is to be invoked. Whoever calls this has set `driven`.
pub(super) async fn drive(core: Arc<Core>, id: String, cell: Arc<Cell>) {
    loop {
        let Ok(turn) = core.turns.acquire().await else { return };
        let Some(invocation) = prepare(&core, &id, &cell).await else { return };
        core.running.fetch_add(1, Ordering::AcqRel);
        let request = invocation.id.clone();
        let outcome = core.host.run(invocation).await;
        drop(turn);
        let goes_on = conclude(&core, &id, &cell, &request, outcome).await;
        core.running.fetch_sub(1, Ordering::AcqRel);
        if !goes_on {
            return;
        }
    }
}

/// The next invocation; `None`: there is none now, and nobody drives any more.
async fn prepare(core: &Arc<Core>, id: &str, cell: &Arc<Cell>) -> Option<Invocation<Bytes>> {
    let mut place = cell.held.lock().await;
    let held = place.as_mut()?;
    let now = now_ms();
    held.execution.fire(now);
    if core.is_closed() || !held.execution.wants_invocation(now) {
        return rest(core, id, cell, &mut place, now).await;
    }
    // What was due is on the disk before the function is told of it.
    if held.execution.is_fresh() {
        core.settle(id, cell, &mut place, now).await.map_err(|e| tracing::error!(?e, "an execution waits")).ok()?;
    }
    let held = place.as_mut()?;
    let request = match random_id().and_then(|text| RequestId::parse(&text)) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(%error, "an execution cannot be invoked");
            held.execution.head.not_before_ms = now + 1000;
            return rest(core, id, cell, &mut place, now).await;
        }
    };
    let payload = input(&mut held.execution, &request, now);
    core.timers.set(id, held.execution.next_due(false));
    let head = &held.execution.head;
    let context =
        CallContext { qualifier: Some(head.version.clone()), trace: head.trace.clone(), ..Default::default() };
    Some(Invocation {
        id: request,
        function: head.function.clone(),
        http: None,
        payload,
        context: Some(Box::new(context)),
    })
}

/// Nobody drives any more, for now.
async fn rest<T>(core: &Arc<Core>, id: &str, cell: &Arc<Cell>, place: &mut Option<Held>, now: u64) -> Option<T> {
    if let Some(held) = place.as_mut() {
        held.driven = false;
    }
    if let Err(error) = core.settle(id, cell, place, now).await {
        tracing::error!(?error, "what became of a durable execution could not be written; it is tried again");
    }
    None
}

/// What the function is called with.
fn input(execution: &mut Execution, request: &RequestId, now: u64) -> Bytes {
    let begun = execution.begin(request.as_str(), now);
    let page = execution.page(0, PAGE_ITEMS, PAGE_BYTES);
    let id = &execution.head.id;
    let operations: Vec<Value> = page.operations.iter().map(|o| o.shown(id, milliseconds)).collect();
    let event = json!({
        "DurableExecutionArn": execution.head.arn,
        "CheckpointToken": begun.token,
        "InitialExecutionState": {
            "Operations": operations,
            "NextMarker": page.next.map_or_else(String::new, |at| at.to_string()),
        },
        "UpdatedOperationIds": begun.updated,
    });
    Bytes::from(event.to_string())
}

/// Takes note of how an invocation ended. Whether another follows at once.
async fn conclude(
    core: &Arc<Core>,
    id: &str,
    cell: &Arc<Cell>,
    request: &RequestId,
    outcome: Result<Outcome<Bytes>, Error>,
) -> bool {
    if core.abandoned.load(Ordering::Acquire) {
        return false;
    }
    let ending = ending(outcome);
    let mut place = cell.held.lock().await;
    let Some(held) = place.as_mut() else { return false };
    // After a write that failed the execution was read again, and somebody else drives it: this end is of no invocation that it knows.
    if held.execution.runs_another(request.as_str()) {
        return false;
    }
    let now = now_ms();
    held.execution.finish(ending, now);
    if core.is_closed() || !held.execution.wants_invocation(now) {
        return rest::<()>(core, id, cell, &mut place, now).await.is_some();
    }
    match core.settle(id, cell, &mut place, now).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(?error, "how an invocation ended could not be written; it is made again");
            false
        }
    }
}

fn ending(outcome: Result<Outcome<Bytes>, Error>) -> Ending {
    match outcome.map(|outcome| outcome.result) {
        Ok(Answer::Reply { body, .. }) => Ending::Said(body.to_vec()),
        Ok(Answer::Failed(error)) => Ending::Failed(ErrorObject::of_function(&error.body)),
        Err(error) => match error.kind {
            ErrorKind::NotFound => Ending::Gone(ErrorObject::new("ResourceNotFoundException", error.message)),
            ErrorKind::InvalidInput | ErrorKind::TooLarge => {
                Ending::Failed(ErrorObject::new("InvalidParameterValueException", error.message))
            }
            _ => {
                tracing::debug!(%error, "an invocation of a durable execution could not be made now");
                Ending::Setback
            }
        },
    }
}

/// Looks after everything that is due.
pub(super) async fn keep_time(core: Weak<Core>) {
    loop {
        let Some(now) = core.upgrade() else { return };
        let (due, next) = now.timers.due(now_ms());
        for id in due {
            let core = now.clone();
            tokio::spawn(async move {
                let woken = core.change(&id, |execution, now| {
                    execution.fire(now);
                    Ok(())
                });
                if let Err(error) = woken.await {
                    tracing::warn!(?error, "a durable execution could not be woken; it is tried again");
                    core.timers.set(&id, Some(now_ms() + super::UNWRITTEN_MS));
                }
            });
        }
        let sleep = next.map_or(MAX_SLEEP, |at| Duration::from_millis(at.saturating_sub(now_ms())).min(MAX_SLEEP));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = now.timers.rung() => {}
        }
        if now.is_closed() {
            return;
        }
    }
}

/// Goes on with what the last server left.
pub(super) async fn resume(core: Arc<Core>, open: Vec<String>) {
    for id in open {
        let woken = core.change(&id, |execution, now| {
            execution.fire(now);
            Ok(execution.open_chained())
        });
        match woken.await {
            Ok(chained) => {
                for operation in chained {
                    tokio::spawn(super::chain::carry_out(core.clone(), id.clone(), operation));
                }
            }
            Err(error) => tracing::error!(?error, "a durable execution cannot be resumed"),
        }
    }
}
