//! User ids for boxes: each live box has one of its own, taken from a range that the operator sets aside.
//!
//! It never gives out an id that a live box still holds.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The range, and which of it is taken.
#[derive(Debug, Clone)]
pub struct Uids {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    range: Range<u32>,
    next: u32,
    taken: HashSet<u32>,
}

/// One id, given back when dropped.
#[derive(Debug)]
pub struct Uid {
    value: u32,
    home: Uids,
}

impl Uids {
    /// Ids from this range.
    pub fn new(range: Range<u32>) -> Self {
        let next = range.start;
        Uids { inner: Arc::new(Mutex::new(Inner { range, next, taken: HashSet::new() })) }
    }

    /// The next free id, round robin so that a fresh box does not meet what the last holder left; `None` when all are taken.
    pub fn take(&self) -> Option<Uid> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..inner.range.len() {
            let value = inner.next;
            inner.next = if value + 1 >= inner.range.end { inner.range.start } else { value + 1 };
            if inner.taken.insert(value) {
                return Some(Uid { value, home: self.clone() });
            }
        }
        None
    }
}

impl Uid {
    /// The id.
    pub fn value(&self) -> u32 {
        self.value
    }
}

impl Drop for Uid {
    fn drop(&mut self) {
        self.home.inner.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_come_back() {
        let uids = Uids::new(10..13);
        let (a, b, c) = (uids.take().unwrap(), uids.take().unwrap(), uids.take().unwrap());
        assert_eq!([a.value(), b.value(), c.value()], [10, 11, 12]);
        assert!(uids.take().is_none());
        drop(b);
        assert_eq!(uids.take().unwrap().value(), 11);
    }
}
