//! Runtime names, spelled as AWS spells them, and the languages behind them.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::error::{Error, ErrorKind};

/// A language that this build has a worker for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// JavaScript on Node.js.
    Node,
    /// Python on CPython.
    Python,
}

impl Language {
    /// Every language, in the order in which they are shown.
    pub const ALL: &'static [Language] = &[Language::Node, Language::Python];
    /// The language's name for people.
    pub fn title(self) -> &'static str {
        match self {
            Language::Node => "Node.js",
            Language::Python => "Python",
        }
    }
}

/// A runtime: a language and its version, spelled `nodejs20.x` or `python3.11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuntimeName {
    /// The language.
    pub language: Language,
    /// Major version (`20` of `nodejs20.x`, `3` of `python3.11`).
    pub major: u16,
    /// Minor version; 0 for Node.js, whose runtimes are named by major version alone.
    pub minor: u16,
}

impl RuntimeName {
    /// Parses an AWS runtime name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let number = |s: &str| s.parse::<u16>().ok().filter(|_| s.len() <= 3 && !s.starts_with('+'));
        if let Some(major) = text.strip_prefix("nodejs").and_then(|r| r.strip_suffix(".x")).and_then(number) {
            return Ok(RuntimeName { language: Language::Node, major, minor: 0 });
        }
        if let Some((a, b)) = text.strip_prefix("python").and_then(|r| r.split_once('.'))
            && let (Some(major), Some(minor)) = (number(a), number(b))
        {
            return Ok(RuntimeName { language: Language::Python, major, minor });
        }
        let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!("'{shown}' is not a runtime: name one as AWS does, for example nodejs20.x or python3.11"),
        ))
    }
}

impl TryFrom<String> for RuntimeName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}
impl From<RuntimeName> for String {
    fn from(name: RuntimeName) -> String {
        name.to_string()
    }
}
impl fmt::Display for RuntimeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.language {
            Language::Node => write!(f, "nodejs{}.x", self.major),
            Language::Python => write!(f, "python{}.{}", self.major, self.minor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["nodejs18.x", "nodejs24.x", "python3.9", "python3.13"] {
            assert_eq!(RuntimeName::parse(name).unwrap().to_string(), name);
        }
        for bad in
            ["nodejs", "nodejs20", "node20.x", "python", "python3", "python3.11.2", "java21", "", "nodejs+2.x", "$(x)"]
        {
            assert!(RuntimeName::parse(bad).is_err(), "{bad}");
        }
    }
}
