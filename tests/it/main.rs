//! The integration tests: the real binary, driven as people and attackers drive it.
//!
//! They need root (boxes do), Linux, and Node.js and Python on the machine (Ruby where it is). `cargo test --test it` runs all of them in a few
//! minutes; `SEED=n` repeats a random run, `BINARY=path` tests another build, `UPDATE_GOLDEN=1` rewrites the golden files, `SHOW_SERVER_LOG=1` shows what the
//! server of a failed test wrote. Clients that are not ours come from `scripts/clients.sh`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod aws;
mod boxes;
mod chaos;
mod cli;
mod conventions;
mod crash;
mod custom_runtimes;
mod durable;
mod emulator;
mod exact;
mod examples;
mod extensions;
mod failures;
mod glambdar;
mod harness;
mod input;
mod kept;
mod lambda;
mod lifecycle;
mod logging;
mod manners;
mod official_clients;
mod packages;
mod pollers;
mod powertools;
mod queue;
mod recorded;
mod rough;
mod ruby;
mod runtime_clients;
mod sdks;
mod shutdown;
mod streaming;
mod together;
mod uniqueness;

/// The last test by name: what the others could not do on this machine.
#[test]
fn z_summary_of_what_was_skipped() {
    let skipped = harness::skipped();
    if !skipped.is_empty() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "\nnot tested on this machine:\n  {}", skipped.join("\n  "));
    }
}
