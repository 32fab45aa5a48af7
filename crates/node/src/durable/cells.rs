//! Which executions are in memory, and how much of it they take. An execution is in memory while it is changed or looked at, and
//! while an invocation of its function runs; whatever waits (for a turn, a moment, an end) has nothing but its id.
//!
//! Room is counted in kibibytes of what an execution has written, which is more than what it holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use offshoot_model::{Error, ErrorKind, FunctionName};
use tokio::sync::{Mutex as Lock, OwnedSemaphorePermit, Semaphore, watch};

use super::Refused;
use super::machine::Execution;

/// What executions that are changed or looked at may take together, in KiB.
const BRIEF: usize = 256 << 10;
/// What executions whose invocations run may take together as they were read, in KiB.
const DRIVEN: usize = 512 << 10;
/// By how much these may grow together while the invocations run, in KiB.
const GROWTH: usize = 256 << 10;
/// Of an execution that has written nothing, in KiB.
const LEAST: u64 = 4;

/// Executions that are not over, at most.
pub(super) const MAX_OPEN: u64 = 100_000;
/// Of which one function may have so many: no function keeps the others from beginning any.
pub(super) const MAX_OPEN_OF_FUNCTION: u64 = MAX_OPEN / 4;

/// One execution, as long as somebody works on it or waits for its end.
pub(super) struct Cell {
    /// The execution itself, while it is in memory. Changes come one after the other behind this lock.
    pub held: Lock<Option<Held>>,
    /// It is over.
    pub ended: watch::Sender<bool>,
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cell")
    }
}

impl Cell {
    pub fn new() -> Self {
        Cell { held: Lock::default(), ended: watch::Sender::new(false) }
    }
}

/// An execution in memory.
pub(super) struct Held {
    pub execution: Execution,
    /// Its end has not been told.
    pub open: bool,
    /// Bytes of it that are counted in `written`.
    pub counted: u64,
    /// Whoever drives it has a turn, and takes it from here at once.
    pub awaited: bool,
    room: Room,
    grown: Vec<Room>,
}

/// Some of the memory; given back when it is dropped.
pub(super) type Room = OwnedSemaphorePermit;

impl Held {
    /// An execution as it is on the disk.
    pub fn new(execution: Execution, room: Room) -> Self {
        let (open, counted) = (!execution.ended(), execution.head.written);
        Held { execution, open, counted, awaited: false, room, grown: Vec::new() }
    }

    /// What it grows by is counted as long as it is held.
    pub fn grow(&mut self, room: Option<Room>) {
        self.grown.extend(room);
    }

    /// Whether it is to be invoked with this room, and not with that of a short look.
    pub fn take_room(&mut self, memory: &Memory) -> bool {
        let Ok(room) = memory.driven.clone().try_acquire_many_owned(cost(self.execution.head.written, DRIVEN)) else {
            return false;
        };
        self.room = room;
        true
    }
}

/// Lets go of an execution that nobody needs in memory: neither an invocation that runs nor one that begins now.
pub(super) fn leave(place: &mut Option<Held>) {
    if place.as_ref().is_some_and(|held| !held.awaited && held.execution.invocation().is_none()) {
        *place = None;
    }
}

/// What an execution is read for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    /// One change, or one look.
    Brief,
    /// An invocation of its function.
    Driven,
}

/// The memory that executions may take.
pub(super) struct Memory {
    brief: Arc<Semaphore>,
    driven: Arc<Semaphore>,
    growth: Arc<Semaphore>,
}

impl Default for Memory {
    fn default() -> Self {
        let new = |kib| Arc::new(Semaphore::new(kib));
        Memory { brief: new(BRIEF), driven: new(DRIVEN), growth: new(GROWTH) }
    }
}

/// What so many bytes count for, in KiB; never more than there is.
fn cost(bytes: u64, all: usize) -> u32 {
    let kib = (bytes / 1024).saturating_add(LEAST).min(all as u64);
    u32::try_from(kib).unwrap_or(u32::MAX)
}

impl Memory {
    /// Room for an execution that has written so many bytes; waits for it.
    pub async fn room(&self, what: Use, bytes: u64) -> Result<Room, Refused> {
        let (from, all) = match what {
            Use::Brief => (&self.brief, BRIEF),
            Use::Driven => (&self.driven, DRIVEN),
        };
        let room = from.clone().acquire_many_owned(cost(bytes, all)).await;
        room.map_err(|e| Error::new(ErrorKind::Internal, "the memory of executions is closed").caused_by(e).into())
    }

    /// Room for what comes to an execution by one change; refused as a throttle where there is none.
    pub fn growth(&self, bytes: usize) -> Result<Room, Refused> {
        self.growth.clone().try_acquire_many_owned(cost(bytes as u64, GROWTH)).map_err(|_| {
            let text = "executions that run now take all memory that there is for them: try again later";
            Error::new(ErrorKind::Throttled, text).into()
        })
    }

    /// What is taken now, in KiB.
    #[cfg(test)]
    pub fn taken(&self) -> [usize; 3] {
        [
            BRIEF - self.brief.available_permits(),
            DRIVEN - self.driven.available_permits(),
            GROWTH - self.growth.available_permits(),
        ]
    }
}

/// How many executions are not over, in all and of each function. A function without any is not in it.
#[derive(Default)]
pub(super) struct OpenCount(Mutex<(u64, HashMap<FunctionName, u64>)>);

impl OpenCount {
    /// Counts one that is there.
    pub fn add(&self, function: &FunctionName) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.0 += 1;
        *counts.1.entry(function.clone()).or_default() += 1;
    }

    /// Counts one that is to begin, if there may be one more.
    pub fn begin(self: &Arc<Self>, function: &FunctionName) -> Result<Beginning, Refused> {
        let full = |what: String| Err(Refused::Platform(Error::new(ErrorKind::Throttled, what)));
        {
            let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if counts.0 >= MAX_OPEN {
                return full(format!(
                    "{MAX_OPEN} durable executions are open, the limit: stop some, or try again later"
                ));
            }
            if counts.1.get(function).is_some_and(|of| *of >= MAX_OPEN_OF_FUNCTION) {
                return full(format!(
                    "{MAX_OPEN_OF_FUNCTION} durable executions of {function} are open, the limit of one function: \
                     stop some, or try again later"
                ));
            }
        }
        self.add(function);
        Ok(Beginning { counts: self.clone(), function: Some(function.clone()) })
    }

    /// One is over.
    pub fn end(&self, function: &FunctionName) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.0 = counts.0.saturating_sub(1);
        if let Some(of) = counts.1.get_mut(function) {
            *of = of.saturating_sub(1);
            if *of == 0 {
                counts.1.remove(function);
            }
        }
    }
}

/// An execution that is counted and not stored yet. Dropped, it has not begun.
pub(super) struct Beginning {
    counts: Arc<OpenCount>,
    function: Option<FunctionName>,
}

impl Beginning {
    /// It has begun: its end will be counted.
    pub fn begun(mut self) {
        self.function = None;
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        if let Some(function) = &self.function {
            self.counts.end(function);
        }
    }
}

/// Who drives which execution: one at a time each, by number, so that one that has been replaced notices.
#[derive(Default)]
pub(super) struct Drivers(Mutex<(u64, HashMap<String, u64>)>);

impl Drivers {
    /// Makes a driver's number for an execution that nobody drives; `None`: somebody does.
    pub fn take(&self, id: &str) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.1.contains_key(id) {
            return None;
        }
        all.0 += 1;
        let number = all.0;
        all.1.insert(id.to_owned(), number);
        Some(number)
    }

    /// Whether this is who drives it.
    pub fn is(&self, id: &str, number: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.get(id) == Some(&number)
    }

    /// Whether anybody drives it.
    pub fn any(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.contains_key(id)
    }

    /// How many executions are driven.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.len()
    }

    /// Nobody does any more.
    pub fn clear(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_function_does_not_take_every_open_execution() {
        let counts = Arc::new(OpenCount::default());
        let (greedy, other) = (FunctionName::parse("greedy").unwrap(), FunctionName::parse("other").unwrap());
        drop(counts.begin(&greedy).unwrap());
        for _ in 0..MAX_OPEN_OF_FUNCTION {
            counts.begin(&greedy).unwrap().begun();
        }
        let refused = |result: Result<Beginning, Refused>| match result {
            Err(Refused::Platform(error)) => (error.kind, error.message),
            _ => panic!("not refused"),
        };
        let (kind, message) = refused(counts.begin(&greedy));
        assert_eq!(kind, ErrorKind::Throttled);
        assert!(message.contains("of greedy"), "{message}");
        counts.begin(&other).unwrap().begun();
        counts.end(&greedy);
        counts.begin(&greedy).unwrap().begun();
        for _ in MAX_OPEN_OF_FUNCTION + 1..MAX_OPEN {
            counts.add(&FunctionName::parse("third").unwrap());
        }
        assert!(refused(counts.begin(&other)).1.contains("100000 durable executions are open"));
    }
}
