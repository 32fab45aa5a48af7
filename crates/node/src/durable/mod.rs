//! Durable executions: functions that are replayed from what they have checkpointed, suspended while they wait, and resumed
//! when a wait, a retry, a callback or another function's answer is due (docs/design/010-durable.md).
//!
//! `machine` decides, `check` refuses, `history` tells, `rows` keeps (in a ledger), `drive` invokes, `chain` calls other
//! functions, `serve` is what functions ask, `cells` is what is in memory. It runs functions through `Host`; it never speaks HTTP and never touches an instance.

mod call;
mod cells;
mod chain;
mod check;
mod drive;
mod history;
mod host;
mod machine;
mod rows;
mod serve;
#[cfg(test)]
mod tests;
mod timers;
pub mod tokens;
pub mod types;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind, FunctionName, Invocation, Outcome, Place, RequestId, RuntimeName};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use crate::ledger::Ledger;
use crate::pool::tap::now_ms;
use crate::queue::Boxed;
use cells::{Cell, Drivers, Held, Memory, OpenCount, Room, Use, leave};
pub use host::NodeHost;
use machine::{Execution, NoCallback};
pub use machine::{Head, Parent, Pause, PauseRequest};
pub use rows::Filter;
use rows::{LAYOUT, Write};
pub use serve::{Caller, MAX_BODY};
use timers::Timers;
use types::ErrorObject;
pub use types::Status;

/// Bytes of all executions that are kept, at most.
const MAX_STORED: u64 = 64 << 30;
/// The longest execution that a caller may wait for, in seconds (AWS: 15 minutes).
const MAX_SYNCHRONOUS: u64 = 900;
/// The result of a callback and the error of a stop, in bytes (AWS: 1 MB).
const MAX_ANSWER: usize = 1 << 20;
/// Executions that are begun for others, or tell others of their end, at once.
const LINKS: usize = 32;
/// A page of an execution's history, in bytes of its events: within AWS's 6 MB of an answer with room for escapes.
const HISTORY_BYTES: usize = 4 << 20;
/// Between two looks for executions whose time of being kept is over.
const SWEEP: Duration = Duration::from_secs(600);
/// Executions that are removed in one transaction.
const SWEEP_BATCH: usize = 200;
/// How long an execution is left alone that could not be written.
const UNWRITTEN_MS: u64 = 30_000;

/// What makes a function durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DurableConfig {
    /// How long an execution may take, in seconds (AWS: 1 to 31,622,400).
    pub execution_timeout: u64,
    /// How long it is kept after its end, in days (AWS: 1 to 90).
    pub retention_period_in_days: u32,
}

/// What a name and a qualifier mean.
#[derive(Debug, Clone)]
pub struct Meant {
    /// `$LATEST` or a number.
    pub version: String,
    /// Whether it is durable.
    pub durable: Option<DurableConfig>,
}

/// What runs functions.
pub trait Host: Send + Sync + 'static {
    /// What this function and qualifier mean; `None`: there is no such thing.
    fn meant(&self, function: &FunctionName, qualifier: Option<&str>) -> Option<Meant>;
    /// Whether a function is durable: all its versions are, or none.
    fn is_durable(&self, function: &FunctionName) -> bool;
    /// Runs an invocation to its end.
    fn run(&self, invocation: Invocation<Bytes>) -> Boxed<'_, Result<Outcome<Bytes>, Error>>;
    /// The runtime of a function.
    fn runtime(&self, function: &FunctionName) -> Option<RuntimeName>;
    /// Where this server says that it is.
    fn place(&self) -> &Place;
    /// The trace header for one more run of a function in the chain of calls that led to this one; an error where that would be a
    /// loop that is to be stopped.
    fn next_trace(&self, function: &FunctionName, trace: &str) -> Result<String, Error>;
}

/// Why something was refused. Each is one error of AWS's dialect.
#[derive(Debug, Clone)]
pub enum Refused {
    /// A value does not fit, or not now.
    Invalid(String),
    /// There is no such function, execution or callback.
    NotFound(String),
    /// An execution of this name was begun with something else.
    AlreadyStarted(String),
    /// An execution is not in a state for that.
    Conflict(String),
    /// A callback is over.
    CallbackOver(String),
    /// The machine or the disk.
    Platform(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Platform(error)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(m) | Refused::CallbackOver(m) => Error::new(ErrorKind::InvalidInput, m),
            Refused::NotFound(m) => Error::new(ErrorKind::NotFound, m),
            Refused::AlreadyStarted(m) | Refused::Conflict(m) => Error::new(ErrorKind::Conflict, m),
            Refused::Platform(error) => error,
        }
    }
}

/// An execution to be begun.
#[derive(Debug, Clone)]
pub struct Start {
    /// Which function.
    pub function: FunctionName,
    /// Which version: `$LATEST`, a number or an alias; `None` is `$LATEST`. That AWS's callers have to name one is their dialect's rule.
    pub qualifier: Option<String>,
    /// Its name; made up where there is none.
    pub name: Option<String>,
    /// Its input, JSON.
    pub input: Bytes,
    /// The caller's trace header.
    pub trace: Option<String>,
}

/// An execution that was begun, or was there.
#[derive(Debug, Clone)]
pub struct Started {
    /// Its id.
    id: String,
    /// Its full name.
    pub arn: String,
    /// The version that it runs.
    pub version: String,
    cell: Arc<Cell>,
}

/// What all parts share.
struct Core {
    ledger: Ledger,
    host: Arc<dyn Host>,
    cells: Mutex<HashMap<String, Weak<Cell>>>,
    memory: Memory,
    drivers: Drivers,
    timers: Timers,
    /// Invocations of durable functions at once.
    turns: Arc<Semaphore>,
    /// Plain functions that executions call, at once.
    calls: Semaphore,
    /// Executions that are begun for others, or tell others of their end, at once.
    links: Semaphore,
    open: Arc<OpenCount>,
    written: AtomicU64,
    running: AtomicUsize,
    closed: watch::Sender<bool>,
    abandoned: AtomicBool,
}

/// The file of durable executions, looked at and ready.
pub struct Opened {
    ledger: Ledger,
    open: Vec<(String, FunctionName)>,
    written: u64,
}

impl Opened {
    /// Opens the executions of a data directory. Blocks for as long as it takes to look at the whole file.
    pub fn open(data_dir: &Path) -> Result<Opened, Error> {
        let (ledger, (open, written)) =
            Ledger::open(data_dir, &LAYOUT, |db| Ok((rows::open(db)?, rows::written(db)?)))?;
        Ok(Opened { ledger, open, written })
    }
}

/// Durable executions.
#[derive(Clone)]
pub struct Durable {
    core: Arc<Core>,
}

/// The way of functions to their own executions; does not keep the server alive.
#[derive(Clone)]
pub struct Gate(Weak<Core>);

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    /// What is behind it, as long as the server lives.
    pub fn durable(&self) -> Option<Durable> {
        self.0.upgrade().map(|core| Durable { core })
    }
}

impl Durable {
    /// Goes on with what is not over. `concurrency` is the number of invocations at once. Must be called inside a tokio runtime.
    pub fn start(opened: Opened, host: Arc<dyn Host>, concurrency: u32) -> Durable {
        let Opened { ledger, open, written } = opened;
        let core = Arc::new(Core {
            ledger,
            host,
            cells: Mutex::default(),
            memory: Memory::default(),
            drivers: Drivers::default(),
            timers: Timers::default(),
            turns: Arc::new(Semaphore::new(concurrency.max(1) as usize)),
            calls: Semaphore::new(concurrency.max(1) as usize),
            links: Semaphore::new(LINKS),
            open: Arc::default(),
            written: AtomicU64::new(written),
            running: AtomicUsize::new(0),
            closed: watch::Sender::new(false),
            abandoned: AtomicBool::new(false),
        });
        open.iter().for_each(|(_, function)| core.open.add(function));
        tokio::spawn(drive::keep_time(Arc::downgrade(&core)));
        tokio::spawn(drive::resume(core.clone(), open.into_iter().map(|(id, _)| id).collect()));
        tokio::spawn(sweep(Arc::downgrade(&core)));
        Durable { core }
    }

    /// What functions reach their executions through.
    pub fn gate(&self) -> Gate {
        Gate(Arc::downgrade(&self.core))
    }

    /// Begins an execution, or finds the one that has this name and input. It is durable when this returns.
    pub async fn begin(&self, start: Start) -> Result<Started, Refused> {
        self.core.begin(start, None).await
    }

    /// Begins an execution and waits for its end. It goes on when the caller goes away.
    pub async fn invoke(&self, start: Start) -> Result<(Started, Head), Refused> {
        if let Some(Meant { durable: Some(config), .. }) =
            self.core.host.meant(&start.function, start.qualifier.as_deref())
            && config.execution_timeout > MAX_SYNCHRONOUS
        {
            let text =
                "You cannot synchronously invoke a durable function with an executionTimeout greater than 15 minutes.";
            return Err(Refused::Invalid(text.into()));
        }
        let started = self.begin(start).await?;
        let head = self.core.end_of(&started).await?;
        Ok((started, head))
    }

    /// An execution's own part.
    pub async fn get(&self, arn: &str) -> Result<Head, Refused> {
        let id = id_of(arn)?;
        let found = self.core.ledger.read(move |db| rows::head(db, &id)).await?;
        found.filter(|head| head.arn == arn).ok_or_else(unknown)
    }

    /// What an execution was begun with.
    pub async fn input(&self, arn: &str) -> Result<Option<String>, Refused> {
        let id = id_of(arn)?;
        Ok(self.core.ledger.read(move |db| rows::input(db, &id)).await?)
    }

    /// A page of an execution's history behind this event, in AWS's shape: at most so many events, and no more than an answer
    /// should hold. The second value is where the next page begins.
    pub async fn history(
        &self,
        arn: &str,
        after: Option<u64>,
        reverse: bool,
        limit: usize,
        data: bool,
    ) -> Result<(Vec<Value>, Option<u64>), Refused> {
        let id = self.get(arn).await?.id;
        let whose = id.clone();
        let bounds = (limit, HISTORY_BYTES);
        let (events, next) = self.core.ledger.read(move |db| rows::events(db, &whose, after, reverse, bounds)).await?;
        Ok((events.into_iter().map(|event| history::shown(event, &id, data)).collect(), next))
    }

    /// Executions, with their place in the order.
    pub async fn list(&self, filter: Filter) -> Result<Vec<(i64, Head)>, Refused> {
        Ok(self.core.ledger.read(move |db| rows::list(db, &filter)).await?)
    }

    /// Ends an execution. The answer is when it ended, be it earlier; ms since 1970.
    pub async fn stop(&self, arn: &str, error: Option<ErrorObject>) -> Result<u64, Refused> {
        if error.as_ref().is_some_and(|e| e.size() > MAX_ANSWER as u64) {
            return Err(Refused::Invalid(format!("Error object size must be less than {MAX_ANSWER} bytes.")));
        }
        let head = self.get(arn).await?;
        self.core.change(&head.id, None, move |execution, now| Ok(execution.stop(error, now))).await
    }

    /// Pauses an execution: its function is not invoked until it is resumed. What is under way outside of it goes on.
    pub async fn pause(&self, arn: &str, asked: PauseRequest) -> Result<(), Refused> {
        let id = self.get(arn).await?.id;
        self.core.change(&id, None, move |execution, now| execution.pause(asked, now).map_err(conflict)).await
    }

    /// Goes on with an execution that is paused, or is to be.
    pub async fn resume(&self, arn: &str, reason: Option<String>, client_token: Option<String>) -> Result<(), Refused> {
        let id = self.get(arn).await?.id;
        let work = move |execution: &mut Execution, now| execution.resume(reason, client_token, now).map_err(conflict);
        self.core.change(&id, None, work).await
    }

    /// Removes an execution that is over, and all that is kept of it. The answer is when; ms since 1970.
    pub async fn delete(&self, arn: &str) -> Result<u64, Refused> {
        let head = self.get(arn).await?;
        if !head.status.is_over() {
            return Err(conflict("The durable execution is not over: stop it first."));
        }
        let core = self.core.clone();
        to_its_end(async move {
            let cell = core.cell(&head.id);
            // Whoever still works on it finds nothing afterwards.
            let mut place = cell.held.lock().await;
            let id = head.id.clone();
            let bytes = core.ledger.write(move |db| rows::delete(db, &id), |_| {}).await?.ok_or_else(unknown)?;
            *place = None;
            core.drivers.clear(&head.id);
            let left = |now: u64| Some(now.saturating_sub(bytes));
            core.written.fetch_update(Ordering::AcqRel, Ordering::Acquire, left).ok();
            Ok(now_ms())
        })
        .await
    }

    /// Answers a callback.
    pub async fn answer(&self, callback: &str, answer: Result<Bytes, ErrorObject>) -> Result<(), Refused> {
        let size = answer.as_ref().map_or_else(|e| usize::try_from(e.size()).unwrap_or(usize::MAX), Bytes::len);
        if size > MAX_ANSWER {
            return Err(Refused::Invalid(format!("The answer of a callback has at most {MAX_ANSWER} bytes.")));
        }
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec());
        let answer = match answer.map(text) {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(_)) => return Err(Refused::Invalid("The result of a callback must be UTF-8.".into())),
            Err(error) => Err(error),
        };
        let room = self.core.memory.growth(size)?;
        self.on_callback(callback, Some(room), |execution, id, now| execution.answer(id, answer, now)).await
    }

    /// Whoever is to answer a callback is still there.
    pub async fn heartbeat(&self, callback: &str) -> Result<(), Refused> {
        self.on_callback(callback, None, |execution, id, now| execution.heartbeat(id, now)).await
    }

    async fn on_callback(
        &self,
        callback: &str,
        grows: Option<Room>,
        work: impl FnOnce(&mut Execution, &str, u64) -> Result<(), NoCallback> + Send + 'static,
    ) -> Result<(), Refused> {
        let missing = || Refused::NotFound("Callback not found.".into());
        let (id, operation) = tokens::parse_callback(callback).ok_or_else(missing)?;
        let done = self.core.change(&id, grows, move |execution, now| {
            execution.fire(now);
            // Also where it is refused: what was due has taken place.
            Ok(work(execution, &operation, now))
        });
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NoCallback::Over)) => {
                Err(Refused::CallbackOver("The callback has timed out or has been completed already.".into()))
            }
            Ok(Err(NoCallback::Unknown)) | Err(Refused::NotFound(_)) => Err(missing()),
            Err(other) => Err(other),
        }
    }

    /// Whether a call of this function is the beginning of an execution. From memory: it is asked for on every invocation.
    pub fn concerns(&self, function: &FunctionName) -> bool {
        self.core.host.is_durable(function)
    }

    /// Takes nothing more and starts nothing more; callers that wait for an end are told.
    pub fn close(&self) {
        self.core.closed.send_replace(true);
        self.core.timers.ring();
    }

    /// Waits, at most this long, until the invocations that run have ended and that is written.
    pub async fn settled(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        while self.core.running.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What still runs is about to be ended by force: that is not the functions' doing, and is not written.
    pub fn abandon(&self) {
        self.close();
        self.core.abandoned.store(true, Ordering::Release);
    }
}

fn conflict(text: &str) -> Refused {
    Refused::Conflict(text.into())
}

fn unknown() -> Refused {
    Refused::NotFound("Durable Execution does not exist".into())
}

fn id_of(arn: &str) -> Result<String, Refused> {
    tokens::parse_arn(arn).map(str::to_owned).ok_or_else(|| Refused::Invalid("Invalid Durable Execution ARN".into()))
}

fn random_id() -> Result<String, Error> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(ErrorKind::Internal, "no random numbers").caused_by(e))?;
    Ok(RequestId::from_random(bytes).as_str().to_owned())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn check_name(name: &str) -> Result<(), Refused> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    let text = "The name of a durable execution has 1 to 64 letters, digits, '-' and '_'.";
    Err(Refused::Invalid(text.into()))
}

impl Core {
    fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    async fn begin(self: &Arc<Self>, start: Start, parent: Option<Parent>) -> Result<Started, Refused> {
        if self.is_closed() {
            return Err(shutting_down().into());
        }
        let (place, function) = (self.host.place(), start.function.as_str());
        let missing = || {
            let qualifier = start.qualifier.as_deref().unwrap_or("$LATEST");
            Refused::NotFound(format!("Function not found: {}", place.function(function, Some(qualifier))))
        };
        let meant = self.host.meant(&start.function, start.qualifier.as_deref()).ok_or_else(missing)?;
        let Some(config) = meant.durable else {
            return Err(Refused::Invalid(format!("The function {function} is not durable: it has no DurableConfig.")));
        };
        start.name.as_deref().map_or(Ok(()), check_name)?;
        // One more run of the function in the chain of calls that led here.
        let trace = start.trace.map(|trace| self.host.next_trace(&start.function, &trace)).transpose()?;
        let id = random_id()?;
        let name = start.name.clone().unwrap_or_else(|| id.clone());
        let arn = format!("{}/durable-execution/{name}/{id}", place.function(function, Some(meant.version.as_str())));
        let input = String::from_utf8(start.input.to_vec());
        let input = input.map_err(|_| Refused::Invalid("The input must be UTF-8.".into()))?;
        let head = Head {
            name,
            version: meant.version,
            timeout_s: config.execution_timeout,
            retention_days: config.retention_period_in_days,
            input_digest: digest(input.as_bytes()),
            trace,
            parent,
            ..Head::blank(id, arn, start.function, now_ms())
        };
        let (core, execution) = (self.clone(), Execution::start(head, input));
        to_its_end(async move { core.enter(execution).await }).await
    }

    /// Stores a new execution and sees to it.
    async fn enter(self: &Arc<Self>, mut execution: Execution) -> Result<Started, Refused> {
        self.room()?;
        let beginning = self.open.begin(&execution.head.function)?;
        let room = self.memory.room(Use::Brief, execution.head.written).await?;
        let write = Write::of(&mut execution).map_err(unwritable)?;
        let head = &execution.head;
        let (id, arn, version) = (head.id.clone(), head.arn.clone(), head.version.clone());
        let cell = self.cell(&id);
        // From here: who finds it on the disk before this is done waits until it is in memory.
        let mut place = cell.held.lock().await;
        let taken = self.ledger.write(move |db| rows::insert(db, &write), |_| {}).await?;
        if let Some(there) = taken {
            let same = (&there.function, &there.version, &there.input_digest, &there.parent);
            if same != (&head.function, &head.version, &head.input_digest, &head.parent) {
                let text = format!(
                    "A durable execution named '{}' was started already with another input or another function: choose another name.",
                    there.name
                );
                return Err(Refused::AlreadyStarted(text));
            }
            let cell = self.cell(&there.id);
            return Ok(Started { id: there.id, arn: there.arn, version: there.version, cell });
        }
        beginning.begun();
        self.written.fetch_add(head.written, Ordering::Relaxed);
        let held = place.insert(Held::new(execution, room));
        self.arrange(&id, &cell, held, now_ms());
        leave(&mut place);
        drop(place);
        Ok(Started { id, arn, version, cell })
    }

    fn room(&self) -> Result<(), Refused> {
        if self.written.load(Ordering::Relaxed) < MAX_STORED {
            return Ok(());
        }
        let text = format!(
            "durable executions take {MAX_STORED} bytes, the limit: it falls when the retention period of old ones is over"
        );
        Err(Refused::Platform(Error::new(ErrorKind::Throttled, text)))
    }

    /// The place of an execution in memory, made if it is not there.
    fn cell(&self, id: &str) -> Arc<Cell> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(id).and_then(Weak::upgrade) {
            return cell;
        }
        if cells.len() >= 64 && cells.len() == cells.capacity() {
            cells.retain(|_, cell| cell.strong_count() > 0);
        }
        let cell = Arc::new(Cell::new());
        cells.insert(id.to_owned(), Arc::downgrade(&cell));
        cell
    }

    /// What is held of an execution, read if it is not in memory, when there is room for it.
    async fn hold<'a>(
        &self,
        id: &str,
        cell: &Cell,
        held: &'a mut Option<Held>,
        what: Use,
    ) -> Result<&'a mut Held, Refused> {
        if held.is_none() {
            let whose = id.to_owned();
            // It stays as large until it is read: who changes it has its lock.
            let size = self.ledger.read(move |db| rows::size(db, &whose)).await?.ok_or_else(unknown)?;
            let room = self.memory.room(what, size).await?;
            let whose = id.to_owned();
            let execution = self.ledger.read(move |db| rows::load(db, &whose)).await?.ok_or_else(unknown)?;
            cell.ended.send_replace(execution.ended());
            *held = Some(Held::new(execution, room));
        }
        held.as_mut().ok_or_else(unknown)
    }

    /// Changes an execution. The change is durable when this returns, and is carried out also when nobody waits any more. `grows`:
    /// room for what comes to it.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        id: &str,
        grows: Option<Room>,
        work: impl FnOnce(&mut Execution, u64) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let (core, id) = (self.clone(), id.to_owned());
        to_its_end(async move {
            let cell = core.cell(&id);
            let mut place = cell.held.lock().await;
            let held = core.hold(&id, &cell, &mut place, Use::Brief).await?;
            let now = now_ms();
            let done = work(&mut held.execution, now);
            if done.is_ok() || held.execution.is_fresh() {
                held.grow(grows);
                core.settle(&id, &cell, &mut place, now).await?;
            }
            leave(&mut place);
            done
        })
        .await
    }

    /// Looks at an execution without changing it.
    async fn look<T>(&self, id: &str, look: impl FnOnce(&Execution) -> T) -> Result<T, Refused> {
        let cell = self.cell(id);
        let mut place = cell.held.lock().await;
        let held = self.hold(id, &cell, &mut place, Use::Brief).await?;
        let seen = look(&held.execution);
        leave(&mut place);
        Ok(seen)
    }

    /// Writes what changed and sees to what follows from it.
    async fn settle(
        self: &Arc<Self>,
        id: &str,
        cell: &Arc<Cell>,
        place: &mut Option<Held>,
        now: u64,
    ) -> Result<(), Refused> {
        let Some(held) = place.as_mut() else { return Ok(()) };
        if held.open {
            let write = Write::of(&mut held.execution).map_err(unwritable)?;
            if let Err(error) = self.ledger.write(move |db| rows::update(db, &write), |_| {}).await {
                // What is in memory is ahead of the disk: it is read again.
                *place = None;
                self.drivers.clear(id);
                self.timers.set(id, Some(now + UNWRITTEN_MS));
                return Err(error.into());
            }
            let written = held.execution.head.written;
            self.written.fetch_add(written.saturating_sub(held.counted), Ordering::Relaxed);
            held.counted = written;
        }
        self.arrange(id, cell, held, now);
        Ok(())
    }

    /// Sees to it that an execution goes on, or tells of its end.
    fn arrange(self: &Arc<Self>, id: &str, cell: &Arc<Cell>, held: &mut Held, now: u64) {
        if held.execution.ended() {
            self.timers.set(id, None);
            if std::mem::replace(&mut held.open, false) {
                self.open.end(&held.execution.head.function);
                cell.ended.send_replace(true);
                if let Some(parent) = held.execution.head.parent.clone() {
                    tokio::spawn(chain::tell(self.clone(), parent, id.to_owned()));
                }
            }
            return;
        }
        if held.execution.wants_invocation(now)
            && !self.is_closed()
            && let Some(number) = self.drivers.take(id)
        {
            // Where nobody waits for a turn it stays in memory for whoever drives it; else it is read again when its turn comes.
            let turn = self.turns.clone().try_acquire_owned().ok().filter(|_| held.take_room(&self.memory));
            held.awaited = turn.is_some();
            let turn = turn.map(|turn| (turn, cell.clone()));
            tokio::spawn(drive::drive(self.clone(), id.to_owned(), number, turn));
        }
        self.timers.set(id, held.execution.next_due(!self.drivers.any(id)));
    }

    /// Waits until an execution is over.
    async fn end_of(self: &Arc<Self>, started: &Started) -> Result<Head, Refused> {
        let mut ended = started.cell.ended.subscribe();
        let head = || {
            let id = started.id.clone();
            self.ledger.read(move |db| rows::head(db, &id))
        };
        // One that was there already may have ended before.
        let now = head().await?.ok_or_else(unknown)?;
        if now.status.is_over() {
            return Ok(now);
        }
        drop(now);
        let mut closed = self.closed.subscribe();
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            _ = closed.wait_for(|closed| *closed) => return Err(shutting_down().into()),
        }
        head().await?.ok_or_else(unknown)
    }
}

fn shutting_down() -> Error {
    let text = "the server is shutting down: the execution goes on at its next start; ask for it then";
    Error::new(ErrorKind::ShuttingDown, text)
}

fn unwritable(error: rusqlite::Error) -> Refused {
    let text = "an execution could not be put into words: see the server's log";
    Refused::Platform(Error::new(ErrorKind::Internal, text).caused_by(error))
}

/// What has begun is carried out, also when whoever asked for it goes away.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refused>> + Send + 'static,
) -> Result<T, Refused> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(lost) => {
            Err(Error::new(ErrorKind::Internal, "a change was lost: see the server's log").caused_by(lost).into())
        }
    }
}

/// Removes executions whose time of being kept is over.
async fn sweep(core: Weak<Core>) {
    let mut clock = tokio::time::interval(SWEEP);
    loop {
        clock.tick().await;
        let Some(core) = core.upgrade() else { return };
        loop {
            let swept = core.ledger.write(|db| rows::sweep(db, now_ms(), SWEEP_BATCH), |_| {}).await;
            match swept {
                Ok((bytes, count)) => {
                    let left = |now: u64| Some(now.saturating_sub(bytes));
                    core.written.fetch_update(Ordering::AcqRel, Ordering::Acquire, left).ok();
                    if count < SWEEP_BATCH {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "old durable executions could not be removed");
                    break;
                }
            }
        }
    }
}
