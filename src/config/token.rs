//! How good a secret the token is: whether somebody could guess it, and who can read the file that holds it.
//!
//! It judges; what follows from that is decided in `types`.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Characters that a token has at least.
const LEAST: usize = 20;
/// Different characters that a token has at least.
const LEAST_DIFFERENT: usize = 8;
/// Characters that are left at least when every known word and row is taken out.
const LEAST_UNKNOWN: usize = 12;
/// Words and rows of keys that whoever guesses begins with.
const KNOWN: &[&str] = &[
    "changeme",
    "password",
    "passwort",
    "offshoot",
    "letmein",
    "example",
    "default",
    "welcome",
    "secret",
    "qwertz",
    "qwerty",
    "server",
    "token",
    "admin",
    "local",
    "hello",
    "lambda",
    "right",
    "test",
    "root",
    "user",
    "abcdef",
    "abc123",
    "1234567890",
    "0123456789",
    "123456",
    "12345",
    "1234",
    "the",
    "key",
    "123",
];

/// Why somebody could guess a token; `None`: nothing speaks for it.
pub fn weakness(token: &str) -> Option<&'static str> {
    let lower = token.to_ascii_lowercase();
    let unknown = KNOWN.iter().fold(lower, |rest, word| rest.replace(word, ""));
    if token.len() < LEAST {
        return Some("is short");
    }
    if token.bytes().collect::<HashSet<_>>().len() < LEAST_DIFFERENT {
        return Some("repeats itself");
    }
    (unknown.bytes().filter(u8::is_ascii_alphanumeric).count() < LEAST_UNKNOWN)
        .then_some("is made of words that everybody tries")
}

/// The file that holds the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile {
    path: PathBuf,
    mode: u32,
}

impl TokenFile {
    /// Looks at it.
    pub fn look(path: &Path) -> Self {
        TokenFile { path: path.to_owned(), mode: std::fs::metadata(path).map_or(0, |about| about.mode()) }
    }
    /// Whether everybody on this machine may read it.
    pub fn is_read_by_all(&self) -> bool {
        self.mode & 0o004 != 0
    }
    /// Whether everybody on this machine may write it, and so decide what the token is.
    pub fn is_written_by_all(&self) -> bool {
        self.mode & 0o002 != 0
    }
    /// What to type so that nobody else reads or writes it.
    pub fn cure(&self) -> String {
        format!("chmod go= {}", self.path.display())
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_easily_guessed_is_weak() {
        for (token, why) in [
            ("x", "short"),
            ("hunter2hunter2", "short"),
            ("0123456789abcdef", "short"),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", "repeats"),
            ("abcabcabcabcabcabcabcabc", "repeats"),
            ("the-offshoot-server-token", "words"),
            ("ChangeMe-ChangeMe-Password-1", "words"),
            ("12345678901234567890qwerty", "words"),
        ] {
            assert!(weakness(token).is_some_and(|said| said.contains(why)), "{token}: {:?}", weakness(token));
        }
        // What `openssl rand -hex 32`, `openssl rand -base64 18`, `uuidgen` and people with dice make.
        for token in [
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "kR4v0mJ2bQ9sT1xW8yZ3aP5d",
            "3b241101-e2bb-4255-8caf-4136c566a962",
            "correct-horse-battery-staple",
        ] {
            assert_eq!(weakness(token), None, "{token}");
        }
    }
}
