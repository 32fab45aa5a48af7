//! The durable queue of asynchronous invocations: what was accepted is on the disk, is tried as AWS Lambda tries it, and ends
//! delivered, dead and kept, or removed on request. Nothing vanishes.
//!
//! `policy` decides, `schedule` orders, `rows` keeps (in a ledger), `dispatch` does. It runs functions through `Host` and reaches
//! the outside through `Carrier`; it never speaks HTTP and never touches an instance.

mod desk;
mod dispatch;
mod host;
mod item;
mod metrics;
mod policy;
mod record;
mod rows;
mod schedule;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind, FunctionName, Invocation, Limits, Outcome};
use serde::Serialize;

pub use host::NodeHost;
pub use item::{
    Condition, Context, Delivery, EventInvokeConfig, MAX_AGE, MAX_RETRIES, Parcel, QueuedCall, State, Target, View,
};
pub use metrics::QueueMetrics;
pub use policy::Pace;
pub use rows::Which;

use crate::ledger::Ledger;
use crate::pool::tap::now_ms;
use desk::Desk;
use rows::LAYOUT;
use schedule::Schedule;

/// A future behind a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The most ids that one redrive or purge takes, and the most items of one page.
pub const PAGE: u64 = 1000;
/// The longest client context and trace header, in bytes (AWS: 3,583 bytes of base64 for the context).
const MAX_CONTEXT: usize = 8 << 10;

/// What runs functions.
pub trait Host: Send + Sync + 'static {
    /// Runs an invocation to its end.
    fn run(&self, invocation: Invocation<Bytes>, context: Context) -> Boxed<'_, Result<Outcome<Bytes>, Error>>;
    /// How many invocations of the function may run at once, when that is limited.
    fn concurrency(&self, function: &FunctionName) -> Option<u32>;
    /// What is set for asynchronous invocations of the function.
    fn settings_for(&self, function: &FunctionName, qualifier: Option<&str>) -> EventInvokeConfig;
    /// The function's ARN with this version or alias.
    fn arn(&self, function: &FunctionName, qualifier: &str) -> String;
}

/// Something on its way out.
#[derive(Debug, Clone)]
pub struct Shipment {
    /// Where to: never a function.
    pub target: Target,
    /// The record, or the event.
    pub body: Bytes,
    /// Of a dead letter: name, kind (`String`, `Number`), value.
    pub attributes: Vec<(&'static str, &'static str, String)>,
    /// The trace header of the invocation that it comes of: a queue keeps it with the message.
    pub trace: Option<String>,
}

/// Why something did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    /// One sentence, for people.
    pub message: String,
    /// Trying again cannot help.
    pub lasting: bool,
}

/// What carries outcomes to targets outside of this server.
pub trait Carrier: Send + Sync + 'static {
    /// Whether the target can be reached by this server at all.
    fn check(&self, target: &Target) -> Result<(), Error>;
    /// Carries it there, within a time of its own.
    fn carry(&self, shipment: Shipment) -> Boxed<'_, Result<(), Undelivered>>;
}

/// A carrier for nodes that reach nothing: every outside target is refused.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoCarrier;

impl Carrier for NoCarrier {
    fn check(&self, target: &Target) -> Result<(), Error> {
        Err(Error::new(ErrorKind::InvalidInput, format!("this server delivers to functions only, not to {target}")))
    }
    fn carry(&self, shipment: Shipment) -> Boxed<'_, Result<(), Undelivered>> {
        let message = format!("this server delivers to functions only, not to {}", shipment.target);
        Box::pin(async move { Err(Undelivered { message, lasting: true }) })
    }
}

/// The queue's bounds.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Items of one function that are not dead, and as many dead ones.
    pub items: u64,
    /// Bytes of all items that are not dead, and as many of dead ones.
    pub bytes: u64,
    /// Bytes of one event.
    pub payload: u64,
    /// Items that run at once.
    pub concurrency: u32,
}

impl From<&Limits> for QueueLimits {
    fn from(limits: &Limits) -> Self {
        // Half of what the server runs at once stays for those who wait for an answer.
        let concurrency = (limits.concurrency / 2).clamp(1, 256);
        QueueLimits {
            items: limits.async_items,
            bytes: limits.async_bytes,
            payload: limits.async_payload_bytes,
            concurrency,
        }
    }
}

/// Which items are asked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this function.
    pub function: Option<FunctionName>,
    /// In this state.
    pub state: Option<State>,
}

/// One page of items.
#[derive(Debug)]
pub struct Page {
    /// Oldest first.
    pub items: Vec<View>,
    /// What to ask the next page with; `None`: there is none.
    pub next: Option<i64>,
}

/// One item, with its bytes.
#[derive(Debug)]
pub struct Detail {
    /// What it is.
    pub view: View,
    /// The event; `None`: what is stored is not what was accepted.
    pub event: Option<Vec<u8>>,
    /// The record of how it ended, if it did.
    pub record: Option<Vec<u8>>,
}

/// The sum of everything. Always: `accepted` = `finished` + `purged` + `evicted` + the states.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Ever accepted.
    pub accepted: u64,
    /// Ever done.
    pub finished: u64,
    /// Ever removed on request.
    pub purged: u64,
    /// Dead ones ever removed for newer dead ones.
    pub evicted: u64,
    /// Ever run again because a server ended while they ran.
    pub redelivered: u64,
    /// Waiting now.
    pub waiting: u64,
    /// Running now.
    pub running: u64,
    /// Being delivered now.
    pub delivering: u64,
    /// Kept as dead now.
    pub dead: u64,
}

impl Totals {
    /// Whether nothing is missing and nothing is there twice.
    pub fn balanced(&self) -> bool {
        let there = self.waiting + self.running + self.delivering + self.dead;
        self.accepted == self.finished + self.purged + self.evicted + there
    }
    /// How many are in this state.
    pub fn of(&self, state: State) -> u64 {
        let mut copy = *self;
        *copy.of_mut(state)
    }
    fn of_mut(&mut self, state: State) -> &mut u64 {
        match state {
            State::Waiting => &mut self.waiting,
            State::Running => &mut self.running,
            State::Delivering => &mut self.delivering,
            State::Dead => &mut self.dead,
        }
    }
}

/// What all parts of the queue share.
struct Core {
    store: Ledger,
    desk: Arc<Desk>,
    host: Arc<dyn Host>,
    carrier: Arc<dyn Carrier>,
    pace: Pace,
    /// Nothing new is taken and nothing more is started.
    closed: AtomicBool,
    /// The server is being taken down: how running items end is not their own doing, and is not written.
    abandoned: AtomicBool,
}

/// The queue.
pub struct Queue {
    core: Arc<Core>,
}

/// A queue's file, looked at and ready.
pub struct Opened {
    store: Ledger,
    places: Vec<rows::Place>,
    totals: Totals,
    pace: Pace,
}

impl Opened {
    /// Opens the queue of a data directory, or makes a new one. What ran when the last server ended waits again. Blocks for as
    /// long as it takes to look at the whole file.
    pub fn open(data_dir: &Path, pace: Pace) -> Result<Opened, Error> {
        let now = now_ms();
        let (store, (places, totals)) = Ledger::open(data_dir, &LAYOUT, |db| {
            let places = rows::resume(db, |times, seq| policy::after_interruption(times, pace, seq as u64, now))?;
            Ok((places, rows::totals(db)?))
        })?;
        if !totals.balanced() {
            return Err(LAYOUT.damaged("its counters do not add up to its items"));
        }
        Ok(Opened { store, places, totals, pace })
    }
}

impl Queue {
    /// Starts to work a queue off. Must be called inside a tokio runtime.
    pub fn start(
        opened: Opened,
        limits: QueueLimits,
        host: Arc<dyn Host>,
        carrier: Arc<dyn Carrier>,
        metrics: QueueMetrics,
    ) -> Queue {
        let Opened { store, places, totals, pace } = opened;
        let share = (limits.concurrency / 4).max(1);
        let schedule = Schedule::new(limits.concurrency, share, pace.pauses());
        let desk = Desk::new(limits, schedule, totals, &places, metrics);
        let (closed, abandoned) = (AtomicBool::new(false), AtomicBool::new(false));
        let core = Arc::new(Core { store, desk: Arc::new(desk), host, carrier, pace, closed, abandoned });
        tokio::spawn(dispatch::run(core.clone()));
        Queue { core }
    }

    /// Accepts a call. When this returns, the call is durable and will be made, also if the server is killed now.
    pub async fn accept(&self, call: QueuedCall) -> Result<(), Error> {
        let core = &self.core;
        if core.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::ShuttingDown, "the server is shutting down: retry on another, or later"));
        }
        core.check(&call)?;
        let new = rows::New {
            id: call.id,
            function: call.function,
            context: call.context,
            http: call.http,
            settings: call.settings,
            hops: 0,
            payload: call.payload,
            now: now_ms(),
        };
        let (function, bytes, now) = (new.function.clone(), new.weight(), new.now);
        core.desk.reserve(&function, bytes)?;
        let desk = core.desk.clone();
        let after = move |done: Result<&i64, &Error>| match done {
            Ok(seq) => desk.update(|book| book.accepted(&function, *seq, now)),
            Err(_) => desk.release(&function, bytes),
        };
        core.store.write(move |db| rows::insert(db, &new), after).await.map(drop)
    }

    /// Items, oldest first, from behind this place in the order of acceptance.
    pub async fn list(&self, filter: Filter, after: i64, limit: u64) -> Result<Page, Error> {
        let limit = limit.clamp(1, PAGE);
        let items = self.core.store.read(move |db| rows::list(db, &filter, after, limit)).await?;
        let next = items.last().filter(|_| items.len() as u64 == limit).map(|item| item.seq);
        Ok(Page { items, next })
    }

    /// One item, by its request id.
    pub async fn show(&self, id: &str) -> Result<Option<Detail>, Error> {
        let id = id.to_owned();
        let found = self.core.store.read(move |db| rows::show(db, &id)).await?;
        Ok(found.map(|(view, event, record)| Detail { view, event, record }))
    }

    /// Lets dead items begin again. Answers how many there were.
    pub async fn redrive(&self, which: Which) -> Result<u64, Error> {
        check_ids(&which)?;
        let (now, desk) = (now_ms(), self.core.desk.clone());
        let after = move |done: Result<&Vec<rows::Place>, &Error>| {
            let Ok(places) = done else { return };
            desk.update(|book| {
                for place in places {
                    let (before, after) = ((State::Dead, place.bytes), (State::Waiting, place.own_bytes));
                    book.shift(&place.function, before, Some(after));
                    book.schedule_place(&rows::Place { state: State::Waiting, due_ms: now, ..place.clone() });
                }
            });
        };
        let places = self.core.store.write(move |db| rows::redrive(db, &which, now), after).await?;
        Ok(places.len() as u64)
    }

    /// Removes items that do not run. Answers how many there were.
    pub async fn purge(&self, which: Which) -> Result<u64, Error> {
        check_ids(&which)?;
        let desk = self.core.desk.clone();
        let after = move |done: Result<&Vec<rows::Place>, &Error>| {
            let Ok(places) = done else { return };
            desk.update(|book| {
                for place in places {
                    book.unschedule(place);
                    book.shift(&place.function, (place.state, place.bytes), None);
                    book.totals.purged += 1;
                }
            });
        };
        let places = self.core.store.write(move |db| rows::purge(db, &which), after).await?;
        Ok(places.len() as u64)
    }

    /// The sum of everything, counted on the disk.
    pub async fn counts(&self) -> Result<Totals, Error> {
        self.core.store.read(rows::totals).await
    }

    /// How many items of one function are in which state.
    pub async fn counts_of(&self, function: FunctionName) -> Result<serde_json::Value, Error> {
        let totals = self.core.store.read(move |db| rows::counts_of(db, &function)).await?;
        let all = [State::Waiting, State::Running, State::Delivering, State::Dead];
        Ok(all
            .iter()
            .map(|state| (state.name().to_owned(), totals.of(*state).into()))
            .collect::<serde_json::Map<_, _>>()
            .into())
    }

    /// The same as `counts` from memory, which is what `/metrics` shows.
    pub fn totals(&self) -> Totals {
        self.core.desk.look(|book| book.totals)
    }

    /// Bytes of what waits, runs or is delivered.
    pub fn bytes(&self) -> u64 {
        self.core.desk.look(|book| book.live_bytes())
    }

    /// Takes nothing more and starts nothing more.
    pub fn close(&self) {
        self.core.closed.store(true, Ordering::Release);
        self.core.desk.bell.notify_one();
    }

    /// Items that were started and whose end is not written yet.
    pub fn running(&self) -> u32 {
        self.core.desk.look(|book| book.schedule.running())
    }

    /// What still runs is about to be ended by force: it will run again with the next server.
    pub fn abandon(&self) {
        self.close();
        self.core.abandoned.store(true, Ordering::Release);
    }

    /// Waits, at most this long, until what runs has ended and is written.
    pub async fn settled(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        while self.running() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Core {
    fn check(&self, call: &QueuedCall) -> Result<(), Error> {
        let limit = self.desk.limits.payload;
        let size = call.payload.len() as u64;
        if size > limit {
            let message =
                format!("{size} byte payload is too large for the Event invocation type (limit {limit} bytes)");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let of = &call.context;
        let long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > MAX_CONTEXT);
        if [&of.qualifier, &of.client_context, &of.trace].into_iter().any(long) {
            let message = format!("client context, trace and qualifier have at most {MAX_CONTEXT} bytes each");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let Some(settings) = &call.settings else { return Ok(()) };
        if settings.max_retries.is_some_and(|n| n > MAX_RETRIES) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("there are 0 to {MAX_RETRIES} retries")));
        }
        if settings.max_age_s.is_some_and(|s| s == 0 || s > MAX_AGE.as_secs()) {
            let message = format!("an event's greatest age is 1 to {} seconds", MAX_AGE.as_secs());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.check_targets(settings)
    }

    fn check_targets(&self, settings: &EventInvokeConfig) -> Result<(), Error> {
        let outside = settings.targets().filter(|t| !matches!(t, Target::Function(..)));
        outside.into_iter().try_for_each(|target| self.carrier.check(target))
    }
}

impl Queue {
    /// Whether this server can deliver to all targets that these settings name: for whoever stores settings.
    pub fn check_settings(&self, settings: &EventInvokeConfig) -> Result<(), Error> {
        self.core.check_targets(settings)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn check_ids(which: &Which) -> Result<(), Error> {
    match which {
        Which::Ids(ids) if ids.len() as u64 > PAGE => {
            Err(Error::new(ErrorKind::InvalidInput, format!("at most {PAGE} ids can be named at once")))
        }
        _ => Ok(()),
    }
}
