//! Quantities with their unit in the type, and every limit with its name, default and unit in one place.

use serde::{Deserialize, Serialize};

/// Mebibytes (2^20 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MiB(pub u32);

impl MiB {
    /// The same quantity in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0) << 20
    }
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The same quantity as a standard duration.
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
    /// As people write it, in the largest unit that fits: `500ms`, `1.5s`, `2h`.
    pub fn shown(self) -> String {
        match self.0 {
            0..1000 => format!("{}ms", self.0),
            ms if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
            ms if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
            ms => format!("{}s", ms as f64 / 1000.0),
        }
    }
}

/// The limits of one server. Defaults are AWS Lambda's where AWS has one
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest archive as uploaded, in bytes (AWS: 50 MB).
    pub zipped_bytes: u64,
    /// Largest archive once unpacked, in bytes (AWS: 250 MB).
    pub unzipped_bytes: u64,
    /// Most entries in an archive.
    pub archive_entries: u64,
    /// Largest request body of an invocation, in bytes (AWS: 6 MB).
    pub request_bytes: u64,
    /// Largest reply of an invocation, in bytes (AWS: 6 MB and 100 bytes of envelope).
    pub reply_bytes: u64,
    /// Largest streamed reply of an invocation, in bytes
    /// (AWS: 200 MB, <https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html>).
    pub stream_bytes: u64,
    /// Largest environment of a function, in bytes of its JSON form (AWS: 4 KB).
    pub env_bytes: u64,
    /// Most invocations running at once, over all functions (AWS: 1,000).
    pub concurrency: u32,
    /// Memory that all instances together may be promised before idle ones are stopped, in MiB; 0 = three quarters of the machine.
    pub memory_budget_mib: u32,
    /// Longest that an invocation waits for an instance before it is throttled, in milliseconds.
    pub queue_wait_ms: u64,
    /// Longest initialisation of an instance, in milliseconds (AWS: 10 s).
    pub init_ms: u64,
    /// Log text kept for one invocation, in bytes; the rest is cut, with a marker.
    pub invocation_log_bytes: u64,
    /// Log text kept for one function, in bytes; the oldest goes first.
    pub function_log_bytes: u64,
    /// Most asynchronous invocations of one function that wait or run; and as many again that are kept after they failed.
    pub async_items: u64,
    /// Bytes of all asynchronous invocations that wait or run; and as many again of those that are kept after they failed.
    pub async_bytes: u64,
    /// Largest event of an asynchronous invocation, in bytes (AWS: 1 MB).
    pub async_payload_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            zipped_bytes: 50 << 20,
            unzipped_bytes: 262_144_000,
            archive_entries: 100_000,
            request_bytes: 6 << 20,
            reply_bytes: (6 << 20) + 100,
            stream_bytes: 200 << 20,
            env_bytes: 4096,
            concurrency: 1000,
            memory_budget_mib: 0,
            queue_wait_ms: 5_000,
            init_ms: 10_000,
            invocation_log_bytes: 256 << 10,
            function_log_bytes: 8 << 20,
            async_items: 100_000,
            async_bytes: 1 << 30,
            async_payload_bytes: 1 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_people_write_them() {
        for (ms, text) in
            [(0, "0ms"), (500, "500ms"), (1_500, "1.5s"), (30_000, "30s"), (300_000, "5m"), (7_200_000, "2h")]
        {
            assert_eq!(Millis(ms).shown(), text);
        }
    }
}
