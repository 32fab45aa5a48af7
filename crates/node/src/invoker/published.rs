//! Calls that name a version: which one is meant, its own pool, and the concurrency that its function reserves for all of them.
//!
//! The current version's pools are in `invoker`; nothing here is on the path of a call that names no version.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind, FunctionName, Invocation, Reason};

use super::admit::Bucket;
use super::{Invoker, Served};
use crate::observe::Throttle;
use crate::pool::Pool;
use crate::registry::{Stats, Version};

/// Counts a call as running until it is dropped.
pub(super) struct Running(Arc<Stats>);

impl Running {
    fn begin(stats: &Arc<Stats>) -> (Self, u32) {
        let before = stats.running.fetch_add(1, Ordering::Relaxed);
        (Running(Arc::clone(stats)), before)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let running: &AtomicU32 = &self.0.running;
        running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Invoker {
    /// The version that a call is for.
    pub(super) fn version_of(&self, invocation: &Invocation<Bytes>) -> Result<Arc<Version>, Error> {
        let name = &invocation.function;
        let Some(qualifier) = invocation.qualifier() else { return self.resolve(name) };
        let found = self.shared.registry.resolve_qualified(name, Some(qualifier), chance()?);
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("the function {name} has no version or alias '{}'", qualifier.escape_debug()),
            )
        })
    }

    /// Holds a published version's calls, and all calls of a function that reserves nothing, to what the function reserves.
    /// The current version's own pool does the same for it, with a queue.
    pub(super) fn within_reservation(&self, version: &Version) -> Result<Running, Error> {
        let (running, before) = Running::begin(&version.stats);
        let reserved = match version.number {
            None => version.config.concurrency,
            Some(_) => self.shared.registry.resolve(&version.config.name).and_then(|v| v.config.concurrency),
        };
        let full = match (reserved, version.number) {
            (Some(0), _) => true,
            (Some(most), Some(_)) if before >= most => true,
            (Some(most), _) => self.held_for_others(version) >= most,
            _ => false,
        };
        if !full {
            return Ok(running);
        }
        self.shared.metrics.throttled(Throttle::FunctionConcurrency);
        let (name, most) = (&version.config.name, reserved.unwrap_or(0));
        let text = match reserved {
            Some(0) => {
                format!("{name} is stopped: its concurrency is 0. Give it another, or take the reservation away")
            }
            _ => format!("{name} is at its limit of {most} invocations at once: retry later, or raise its concurrency"),
        };
        Err(Error::new(ErrorKind::Throttled, text).because(Reason::FunctionConcurrency))
    }

    /// Provisioned concurrency of a function that this version has no part in. It comes out of what the function reserves.
    fn held_for_others(&self, version: &Version) -> u32 {
        let Some(entry) = self.shared.registry.shelf.get(&version.config.name) else { return 0 };
        let held = |(qualifier, config): (&String, &crate::catalog::types::Provisioned)| {
            let number = crate::catalog::number_of(&entry, qualifier)?;
            Some(if Some(number) == version.number { 0 } else { config.requested })
        };
        entry.doc.provisioned.iter().filter_map(held).fold(0, u32::saturating_add)
    }

    /// The pool of a published version.
    pub(super) fn served_published(&self, version: &Arc<Version>, number: u64) -> Served {
        let key = (version.config.name.clone(), number);
        let fits = |s: &&Served| {
            s.pool.version.created_ms == version.created_ms && s.pool.version.revision == version.revision
        };
        if let Some(served) = self.published.read().unwrap_or_else(PoisonError::into_inner).get(&key).filter(fits) {
            return served.clone();
        }
        let mut pools = self.published.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = pools.get(&key).filter(fits) {
            return served.clone();
        }
        let served = Served {
            pool: Pool::new(self.shared.clone(), version.clone()),
            bucket: Arc::new(Mutex::new(Bucket::new(version.config.rate_limit, Instant::now()))),
        };
        let old = pools.insert(key, served.clone());
        drop(pools);
        if let Some(old) = old {
            old.pool.retire();
        }
        served
    }

    /// Ends the pools of published versions that are no more.
    pub(super) fn retire_published(&self, name: &FunctionName) {
        let mut gone = Vec::new();
        self.published.write().unwrap_or_else(PoisonError::into_inner).retain(|(whose, number), served| {
            let there = || {
                let now = self.shared.registry.resolve_qualified(name, Some(&number.to_string()), 0.0);
                now.is_some_and(|v| {
                    v.revision == served.pool.version.revision && v.created_ms == served.pool.version.created_ms
                })
            };
            let keep = whose != name || there();
            if !keep {
                gone.push(served.pool.clone());
            }
            keep
        });
        gone.iter().for_each(Pool::retire);
    }

    /// Keeps so many instances of each of these versions ready, and lets the others' go. Missing ones are started when a
    /// number is new, and whenever it is said `again`: a function that cannot be initialised must not be tried all the time.
    pub fn hold_ready(&self, wanted: &[(Arc<Version>, u32)], again: bool) {
        for pool in self.pools() {
            let held = wanted
                .iter()
                .any(|(v, _)| v.number == pool.version.number && v.config.name == pool.version.config.name);
            if !held {
                pool.set_floor(0);
            }
        }
        for (version, count) in wanted {
            let pool = self.served(version).pool;
            if pool.set_floor(*count) != *count || again {
                pool.warm(*count);
            }
        }
    }

    /// Instances of a version that are there now.
    pub fn instances(&self, version: &Version) -> u32 {
        let Some(number) = version.number else { return 0 };
        let pools = self.published.read().unwrap_or_else(PoisonError::into_inner);
        pools.get(&(version.config.name.clone(), number)).map_or(0, |s| {
            let (busy, idle, _) = s.pool.counts();
            busy + idle
        })
    }
}

/// A random number from 0 to 1, for the choice between the versions of an alias.
fn chance() -> Result<f64, Error> {
    let mut bytes = [0u8; 4];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(ErrorKind::Internal, "no random numbers").caused_by(e))?;
    Ok(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
