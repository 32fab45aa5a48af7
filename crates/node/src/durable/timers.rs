//! When which execution is due: one moment each. Bounded by the number of executions that are not over.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// The moments, and the bell for whoever keeps time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    all: Mutex<Moments>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Moments {
    order: BTreeSet<(u64, String)>,
    by_id: HashMap<String, u64>,
}

impl Timers {
    /// Sets or removes an execution's moment, ms since 1970.
    pub fn set(&self, id: &str, at: Option<u64>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let all = &mut *all;
        if let Some(before) = all.by_id.remove(id) {
            all.order.remove(&(before, id.to_owned()));
        }
        let Some(at) = at else { return };
        let earlier = all.order.first().is_none_or(|(first, _)| at < *first);
        all.order.insert((at, id.to_owned()));
        all.by_id.insert(id.to_owned(), at);
        if earlier {
            self.bell.notify_one();
        }
    }

    /// Takes out what is due by now; the second value is the next moment.
    pub fn due(&self, now: u64) -> (Vec<String>, Option<u64>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids = Vec::new();
        while all.order.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, id)) = all.order.pop_first()
        {
            all.by_id.remove(&id);
            ids.push(id);
        }
        (ids, all.order.first().map(|(at, _)| *at))
    }

    /// Waits until the first moment is an earlier one.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Wakes whoever keeps time.
    pub fn ring(&self) {
        self.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_moment() {
        let timers = Timers::default();
        timers.set("a", Some(5));
        timers.set("b", Some(3));
        timers.set("a", Some(2));
        assert_eq!(timers.due(2), (vec!["a".to_owned()], Some(3)));
        timers.set("b", None);
        assert_eq!(timers.due(9), (vec![], None));
    }
}
