//! The pollers' numbers in `/metrics`, under the prefix `offshoot_source_`: records by what became of them, and polls that failed.
//! The labels are these words and no others.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

/// What became of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// They were read from a source.
    Polled,
    /// The function has processed them.
    Processed,
    /// An attempt with them failed; they may come again.
    Failed,
    /// A filter kept them from the function.
    Filtered,
    /// They were given up: too old, tried too often, or in a loop.
    GivenUp,
}

impl Became {
    const ALL: [Became; 5] = [Became::Polled, Became::Processed, Became::Failed, Became::Filtered, Became::GivenUp];
    fn name(self) -> &'static str {
        match self {
            Became::Polled => "polled",
            Became::Processed => "processed",
            Became::Failed => "failed",
            Became::Filtered => "filtered",
            Became::GivenUp => "given-up",
        }
    }
}

/// The pollers' metrics.
#[derive(Debug, Clone, Default)]
pub struct SourceMetrics {
    records: Family<Result, Counter>,
    errors: Counter,
    active: Gauge,
}

impl SourceMetrics {
    /// Puts them where `/metrics` finds them.
    pub fn register(&self, r: &mut Registry) {
        r.register(
            "offshoot_source_records",
            "Records of queues and streams, by what became of them",
            self.records.clone(),
        );
        r.register("offshoot_source_errors", "Calls to queues and streams that failed", self.errors.clone());
        r.register("offshoot_source_mappings", "Event source mappings that are polled", self.active.clone());
        for became in Became::ALL {
            drop(self.records.get_or_create(&Result { result: became.name() }));
        }
    }

    pub(super) fn count(&self, became: Became, records: usize) {
        self.records.get_or_create(&Result { result: became.name() }).inc_by(records as u64);
    }
    pub(super) fn error(&self) {
        self.errors.inc();
    }
    pub(super) fn active(&self, mappings: usize) {
        self.active.set(mappings as i64);
    }
}
