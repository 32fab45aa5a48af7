//! The binary `offshoot`: hand over to the hidden modes or to the command line, and end with its exit code.
//!
//! Nothing is decided here.

// Both panic when nobody reads what they write; `cli::term` does not.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod cli;
mod config;
mod outbox;
mod remote;
mod server;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::hidden::dispatch() {
        Some(code) => code,
        None => cli::main(),
    }
}
