//! What becomes of instances and templates while nobody calls: they are frozen, they end after their time or for their memory, and some are
//! started because calls are expected. The node's clock drives it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Pool, Shared};

impl Shared {
    /// Whether the memory budget has room. When it is spent, idle instances and the templates of idle functions end, the
    /// longest idle first.
    pub fn find_room(&self) -> bool {
        let Some(used) = self.driver.cgroups().memory_used() else { return true };
        self.memory_used.store(used, Ordering::Relaxed);
        if used < self.memory_budget {
            return true;
        }
        let pools = self.living_pools();
        let instances = pools.iter().filter_map(|p| p.oldest_idle().map(|(since, id)| (since, Some(id), p)));
        let templates = pools.iter().filter_map(|p| p.idle_template().map(|since| (since, None, p)));
        let mut idle: Vec<_> = instances.chain(templates).collect();
        idle.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        // An eighth at a time: the memory of a dead process is back by the next look.
        let share = idle.len().div_ceil(8);
        for (_, id, pool) in idle.into_iter().take(share) {
            match id {
                Some(id) => pool.evict(id),
                None => pool.evict_template("for its memory"),
            }
        }
        false
    }
}

impl Pool {
    /// Housekeeping: freezes what has been idle for a while, ends what has been idle for long.
    /// The function's template stays longer than its instances, which are made of it.
    pub fn tick(self: &Arc<Self>, now: Instant) {
        let keep = self.version.config.keep_alive.map_or(self.shared.settings.keep_alive, |ms| ms.duration());
        let freeze_after = self.shared.settings.freeze_after;
        let mut ended = Vec::new();
        {
            let mut inner = self.lock();
            let spared = if inner.retired { 0 } else { inner.predictor.wanted(self.limit()) as usize };
            let spared = spared.max(self.floor.load(Ordering::Relaxed) as usize);
            let mut count = inner.all.len();
            let mut idle: Vec<(Instant, u64)> =
                inner.all.iter().filter(|(_, e)| e.active == 0).map(|(id, e)| (e.idle_since, *id)).collect();
            idle.sort_unstable();
            for (since, id) in idle {
                let quiet = now.saturating_duration_since(since);
                if quiet > keep && count > spared {
                    count -= 1;
                    inner.open.retain(|open| open.id != id);
                    ended.extend(inner.all.remove(&id));
                } else if quiet > freeze_after
                    && let Some(entry) = inner.all.get_mut(&id)
                    && !entry.frozen
                {
                    entry.frozen = entry.instance.process.freeze();
                }
            }
        }
        ended.iter().for_each(|entry| entry.instance.process.retire());
        let unused = self.idle_template().map(|since| now.saturating_duration_since(since));
        if unused.is_some_and(|time| time > self.shared.settings.template_keep_alive) {
            self.evict_template("after its time");
        }
    }

    /// Takes the peak of the last period into the prediction and starts what it wants, when there is room.
    pub fn predict(self: &Arc<Self>, room: bool) {
        let wanted = {
            let mut inner = self.lock();
            let active = inner.active;
            let peak = std::mem::replace(&mut inner.peak, active);
            inner.predictor.observe(peak.div_ceil(self.per_instance()));
            inner.predictor.wanted(self.limit())
        };
        if room && wanted > 0 {
            self.warm(wanted);
        }
    }

    /// The longest idle instance and since when, for whoever has to find memory.
    pub fn oldest_idle(&self) -> Option<(Instant, u64)> {
        self.lock().all.iter().filter(|(_, e)| e.active == 0).map(|(id, e)| (e.idle_since, *id)).min()
    }

    /// Ends an instance if it is still idle.
    pub fn evict(&self, id: u64) {
        let ended = {
            let mut inner = self.lock();
            if inner.all.get(&id).is_none_or(|e| e.active > 0) {
                return;
            }
            inner.open.retain(|open| open.id != id);
            inner.all.remove(&id)
        };
        if let Some(entry) = ended {
            entry.instance.process.retire();
        }
    }

    /// Since when the function's template has had nothing to do, if it is there and no instance is.
    fn idle_template(&self) -> Option<Instant> {
        let inner = self.lock();
        if !inner.all.is_empty() || inner.starting > 0 || !inner.waiting.is_empty() {
            return None;
        }
        let last = inner.last_done;
        drop(inner);
        // One that is being made, or cloned, is not idle.
        self.snapshot.try_lock().ok()?.idle_since(last)
    }

    /// Ends the function's template if it still has nothing to do; the next start makes another.
    fn evict_template(&self, why: &str) {
        if self.idle_template().is_some()
            && let Ok(mut state) = self.snapshot.try_lock()
        {
            tracing::info!(function = %self.version.config.name, "the template of an idle function was ended {why}");
            state.forget();
        }
    }
}
