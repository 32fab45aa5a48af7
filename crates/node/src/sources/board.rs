//! What is known of mappings at work: whether their last change has been taken over, and what their last poll or call came to. In
//! memory only; the pollers write it, whoever answers for mappings reads it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// What is known of one mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Which change of it is in force, by its moment in milliseconds since 1970.
    pub in_force_ms: u64,
    /// `LastProcessingResult`.
    pub result: Option<String>,
}

/// The statuses of all mappings.
#[derive(Debug, Default)]
pub struct Board {
    all: Mutex<HashMap<String, Status>>,
    attended: AtomicBool,
    bell: Notify,
}

impl Board {
    /// Somebody works the mappings from now on.
    pub(super) fn attend(&self) {
        self.attended.store(true, Ordering::Release);
    }

    /// Whether somebody does.
    pub fn attended(&self) -> bool {
        self.attended.load(Ordering::Acquire)
    }

    /// Mappings have changed.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// What is known of a mapping.
    pub fn status(&self, uuid: &str) -> Option<Status> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).get(uuid).cloned()
    }

    pub(super) fn in_force(&self, uuid: &str, modified_ms: u64) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(uuid.to_owned()).or_default().in_force_ms = modified_ms;
    }

    /// Says what a poll or a call came to. Answers whether that is new.
    pub(super) fn say(&self, uuid: &str, result: &str) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let status = all.entry(uuid.to_owned()).or_default();
        let new = status.result.as_deref() != Some(result);
        if new {
            status.result = Some(result.to_owned());
        }
        new
    }

    pub(super) fn retain(&self, there: impl Fn(&str) -> bool) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|uuid, _| there(uuid));
    }
}
