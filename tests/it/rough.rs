//! The Runtime API with programs that have bad manners: they hang up, hold what they opened, leave while they are asked, are
//! slow, are frozen. Nothing that was said is lost, and nobody else pays.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::custom_runtimes::provided;
use crate::harness::Shared;

static SERVER: Shared = Shared::new(&[]);

#[test]
fn a_whole_answer_counts_although_its_sender_hung_up() {
    let server = SERVER.get();
    server.deploy("hangs-up", &provided("rough"), &[("timeout", "10s"), ("memory", "256")]);
    for (half, bytes) in [(true, 5_500_000), (false, 5_500_000), (true, 100), (false, 100)] {
        for after_ms in 0..10 {
            let event = json!({"do": "hang-up", "half": half, "bytes": bytes, "after_ms": after_ms});
            let began = Instant::now();
            let answer = server.native("hangs-up", event.to_string()).expect(200);
            assert_eq!(answer.header("offshoot-function-error"), None, "{event}: {}", answer.text());
            assert_eq!(answer.body.len(), bytes + 2, "{event}");
            assert!(began.elapsed() < Duration::from_secs(9), "{event}: {:?}", began.elapsed());
        }
    }
}
