//! The shell around the decisions: sleeps until something is due, starts it, and writes what `policy` says comes next.
//!
//! Every end of an item is one transaction with what follows from it. It holds no lock across a wait, and decides nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind, Fault, Invocation, Outcome, RequestId};

use super::desk::{Desk, delivery_lane};
use super::item::{Condition, Context, Delivery, EventInvokeConfig, Parcel, State, Target, Why};
use super::metrics::Result as Counted;
use super::policy::{self, Ending, Progress, Step};
use super::record::{self, Account, Brought};
use super::rows::{self, Change, New, Taken};
use super::schedule::{Lane, Turn, Went};
use super::{Core, Shipment, Undelivered};
use crate::pool::tap::now_ms;

/// How often a destination may call a destination in turn (AWS stops a loop of functions after about 16).
const MAX_HOPS: u32 = 16;
/// Wait before a write to the queue's file that failed is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Works the queue off until it is closed.
pub(super) async fn run(core: Arc<Core>) {
    while !core.closed.load(Ordering::Acquire) {
        let now = now_ms();
        let host = core.host.clone();
        let cap = move |lane: &Lane| match lane {
            Lane::Function(name) => host.concurrency(name).unwrap_or(u32::MAX),
            Lane::Target(_) => u32::MAX,
        };
        match core.desk.look(|book| book.schedule.next(now, &cap)) {
            Turn::Start(lane, seq) => drop(tokio::spawn(work(core.clone(), lane, seq))),
            Turn::Until(due) => {
                let sleep = tokio::time::sleep(Duration::from_millis(due.saturating_sub(now).max(1)));
                tokio::select! {
                    () = sleep => {}
                    () = core.desk.bell.notified() => {}
                }
            }
            Turn::Nothing => core.desk.bell.notified().await,
        }
    }
}

/// Gives a lane back its place, whatever happens to the task that took it.
struct Turned {
    desk: Arc<Desk>,
    lane: Lane,
    went: Option<Went>,
}

impl Drop for Turned {
    fn drop(&mut self) {
        let now = now_ms();
        self.desk.update(|book| book.schedule.finished(&self.lane, self.went, now));
    }
}

async fn work(core: Arc<Core>, lane: Lane, seq: i64) {
    let mut turn = Turned { desk: core.desk.clone(), lane, went: None };
    turn.went = match turn.lane {
        Lane::Function(_) => attempt(&core, &turn.lane, seq).await,
        Lane::Target(_) => deliver(&core, &turn.lane, seq).await,
    };
}

/// One attempt, from the mark on the disk to the next step on the disk.
async fn attempt(core: &Core, lane: &Lane, seq: i64) -> Option<Went> {
    let desk = core.desk.clone();
    let marked = move |done: Result<&Option<Taken>, &Error>| {
        if let Ok(Some(item)) = done {
            let (from, to) = ((State::Waiting, item.bytes), (State::Running, item.bytes));
            desk.update(|book| book.shift(&item.function, from, Some(to)));
        }
    };
    let item = match core.store.write(move |db| rows::take(db, seq), marked).await {
        Ok(Some(item)) => item,
        Ok(None) => return None,
        Err(error) => {
            tracing::error!(%error, cause = ?error.source, "an asynchronous invocation could not be started; it stays queued");
            return put_back(core, lane, seq);
        }
    };
    let config = settings_of(core, &item);
    let Some(event) = item.event.clone().map(Bytes::from) else {
        tracing::error!(request = %item.id, function = %item.function, "a queued event is damaged; it is kept as dead");
        end(core, &item, &config, Condition::Damaged, item.attempts, None).await;
        return None;
    };
    if policy::too_old(item.born_ms, &config, now_ms()) {
        end(core, &item, &config, Condition::EventAgeExceeded, item.attempts, None).await;
        return None;
    }
    if core.host.concurrency(&item.function) == Some(0) {
        end(core, &item, &config, Condition::ZeroReservedConcurrency, item.attempts, None).await;
        return None;
    }
    let result = run_apart(core, &item, event).await;
    if core.abandoned.load(Ordering::Acquire) {
        // How it ended is the server's doing: it runs again with the next one.
        return None;
    }
    let ending = ending_of(&result);
    count(core, ending);
    let brought = record::brought(&result);
    let progress =
        Progress { born_ms: item.born_ms, attempts: item.attempts, setbacks: item.setbacks, seed: seq as u64 };
    match policy::after_attempt(progress, ending, &config, core.pace, now_ms()) {
        Step::Again { due_ms, attempts, setbacks } => again(core, &item, due_ms, attempts, setbacks, &brought).await,
        Step::End(condition, attempts) => end(core, &item, &config, condition, attempts, Some(&brought)).await,
    }
    match ending {
        Ending::Returned | Ending::Failed | Ending::Refused => Some(Went::Through),
        Ending::Setback => Some(Went::Refused),
        Ending::NotNow => None,
    }
}

/// Runs an item in a task of its own: a bug that ends it is a setback of this item, and not the end of its turn.
async fn run_apart(core: &Core, item: &Taken, event: Bytes) -> Result<Outcome<Bytes>, Error> {
    let (host, invocation, context) = (core.host.clone(), invocation(item, event), item.context.clone());
    let task = tokio::spawn(async move { host.run(invocation, context).await });
    let lost = |e| Error::new(ErrorKind::Internal, "an asynchronous invocation was lost").caused_by(e);
    task.await.map_err(lost)?
}

/// The same for a delivery.
async fn carry_apart(core: &Core, shipment: Shipment) -> Result<(), Undelivered> {
    let carrier = core.carrier.clone();
    let task = tokio::spawn(async move { carrier.carry(shipment).await });
    let lost = |e| Undelivered { message: format!("a delivery was lost: {e}"), lasting: false };
    task.await.map_err(lost)?
}

/// The store did not answer for an item: its turn comes again.
fn put_back(core: &Core, lane: &Lane, seq: i64) -> Option<Went> {
    let due = now_ms().saturating_add(WRITE_AGAIN.as_millis() as u64);
    core.desk.update(|book| book.schedule.push(lane.clone(), due, seq));
    Some(Went::Refused)
}

fn settings_of(core: &Core, item: &Taken) -> EventInvokeConfig {
    item.settings.clone().unwrap_or_else(|| core.host.settings_for(&item.function, item.context.qualifier.as_deref()))
}

/// The invocation that an item stands for. Every attempt carries the same id.
fn invocation(item: &Taken, payload: Bytes) -> Invocation<Bytes> {
    Invocation { id: item.id.clone(), function: item.function.clone(), http: item.http.clone(), payload, context: None }
}

fn ending_of(result: &Result<Outcome<Bytes>, Error>) -> Ending {
    match result {
        Ok(outcome) => match outcome.result {
            offshoot_model::Answer::Reply { .. } => Ending::Returned,
            offshoot_model::Answer::Failed(_) => Ending::Failed,
        },
        Err(error) if error.kind == ErrorKind::ShuttingDown => Ending::NotNow,
        Err(error) if error.kind.retryable() || error.kind.fault() == Fault::Platform => Ending::Setback,
        Err(_) => Ending::Refused,
    }
}

fn count(core: &Core, ending: Ending) {
    let counted = match ending {
        Ending::Returned => Counted::Returned,
        Ending::Failed => Counted::Failed,
        Ending::Setback => Counted::Setback,
        Ending::Refused => Counted::Refused,
        Ending::NotNow => return,
    };
    core.desk.metrics.attempted(counted);
}

async fn again(core: &Core, item: &Taken, due_ms: u64, attempts: u32, setbacks: u32, brought: &Brought) {
    let change = Change {
        state: State::Waiting,
        due_ms,
        attempts,
        setbacks,
        condition: None,
        error: brought.error.clone(),
        status: Some(brought.status),
        deliveries: Vec::new(),
        record: None,
    };
    settle(core, item, State::Running, Next::Stay(change), Vec::new()).await;
}

/// No more attempts: what was ordered for this case follows, in the same transaction.
async fn end(
    core: &Core,
    item: &Taken,
    config: &EventInvokeConfig,
    condition: Condition,
    attempts: u32,
    last: Option<&Brought>,
) {
    let now = now_ms();
    let deliveries = policy::deliveries(condition, config);
    let error = last.and_then(|l| l.error.clone()).or_else(|| item.error.clone());
    let status = last.map(|l| l.status).or(item.status);
    if condition == Condition::Success && deliveries.is_empty() {
        return settle(core, item, State::Running, Next::Finish, Vec::new()).await;
    }
    let arn = core.host.arn(&item.function, item.context.qualifier.as_deref().unwrap_or("$LATEST"));
    let event = item.event.as_deref().unwrap_or_default();
    let account = Account { id: item.id.as_str(), arn: &arn, condition, attempts, event, last, now };
    let change = Change {
        state: State::Delivering,
        due_ms: now,
        attempts,
        setbacks: 0,
        condition: Some(condition),
        error: error.or_else(|| explain(condition)),
        status,
        deliveries,
        record: Some(record::record(&account)),
    };
    follow(core, item, State::Running, change).await;
}

fn explain(condition: Condition) -> Option<Why> {
    let text = match condition {
        Condition::EventAgeExceeded => "the event grew too old before an attempt succeeded",
        Condition::ZeroReservedConcurrency => "the function has a reserved concurrency of 0",
        Condition::Damaged => "what is stored of the event is not what was accepted",
        _ => return None,
    };
    Some(Why::from(text.to_owned()))
}

/// Makes the deliveries that need no journey, those to functions, and writes what is left of the others.
async fn follow(core: &Core, item: &Taken, from: State, mut change: Change) {
    let (mut calls, mut left) = (Vec::new(), Vec::new());
    for delivery in std::mem::take(&mut change.deliveries) {
        if item.hops >= MAX_HOPS && matches!(delivery.target, Target::Function(..)) {
            change.condition = Some(Condition::ChainTooLong);
            change.error =
                Some(Why::from(format!("more than {MAX_HOPS} destinations called one another: is there a loop?")));
            change.state = State::Dead;
            left.push(delivery);
            continue;
        }
        match call_of(item, &delivery, change.record.as_deref()) {
            Some(call) if core.desk.reserve(&call.function, call.weight()).is_ok() => calls.push(call),
            // Not a function, or its queue is full now.
            _ => left.push(delivery),
        }
    }
    let failed = change.condition.is_some_and(|c| c != Condition::Success);
    let next = match left.is_empty() {
        // Everything is handed on: it has arrived.
        true if !calls.is_empty() => Next::Finish,
        true if failed => Next::Stay(Change { state: State::Dead, ..change }),
        true => Next::Finish,
        false => Next::Stay(Change { deliveries: left, ..change }),
    };
    settle(core, item, from, next, calls).await;
}

/// The call that a delivery to a function is.
fn call_of(item: &Taken, delivery: &Delivery, record: Option<&[u8]>) -> Option<New> {
    let Target::Function(function, qualifier) = &delivery.target else { return None };
    let payload = match delivery.what {
        Parcel::Record => Bytes::copy_from_slice(record?),
        Parcel::Event => Bytes::copy_from_slice(item.event.as_deref()?),
    };
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).ok()?;
    Some(New {
        id: RequestId::from_random(random),
        function: function.clone(),
        context: Context { qualifier: qualifier.clone(), client_context: None, trace: item.context.trace.clone() },
        http: None,
        settings: None,
        hops: item.hops + 1,
        payload,
        now: now_ms(),
    })
}

/// How an item goes on.
#[derive(Clone)]
enum Next {
    Stay(Change),
    Finish,
}

/// What was written.
struct Settled {
    /// The item was still there, and takes so many bytes now.
    there: Option<u64>,
    /// The calls that it led to.
    calls: Vec<i64>,
    /// Dead items that made room.
    evicted: Vec<(offshoot_model::FunctionName, u64)>,
}

/// Writes how an item goes on together with the calls that follow from it, for as long as the disk does not take it.
async fn settle(core: &Core, item: &Taken, from: State, next: Next, calls: Vec<New>) {
    loop {
        match settle_once(core, item, from, next.clone(), calls.clone()).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(%error, cause = ?error.source, request = %item.id, "the end of an asynchronous invocation could not be written");
                if core.closed.load(Ordering::Acquire) {
                    // Not written, so it runs again with the next server.
                    calls.iter().for_each(|call| core.desk.release(&call.function, call.weight()));
                    return;
                }
                tokio::time::sleep(WRITE_AGAIN).await;
            }
        }
    }
}

async fn settle_once(core: &Core, item: &Taken, from: State, next: Next, calls: Vec<New>) -> Result<(), Error> {
    let record = match &next {
        Next::Stay(change) => change.record.as_ref().map_or(0, Vec::len) as u64,
        Next::Finish => 0,
    };
    let dies = matches!(&next, Next::Stay(change) if change.state == State::Dead);
    let excess =
        if dies { core.desk.excess(&item.function, item.bytes.saturating_add(record)) } else { Default::default() };
    let (seq, function) = (item.seq, item.function.clone());
    let (work_next, work_calls) = (next.clone(), calls.clone());
    let work = move |db: &rusqlite::Connection| {
        let there = match &work_next {
            Next::Stay(change) => rows::change(db, seq, change)?,
            Next::Finish => rows::finish(db, seq)?.then_some(0),
        };
        let mut settled = Settled { there, calls: Vec::new(), evicted: Vec::new() };
        if there.is_some() {
            for call in &work_calls {
                settled.calls.push(rows::insert(db, call)?);
            }
            if excess.of_function > 0 {
                settled.evicted.extend(rows::evict(db, Some(&function), excess.of_function, 0)?);
            }
            if excess.bytes > 0 {
                settled.evicted.extend(rows::evict(db, None, 0, excess.bytes)?);
            }
        }
        Ok(settled)
    };
    let (desk, item) = (core.desk.clone(), item.clone());
    let after = move |done: Result<&Settled, &Error>| {
        let Ok(settled) = done else { return };
        desk.update(|book| {
            let Some(bytes) = settled.there else {
                calls.iter().for_each(|call| book.leave(&call.function, State::Waiting, call.weight()));
                return;
            };
            let to = match &next {
                Next::Stay(change) => Some(change.state),
                Next::Finish => None,
            };
            book.shift(&item.function, (from, item.bytes), to.map(|state| (state, bytes)));
            book.totals.finished += u64::from(to.is_none());
            if let Next::Stay(change) = &next {
                let lane = match change.state {
                    State::Waiting => Some(Lane::Function(item.function.clone())),
                    State::Delivering => delivery_lane(&change.deliveries),
                    State::Running | State::Dead => None,
                };
                lane.into_iter().for_each(|lane| book.schedule.push(lane, change.due_ms, item.seq));
            }
            for (call, seq) in calls.iter().zip(&settled.calls) {
                book.accepted(&call.function, *seq, call.now);
            }
            for (function, bytes) in &settled.evicted {
                book.shift(function, (State::Dead, *bytes), None);
                book.totals.evicted += 1;
            }
        });
    };
    core.store.write(work, after).await.map(drop)
}

/// One delivery to the target whose turn it is.
async fn deliver(core: &Core, lane: &Lane, seq: i64) -> Option<Went> {
    let (item, record) = match core.store.read(move |db| rows::undelivered(db, seq)).await {
        Ok(Some(found)) => found,
        Ok(None) => return None,
        Err(error) => {
            tracing::error!(%error, cause = ?error.source, "a delivery could not be read; it is made later");
            return put_back(core, lane, seq);
        }
    };
    let (delivery, rest) = item.deliveries.split_first()?;
    let result = match call_of(&item, delivery, record.as_deref()) {
        Some(call) => return deliver_call(core, &item, call, rest).await,
        None => match shipment(&item, delivery, record) {
            Some(shipment) => carry_apart(core, shipment).await,
            None => Err(Undelivered { message: "what was to be delivered is damaged".to_owned(), lasting: true }),
        },
    };
    if core.abandoned.load(Ordering::Acquire) {
        return None;
    }
    core.desk.metrics.delivered(result.is_ok());
    let went = if result.is_ok() { Went::Through } else { Went::Refused };
    match result {
        Ok(()) if rest.is_empty() => settle(core, &item, State::Delivering, Next::Finish, Vec::new()).await,
        Ok(()) => {
            let change = delivering(&item, now_ms(), 0, rest.to_vec());
            settle(core, &item, State::Delivering, Next::Stay(change), Vec::new()).await;
        }
        Err(failure) => undelivered(core, &item, &failure).await,
    }
    Some(went)
}

/// A delivery to a function whose queue was full before.
async fn deliver_call(core: &Core, item: &Taken, call: New, rest: &[Delivery]) -> Option<Went> {
    if let Err(full) = core.desk.reserve(&call.function, call.weight()) {
        let failure = Undelivered { message: full.message, lasting: false };
        undelivered(core, item, &failure).await;
        return Some(Went::Refused);
    }
    core.desk.metrics.delivered(true);
    let next = match rest.is_empty() {
        true => Next::Finish,
        false => Next::Stay(delivering(item, now_ms(), 0, rest.to_vec())),
    };
    settle(core, item, State::Delivering, next, vec![call]).await;
    Some(Went::Through)
}

fn delivering(item: &Taken, due_ms: u64, failures: u32, left: Vec<Delivery>) -> Change {
    Change {
        state: State::Delivering,
        due_ms,
        attempts: item.attempts,
        setbacks: failures,
        condition: item.condition,
        error: item.error.clone(),
        status: item.status,
        deliveries: left,
        record: None,
    }
}

/// A delivery failed: later again, and in the end the item is kept as dead with what is left to deliver.
async fn undelivered(core: &Core, item: &Taken, failure: &Undelivered) {
    let failures = item.setbacks.saturating_add(1);
    let now = now_ms();
    let next = policy::after_delivery_failed(failures, failure.lasting, core.pace, item.seq as u64, now);
    let mut change = delivering(item, next.unwrap_or(now), failures, item.deliveries.clone());
    let to = item.deliveries.first().map(|d| d.target.to_string()).unwrap_or_default();
    tracing::warn!(request = %item.id, function = %item.function, target = to, failures, "a delivery failed: {}", failure.message);
    if next.is_none() {
        change.state = State::Dead;
        let text = format!("not delivered to {to}: {}", failure.message);
        change.error = Some(Why::from(record::shorten(&text, record::ERROR_TEXT)));
    }
    settle(core, item, State::Delivering, Next::Stay(change), Vec::new()).await;
}

/// What is to be carried; `None`: it is not what was written.
fn shipment(item: &Taken, delivery: &Delivery, record: Option<Vec<u8>>) -> Option<Shipment> {
    let (target, trace) = (delivery.target.clone(), item.context.trace.clone());
    match delivery.what {
        Parcel::Record => Some(Shipment { target, body: record?.into(), attributes: Vec::new(), trace }),
        Parcel::Event => {
            let error = item.error.as_ref().map_or("", |why| why.message.as_str());
            let attributes = record::letter_attributes(item.id.as_str(), item.status.unwrap_or(200), error);
            Some(Shipment { target, body: item.event.clone()?.into(), attributes, trace })
        }
    }
}
