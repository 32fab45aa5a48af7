//! The hidden modes in which the server starts this same binary again: the nursery and the probe of sandbox features.
//!
//! They are looked for before anything else, so that no flag, file or variable can change them. Never shown to people.

use std::process::ExitCode;

/// Runs the hidden mode that the first argument names; `None` when it names none.
pub fn dispatch() -> Option<ExitCode> {
    let mode = std::env::args_os().nth(1)?;
    match mode.to_str()? {
        "__nursery" => Some(not_built("nursery")),
        "__probe" => Some(not_built("probe")),
        _ => None,
    }
}

fn not_built(mode: &str) -> ExitCode {
    eprintln!("offshoot: the mode {mode} is not built yet");
    ExitCode::from(crate::cli::error::Exit::Config.code())
}
