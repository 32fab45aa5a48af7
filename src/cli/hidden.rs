//! The hidden modes in which the server starts this same binary again: the nursery and the probe of sandbox features.
//!
//! They are looked for before anything else, so that no flag, file or variable can change them. Never shown to people.

use std::process::ExitCode;

/// Runs the hidden mode that the first argument names; `None` when it names none.
pub fn dispatch() -> Option<ExitCode> {
    let mode = std::env::args_os().nth(1)?;
    match mode.to_str()? {
        "__nursery" => Some(nursery()),
        "__probe" => Some(probe()),
        _ => None,
    }
}

/// The server hands the control socket over as standard input; the nursery serves it on descriptor 3.
fn nursery() -> ExitCode {
    let control = match rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), offshoot_jail::nursery::CONTROL) {
        Ok(control) => control,
        Err(error) => return failed("nursery", &error),
    };
    // It belongs to the nursery from here on, under its number.
    std::mem::forget(control);
    let freezer = std::env::args_os().nth(2).map(std::path::PathBuf::from);
    match offshoot_jail::nursery::run(freezer) {
        Ok(never) => match never {},
        Err(error) => failed("nursery", &error),
    }
}

/// Tries every feature of the sandbox and writes what it found as JSON: one process with one thread can, the server cannot.
fn probe() -> ExitCode {
    match serde_json::to_writer(std::io::stdout(), &offshoot_jail::probe::all()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed("probe", &error),
    }
}

fn failed(mode: &str, error: &dyn std::fmt::Display) -> ExitCode {
    super::term::complain(&format!("offshoot: {mode}: {error}"));
    ExitCode::from(crate::cli::error::Exit::Config.code())
}
