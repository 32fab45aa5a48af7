//! What the command line says when it cannot do what was asked: the exit code, one sentence, and what to do.
//!
//! A function that fails is not in here: `invoke` prints its answer and returns the exit code for it.

use offshoot_model::invocation::FailureCause;
use serde_json::{Value, json};

/// The exit codes. They are part of the interface and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; the function, if one ran, returned normally.
    Ok,
    /// The function answered with an error.
    Function,
    /// The command line is wrong.
    Usage,
    /// Configuration, package or a local file is wrong.
    Config,
    /// The server answered with an error.
    Server,
    /// The server cannot be reached, or does not accept the token.
    Unreachable,
    /// The function ran into its time limit.
    TimedOut,
    /// Ended by Ctrl-C.
    Interrupted,
    /// The function was killed at its memory limit.
    OutOfMemory,
    /// Ended by SIGTERM.
    Terminated,
}

impl Exit {
    /// The code as the shell sees it.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Function => 1,
            Exit::Usage => 2,
            Exit::Config => 3,
            Exit::Server => 4,
            Exit::Unreachable => 5,
            Exit::TimedOut => 124,
            Exit::Interrupted => 130,
            Exit::OutOfMemory => 137,
            Exit::Terminated => 143,
        }
    }

    /// The exit code for a function's failure, from the server's word for its cause.
    pub fn of_failure(cause: &str) -> Exit {
        let is = |known: FailureCause| serde_json::to_value(known).is_ok_and(|word| word == cause);
        if is(FailureCause::Timeout) {
            Exit::TimedOut
        } else if is(FailureCause::OutOfMemory) {
            Exit::OutOfMemory
        } else {
            Exit::Function
        }
    }
}

/// Why a verb could not do what was asked.
#[derive(Debug, Clone)]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// A stable word for programs: the server's own kind, or `usage`, `config`, `unreachable`, `interrupted`.
    pub kind: String,
    /// What is wrong and where. Empty: nothing is to be said.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl CliError {
    /// An error of this kind.
    pub fn new(exit: Exit, kind: &str, message: impl Into<String>) -> Self {
        CliError { exit, kind: kind.to_owned(), message: message.into(), hint: None }
    }
    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }
    /// Configuration, package or a local file is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Exit::Config, "config", message)
    }
    /// The server answered with an error of this kind.
    pub fn server(kind: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Server, kind, message)
    }
    /// The server cannot be reached, or does not accept the token.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, "unreachable", message)
    }
    /// The same error, with what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// The same error, with the hint when there is one.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
    /// The error as a member of a JSON document.
    pub fn to_json(&self) -> Value {
        json!({"kind": self.kind, "message": self.message, "hint": self.hint, "exitCode": self.exit.code()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let all = [
            (Exit::Ok, 0),
            (Exit::Function, 1),
            (Exit::Usage, 2),
            (Exit::Config, 3),
            (Exit::Server, 4),
            (Exit::Unreachable, 5),
            (Exit::TimedOut, 124),
            (Exit::Interrupted, 130),
            (Exit::OutOfMemory, 137),
            (Exit::Terminated, 143),
        ];
        for (exit, code) in all {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn failures_map_to_exit_codes() {
        for (cause, exit) in [
            ("handler", Exit::Function),
            ("init", Exit::Function),
            ("exit", Exit::Function),
            ("reply-too-large", Exit::Function),
            ("unserialisable", Exit::Function),
            ("protocol", Exit::Function),
            ("a-cause-of-tomorrow", Exit::Function),
            ("timeout", Exit::TimedOut),
            ("out-of-memory", Exit::OutOfMemory),
        ] {
            assert_eq!(Exit::of_failure(cause), exit, "{cause}");
        }
    }

    #[test]
    fn errors_carry_what_programs_need() {
        let error = CliError::server("bad-archive", "the archive is not a zip").hint("pack it again").to_json();
        assert_eq!(
            error,
            serde_json::json!({
                "kind": "bad-archive", "message": "the archive is not a zip", "hint": "pack it again", "exitCode": 4
            })
        );
    }
}
