//! Runtime names, spelled as AWS spells them, and the languages behind them.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::error::{Error, ErrorKind};

/// A language that functions are written in. Those after `Provided` have no worker here: functions of theirs can be kept, not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// JavaScript on Node.js.
    Node,
    /// Python on CPython.
    Python,
    /// Ruby on CRuby.
    Ruby,
    /// A program of the function's own, `bootstrap`, that speaks the Lambda Runtime API.
    Provided,
    /// Java. Has no worker here.
    Java,
    /// .NET. Has no worker here.
    Dotnet,
}

impl Language {
    /// Every language that has an interpreter on the machine, in the order in which they are shown.
    pub const ALL: &'static [Language] = &[Language::Node, Language::Python, Language::Ruby];
    /// The language's name for people.
    pub fn title(self) -> &'static str {
        match self {
            Language::Node => "Node.js",
            Language::Python => "Python",
            Language::Ruby => "Ruby",
            Language::Provided => "custom runtime",
            Language::Java => "Java",
            Language::Dotnet => ".NET",
        }
    }
    /// Whether a machine may be able to run it: there is a worker for it, or it brings its own program.
    pub fn can_run(self) -> bool {
        !matches!(self, Language::Java | Language::Dotnet)
    }
}

/// A runtime: a language and its version, spelled `nodejs20.x`, `python3.11` or `ruby3.4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuntimeName {
    /// The language.
    pub language: Language,
    /// Major version (`20` of `nodejs20.x`, `3` of `python3.11`); the `2023` of `provided.al2023`, 0 for plain `provided`.
    pub major: u16,
    /// Minor version; 0 for languages whose runtimes are named by major version alone, 2 for `java8.al2`.
    pub minor: u16,
}

impl RuntimeName {
    /// The custom runtime that a `bootstrap` without any other hint is deployed with: AWS's newest.
    pub const BOOTSTRAP: RuntimeName = RuntimeName { language: Language::Provided, major: 2023, minor: 0 };

    /// Parses the name of a runtime that functions can run on here.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let name = Self::parse_any(text)?;
        match Self::as_custom(text).filter(|_| !name.language.can_run()) {
            Some(hint) => Err(Self::foreign(text, &hint)),
            None => Ok(name),
        }
    }

    /// Parses an AWS runtime name, also of a language that has no worker here.
    pub fn parse_any(text: &str) -> Result<Self, Error> {
        let number = |s: &str| s.parse::<u16>().ok().filter(|_| s.len() <= 3 && !s.starts_with('+'));
        if let Some(major) = text.strip_prefix("nodejs").and_then(|r| r.strip_suffix(".x")).and_then(number) {
            return Ok(RuntimeName { language: Language::Node, major, minor: 0 });
        }
        for (prefix, language) in [("python", Language::Python), ("ruby", Language::Ruby)] {
            if let Some((a, b)) = text.strip_prefix(prefix).and_then(|r| r.split_once('.'))
                && let (Some(major), Some(minor)) = (number(a), number(b))
            {
                return Ok(RuntimeName { language, major, minor });
            }
        }
        if let Some((_, major)) = PROVIDED.iter().find(|(name, _)| *name == text) {
            return Ok(RuntimeName { language: Language::Provided, major: *major, minor: 0 });
        }
        if text == "java8.al2" {
            return Ok(RuntimeName { language: Language::Java, major: 8, minor: 2 });
        }
        for (prefix, language) in [("java", Language::Java), ("dotnet", Language::Dotnet)] {
            if let Some(major) = text.strip_prefix(prefix).and_then(number) {
                return Ok(RuntimeName { language, major, minor: 0 });
            }
        }
        if let Some(hint) = Self::as_custom(text) {
            return Err(Self::foreign(text, &hint));
        }
        let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "'{shown}' is not a runtime: name one as AWS does, for example nodejs20.x, python3.11, ruby3.4 or provided.al2023"
            ),
        ))
    }
}

impl RuntimeName {
    fn foreign(text: &str, hint: &str) -> Error {
        Error::new(ErrorKind::InvalidInput, format!("this server has no runtime {text}: {hint}"))
    }

    /// For a runtime of AWS's whose language has no worker here: how its functions run all the same.
    pub fn as_custom(text: &str) -> Option<String> {
        let after =
            |prefix: &str| text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let language = match () {
            () if after("java") => "Java",
            () if after("dotnetcore") || after("dotnet") => ".NET",
            () if after("go") => "Go",
            () => return None,
        };
        let plain = text.len() <= 20 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        plain.then(|| {
            format!("{language} runs as a custom runtime (provided.al2023), see docs/functions.md#custom-runtimes")
        })
    }
}

/// AWS's names for "bring your own bootstrap", and the number that stands for each here.
const PROVIDED: &[(&str, u16)] = &[("provided", 0), ("provided.al2", 2), ("provided.al2023", 2023)];

impl TryFrom<String> for RuntimeName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse_any(&text)
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
            Language::Ruby => write!(f, "ruby{}.{}", self.major, self.minor),
            Language::Provided => {
                let known = PROVIDED.iter().find(|(_, major)| *major == self.major);
                f.write_str(known.map_or("provided", |(name, _)| name))
            }
            Language::Java if self.minor == 2 => write!(f, "java{}.al2", self.major),
            Language::Java => write!(f, "java{}", self.major),
            Language::Dotnet => write!(f, "dotnet{}", self.major),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in [
            "nodejs18.x",
            "nodejs24.x",
            "python3.9",
            "python3.13",
            "ruby3.1",
            "ruby3.4",
            "provided",
            "provided.al2",
            "provided.al2023",
            "java8",
            "java8.al2",
            "java21",
            "dotnet10",
        ] {
            assert_eq!(RuntimeName::parse_any(name).unwrap().to_string(), name);
        }
        for bad in [
            "nodejs",
            "nodejs20",
            "node20.x",
            "python",
            "python3",
            "python3.11.2",
            "ruby3",
            "ruby3.x",
            "java",
            "java21.al2",
            "dotnetcore3.1",
            "",
            "nodejs+2.x",
            "$(x)",
            "provided.al3",
        ] {
            assert!(RuntimeName::parse_any(bad).is_err(), "{bad}");
        }
        let foreign = [
            ("java21", "Java"),
            ("java8.al2", "Java"),
            ("dotnet8", ".NET"),
            ("dotnetcore3.1", ".NET"),
            ("go1.x", "Go"),
        ];
        for (aws, language) in foreign {
            let message = RuntimeName::parse(aws).unwrap_err().message;
            assert!(
                message.contains(aws) && message.contains(&format!("{language} runs as a custom runtime")),
                "{message}"
            );
        }
    }
}
