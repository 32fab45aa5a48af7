//! What is known of mappings at work: whether their last change has been taken over, and what their last poll or call came to. In
//! memory only; the pollers write it, whoever answers for mappings reads it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::Remote;

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
    by: OnceLock<Attendant>,
    bell: Notify,
}

/// How those who work the mappings reach their sources.
struct Attendant(Arc<dyn Remote>);

impl std::fmt::Debug for Attendant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attendant")
    }
}

impl Board {
    /// Somebody works the mappings from now on, and reaches their sources by this.
    pub(super) fn attend(&self, remote: Arc<dyn Remote>) {
        // Twice in a process: the first one's way is as good.
        drop(self.by.set(Attendant(remote)));
    }

    /// What reaches the sources.
    pub(crate) fn remote(&self) -> Option<&dyn Remote> {
        self.by.get().map(|by| &*by.0)
    }

    /// Whether somebody does.
    pub fn attended(&self) -> bool {
        self.by.get().is_some()
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
