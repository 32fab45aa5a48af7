//! Measuring on a machine that others use (`BENCH_PRIORITY=1`): whatever runs in the bench goes first.
//!
//! The kernel weighs sessions against each other (autogroups) and control groups against sessions. So the bench, its peers
//! and its servers go into a session of their own with the highest weight, and Offshoot's control group, where the boxes
//! are, gets the same. Without the second, boxes would wait for the very client that measures them.

use std::process::{Command, ExitCode};

use super::procs;

const INNER: &str = "BENCH_INNER";
/// The weight of nice -20, which is what the session gets.
const WEIGHT: &str = "88761";
const PLAIN: &str = "1024";
const GROUP: &str = "/sys/fs/cgroup/cpu/offshoot";

/// Goes to the front, if asked to. `Some` is the exit code of the bench that ran there.
pub fn take() -> Option<ExitCode> {
    std::env::var_os("BENCH_PRIORITY")?;
    if std::env::var_os(INNER).is_some() {
        let _ = std::fs::write("/proc/self/autogroup", "-20");
        // In a session of its own it does not hear the terminal's Ctrl-C: it ends when whoever started it has.
        std::thread::spawn(procs::end_with_parent);
        return None;
    }
    let own = std::env::current_exe().ok()?;
    let status = Command::new("setsid").arg("-w").arg(own).args(std::env::args_os().skip(1)).env(INNER, "1").status();
    let _ = std::fs::write(format!("{GROUP}/cpu.shares"), PLAIN);
    status.ok().map(|s| if s.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// To be called when a server has started: it gives its group the weight of an ordinary one.
pub fn raise() {
    if std::env::var_os(INNER).is_some() {
        let _ = std::fs::write(format!("{GROUP}/cpu.shares"), WEIGHT);
    }
}
