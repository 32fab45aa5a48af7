//! Names and identifiers. A name that parsed is safe to show, to log and to compare; it is never used as a path.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::error::{Error, ErrorKind};

/// The longest function name, in characters (AWS Lambda's limit).
pub const MAX_NAME: usize = 64;

/// A function's name: 1 to 64 of `A–Z a–z 0–9 _ -`. ASCII only, so that no two accepted names look or normalise alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(String);

impl FunctionName {
    /// Parses a name; the error says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let ok = !text.is_empty()
            && text.len() <= MAX_NAME
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if ok {
            return Ok(FunctionName(text.to_owned()));
        }
        let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!("'{shown}' is not a function name: use 1 to {MAX_NAME} of A-Z a-z 0-9 _ -"),
        ))
    }
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FunctionName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}
impl From<FunctionName> for String {
    fn from(name: FunctionName) -> String {
        name.0
    }
}
impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 of a deployed archive, in lower-case hexadecimal: the address under which its code is stored once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CodeDigest(String);

impl CodeDigest {
    /// From the 32 bytes of a SHA-256.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        CodeDigest(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }
    /// The 64 hexadecimal digits. Safe as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CodeDigest {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(CodeDigest(text))
        } else {
            Err(Error::new(ErrorKind::InvalidInput, "a code digest is 64 lower-case hexadecimal digits"))
        }
    }
}
impl From<CodeDigest> for String {
    fn from(digest: CodeDigest) -> String {
        digest.0
    }
}
impl fmt::Display for CodeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One invocation's id: a random UUID, 122 unguessable bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId(String);

impl RequestId {
    /// From 16 random bytes (version and variant bits are set here, RFC 9562 §5.4).
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(36);
        for (i, b) in bytes.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push(HEX[usize::from(b >> 4)] as char);
            text.push(HEX[usize::from(b & 15)] as char);
        }
        RequestId(text)
    }
    /// Reads an id back that was written down: a UUID in lower case.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let fits = |(at, b): (usize, u8)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        };
        if text.len() == 36 && text.bytes().enumerate().all(fits) {
            return Ok(RequestId(text.to_owned()));
        }
        Err(Error::new(ErrorKind::InvalidInput, "a request id is a UUID in lower case"))
    }
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ascii_and_bounded() {
        for good in ["a", "hello", "A-b_9", &"x".repeat(64)] {
            assert_eq!(FunctionName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a\\b", "a%2e", "é", "a b", "a\0b", "a:b", "ﬁ", &"x".repeat(65)] {
            assert_eq!(FunctionName::parse(bad).unwrap_err().kind, ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn request_ids_are_version_4() {
        let id = RequestId::from_random([0xff; 16]);
        assert_eq!(id.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(RequestId::parse(id.as_str()).unwrap(), id);
        for bad in ["", "x", "FFFFFFFF-ffff-4fff-bfff-ffffffffffff", "ffffffffff-ff-4fff-bfff-ffffffffffff", "é"] {
            assert!(RequestId::parse(bad).is_err(), "{bad}");
        }
    }
}
