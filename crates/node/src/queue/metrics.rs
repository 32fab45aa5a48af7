//! The queue's numbers in `/metrics`, under the prefix `offshoot_async_`. Those of which the balance consists go on counting
//! where the last server stopped: accepted = finished + purged + evicted + all states.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Totals;
use super::item::State;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

/// How an attempt or a delivery ended, for the counters.
#[derive(Debug, Clone, Copy)]
pub(super) enum Result {
    Returned,
    Failed,
    Setback,
    Refused,
}

impl Result {
    const ALL: [Result; 4] = [Result::Returned, Result::Failed, Result::Setback, Result::Refused];
    fn name(self) -> &'static str {
        match self {
            Result::Returned => "returned",
            Result::Failed => "failed",
            Result::Setback => "setback",
            Result::Refused => "refused",
        }
    }
}

/// The queue's metrics.
#[derive(Debug, Default)]
pub struct QueueMetrics {
    accepted: Counter,
    finished: Counter,
    purged: Counter,
    evicted: Counter,
    redelivered: Counter,
    throttled: Counter,
    items: Family<OfState, Gauge>,
    bytes: Gauge,
    attempts: Family<OfResult, Counter>,
    deliveries: Family<OfResult, Counter>,
}

impl QueueMetrics {
    /// Puts them where `/metrics` finds them.
    pub fn register(&self, r: &mut Registry) {
        let counters = [
            ("accepted", "Asynchronous invocations accepted, those of destinations among them", &self.accepted),
            ("finished", "Asynchronous invocations that are done, their outcome delivered", &self.finished),
            ("purged", "Asynchronous invocations removed on request", &self.purged),
            ("evicted", "Dead asynchronous invocations removed to make room for newer ones", &self.evicted),
            ("redelivered", "Asynchronous invocations that ran when a server ended, and run again", &self.redelivered),
            ("throttled", "Asynchronous invocations refused because the queue was full", &self.throttled),
        ];
        for (name, help, counter) in counters {
            r.register(format!("offshoot_async_{name}"), help, counter.clone());
        }
        r.register("offshoot_async_items", "Asynchronous invocations, by state", self.items.clone());
        let help = "Events of asynchronous invocations that wait, run or are delivered";
        r.register_with_unit("offshoot_async_queue", help, Unit::Bytes, self.bytes.clone());
        r.register("offshoot_async_attempts", "Attempts, by how they ended", self.attempts.clone());
        r.register(
            "offshoot_async_deliveries",
            "Deliveries to destinations, by how they ended",
            self.deliveries.clone(),
        );
        for result in Result::ALL {
            drop(self.attempts.get_or_create(&OfResult { result: result.name() }));
        }
    }

    pub(super) fn throttled(&self) {
        self.throttled.inc();
    }
    pub(super) fn attempted(&self, result: Result) {
        self.attempts.get_or_create(&OfResult { result: result.name() }).inc();
    }
    pub(super) fn delivered(&self, well: bool) {
        let result = if well { "delivered" } else { "failed" };
        self.deliveries.get_or_create(&OfResult { result }).inc();
    }

    /// Shows what the queue knows of itself.
    pub(super) fn show(&self, totals: &Totals, bytes: u64) {
        let follow = |counter: &Counter, value: u64| {
            counter.inc_by(value.saturating_sub(counter.get()));
        };
        follow(&self.accepted, totals.accepted);
        follow(&self.finished, totals.finished);
        follow(&self.purged, totals.purged);
        follow(&self.evicted, totals.evicted);
        follow(&self.redelivered, totals.redelivered);
        for state in State::ALL {
            let n = i64::try_from(totals.of(state)).unwrap_or(i64::MAX);
            self.items.get_or_create(&OfState { state: state.name() }).set(n);
        }
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
