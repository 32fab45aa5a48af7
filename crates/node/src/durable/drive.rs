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

use tokio::sync::OwnedSemaphorePermit;

use super::machine::{Ending, Execution, PAGE_BYTES, PAGE_ITEMS};
use super::types::{ErrorObject, milliseconds};
use super::{Cell, Core, Held, Use, leave, random_id};
use crate::pool::tap::now_ms;

/// The longest sleep of whoever keeps time: so that a clock that is set is noticed.
const MAX_SLEEP: Duration = Duration::from_secs(30);

/// A turn that was free at once, and the execution that is in memory already.
pub(super) type Turn = (OwnedSemaphorePermit, Arc<Cell>);

/// Invokes an execution's function as long as it is to be invoked. `number` is who drives it now. While it waits for its turn the
/// execution is not in memory.
pub(super) async fn drive(core: Arc<Core>, id: String, number: u64, first: Option<Turn>) {
    let mut ready = first;
    loop {
        let (turn, cell) = match ready.take() {
            Some(ready) => ready,
            None => {
                let Ok(turn) = core.turns.clone().acquire_owned().await else { return };
                (turn, core.cell(&id))
            }
        };
        let driver = Driver { core: &core, id: &id, number, cell: &cell };
        let Some(invocation) = driver.prepare().await else { return };
        core.running.fetch_add(1, Ordering::AcqRel);
        let request = invocation.id.clone();
        let outcome = core.host.run(invocation).await;
        let goes_on = driver.conclude(&request, outcome).await;
        drop(turn);
        core.running.fetch_sub(1, Ordering::AcqRel);
        if !goes_on {
            return;
        }
    }
}

/// Who drives an execution, in one turn.
struct Driver<'a> {
    core: &'a Arc<Core>,
    id: &'a str,
    number: u64,
    cell: &'a Arc<Cell>,
}

impl Driver<'_> {
    /// The next invocation; `None`: there is none now, and nobody drives any more.
    async fn prepare(&self) -> Option<Invocation<Bytes>> {
        let (core, id) = (self.core, self.id);
        let mut place = self.cell.held.lock().await;
        if !core.drivers.is(id, self.number) {
            return None;
        }
        let held = match core.hold(id, self.cell, &mut place, Use::Driven).await {
            Ok(held) => held,
            Err(error) => {
                tracing::error!(?error, "an execution cannot be read; it is tried again");
                core.drivers.clear(id);
                core.timers.set(id, Some(now_ms() + super::UNWRITTEN_MS));
                return None;
            }
        };
        held.awaited = false;
        let now = now_ms();
        held.execution.fire(now);
        if core.is_closed() || !held.execution.wants_invocation(now) {
            return self.rest(&mut place, now).await;
        }
        // What was due is on the disk before the function is told of it.
        if held.execution.is_fresh() {
            core.settle(id, self.cell, &mut place, now)
                .await
                .map_err(|e| tracing::error!(?e, "an execution waits"))
                .ok()?;
        }
        let held = place.as_mut()?;
        let request = match random_id().and_then(|text| RequestId::parse(&text)) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(%error, "an execution cannot be invoked");
                held.execution.head.not_before_ms = now + 1000;
                return self.rest(&mut place, now).await;
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

    /// Nobody drives any more, for now, and it need not be in memory.
    async fn rest<T>(&self, place: &mut Option<Held>, now: u64) -> Option<T> {
        self.core.drivers.clear(self.id);
        if let Err(error) = self.core.settle(self.id, self.cell, place, now).await {
            tracing::error!(?error, "what became of a durable execution could not be written; it is tried again");
        }
        leave(place);
        None
    }

    /// Takes note of how an invocation ended. Whether another follows at once.
    async fn conclude(&self, request: &RequestId, outcome: Result<Outcome<Bytes>, Error>) -> bool {
        let core = self.core;
        if core.abandoned.load(Ordering::Acquire) {
            return false;
        }
        let ending = ending(outcome);
        let mut place = self.cell.held.lock().await;
        // After a write that failed the execution was read again, and somebody else drives it: this end is of no invocation that it knows.
        if !core.drivers.is(self.id, self.number) {
            return false;
        }
        let Some(held) = place.as_mut().filter(|held| !held.execution.runs_another(request.as_str())) else {
            core.drivers.clear(self.id);
            return false;
        };
        let now = now_ms();
        held.execution.finish(ending, now);
        if core.is_closed() || !held.execution.wants_invocation(now) {
            return self.rest::<()>(&mut place, now).await.is_some();
        }
        let settled = core.settle(self.id, self.cell, &mut place, now).await;
        leave(&mut place);
        if let Err(error) = &settled {
            tracing::error!(?error, "how an invocation ended could not be written; it is made again");
        }
        settled.is_ok()
    }
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
                let woken = core.change(&id, None, |execution, now| {
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
        let woken = core.change(&id, None, |execution, now| {
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
