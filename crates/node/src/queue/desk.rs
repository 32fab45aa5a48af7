//! What the queue knows without asking the disk: how many items there are of which function, how large they are, and
//! whose turn it is. Changed only when the disk has taken a change, under one short lock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use offshoot_model::{Error, ErrorKind, FunctionName};
use tokio::sync::Notify;

use super::item::{Delivery, State};
use super::metrics::QueueMetrics;
use super::rows::Place;
use super::schedule::{Lane, Schedule};
use super::{QueueLimits, Totals};

/// What one function has in the queue.
#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    live: u64,
    dead: u64,
}

/// The queue's memory.
#[derive(Debug)]
pub(super) struct Book {
    pub schedule: Schedule,
    pub totals: Totals,
    usage: HashMap<FunctionName, Usage>,
    live_bytes: u64,
    dead_bytes: u64,
}

/// The lock around it, and the bell for the dispatcher.
#[derive(Debug)]
pub(super) struct Desk {
    book: Mutex<Book>,
    pub bell: Notify,
    pub limits: QueueLimits,
    pub metrics: QueueMetrics,
}

/// Items and bytes that are to be removed before another dead one is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Excess {
    pub of_function: u64,
    pub bytes: u64,
}

impl Desk {
    pub fn new(
        limits: QueueLimits,
        schedule: Schedule,
        totals: Totals,
        places: &[Place],
        metrics: QueueMetrics,
    ) -> Self {
        let mut book = Book { schedule, totals, usage: HashMap::new(), live_bytes: 0, dead_bytes: 0 };
        for place in places {
            book.enter(&place.function, place.state, place.bytes);
            book.schedule_place(place);
        }
        let desk = Desk { book: Mutex::new(book), bell: Notify::new(), limits, metrics };
        desk.update(|_| {});
        desk
    }

    /// Changes the book, shows the numbers, and wakes the dispatcher.
    pub fn update<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut book);
        self.metrics.show(&book.totals, book.live_bytes);
        drop(book);
        self.bell.notify_one();
        result
    }

    /// Looks into the book.
    pub fn look<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes room for an item that is about to be stored; `release` gives it back if it is not.
    pub fn reserve(&self, function: &FunctionName, bytes: u64) -> Result<(), Error> {
        let full = |what: String| {
            self.metrics.throttled();
            Err(Error::new(ErrorKind::Throttled, what))
        };
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let live = book.usage.get(function).map_or(0, |u| u.live);
        if live >= self.limits.items {
            return full(format!("{live} asynchronous invocations of {function} wait, the limit: try again later"));
        }
        let size = Book::size(bytes);
        if book.live_bytes.saturating_add(size) > self.limits.bytes {
            return full(format!(
                "asynchronous invocations of {} bytes wait, near the limit: try again later",
                book.live_bytes
            ));
        }
        book.usage.entry(function.clone()).or_default().live += 1;
        book.live_bytes += size;
        Ok(())
    }

    /// Gives back what `reserve` took.
    pub fn release(&self, function: &FunctionName, bytes: u64) {
        self.update(|book| book.leave(function, State::Waiting, bytes));
    }

    /// What has to go for another dead item of this size to be kept.
    pub fn excess(&self, function: &FunctionName, bytes: u64) -> Excess {
        self.look(|book| {
            let dead = book.usage.get(function).map_or(0, |u| u.dead);
            let over = book.dead_bytes.saturating_add(Book::size(bytes)).saturating_sub(self.limits.bytes);
            // A hundredth at once, so that a full shelf does not cost a search for each item.
            let of_function = if dead >= self.limits.items { self.limits.items.div_ceil(100) } else { 0 };
            let bytes = if over > 0 { over.max(self.limits.bytes / 100) } else { 0 };
            Excess { of_function, bytes }
        })
    }
}

/// The lane in which the next delivery stands.
pub(super) fn delivery_lane(deliveries: &[Delivery]) -> Option<Lane> {
    deliveries.first().map(|d| Lane::Target(d.target.clone()))
}

impl Book {
    /// What an item counts for besides its event: its row, its indexes, its place in memory.
    const OVERHEAD: u64 = 512;

    fn size(bytes: u64) -> u64 {
        bytes.saturating_add(Self::OVERHEAD)
    }

    fn enter(&mut self, function: &FunctionName, state: State, bytes: u64) {
        let usage = self.usage.entry(function.clone()).or_default();
        if state == State::Dead {
            usage.dead += 1;
            self.dead_bytes += Self::size(bytes);
        } else {
            usage.live += 1;
            self.live_bytes += Self::size(bytes);
        }
    }

    /// An item is not there any more, or not in this state.
    pub fn leave(&mut self, function: &FunctionName, state: State, bytes: u64) {
        let Some(usage) = self.usage.get_mut(function) else { return };
        let (items, all) = match state {
            State::Dead => (&mut usage.dead, &mut self.dead_bytes),
            _ => (&mut usage.live, &mut self.live_bytes),
        };
        *items = items.saturating_sub(1);
        *all = all.saturating_sub(Self::size(bytes));
        if usage.live == 0 && usage.dead == 0 {
            self.usage.remove(function);
        }
    }

    /// A new item is stored; its room was reserved.
    pub fn accepted(&mut self, function: &FunctionName, seq: i64, due_ms: u64) {
        self.totals.accepted += 1;
        self.totals.waiting += 1;
        self.schedule.push(Lane::Function(function.clone()), due_ms, seq);
    }

    /// An item goes from one state to another, and takes so many bytes then; `None`: it is gone.
    pub fn shift(&mut self, function: &FunctionName, from: (State, u64), to: Option<(State, u64)>) {
        let before = self.totals.of_mut(from.0);
        *before = before.saturating_sub(1);
        self.leave(function, from.0, from.1);
        if let Some((state, bytes)) = to {
            *self.totals.of_mut(state) += 1;
            self.enter(function, state, bytes);
        }
    }

    /// Puts an item where its state says.
    pub fn schedule_place(&mut self, place: &Place) {
        if let Some(lane) = lane_of(place) {
            self.schedule.push(lane, place.due_ms, place.seq);
        }
    }

    /// The opposite.
    pub fn unschedule(&mut self, place: &Place) {
        if let Some(lane) = lane_of(place) {
            self.schedule.remove(&lane, place.due_ms, place.seq);
        }
    }

    /// Bytes of what is not dead.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}

fn lane_of(place: &Place) -> Option<Lane> {
    match place.state {
        State::Waiting => Some(Lane::Function(place.function.clone())),
        State::Delivering => delivery_lane(&place.deliveries),
        State::Running | State::Dead => None,
    }
}
