//! The requests and answers of the control socket, as types. It never checks whether a request is wise.

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

use crate::sys::wipe;

/// Where the store of unpacked code is bound in a root, until a box is entered.
pub const CODE_DIR: &str = "/run/offshoot/code";
/// The exit status of a child whose box could not be made.
pub const BOX_FAILED: i32 = 125;

/// The file system that a program gets besides the system directories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSpec {
    /// Host paths to show, in order.
    #[serde(default)]
    pub binds: Vec<Bind>,
    /// The store of all unpacked code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_dir: Option<String>,
    /// Lines for the box's `/etc/hosts` besides the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<String>,
}

/// One host path shown in the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The path on the host.
    pub from: String,
    /// The path in the box.
    pub to: String,
    /// Whether the box may write to it.
    #[serde(default)]
    pub writable: bool,
}

/// What of the network a box sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A loopback interface of its own.
    #[default]
    None,
    /// The host's network.
    Host,
}

/// The user and group that a program in a box is to itself, in a user namespace that has nobody else: AWS's number. Outside,
/// each box has a number of its own (`BoxSpec::uid`).
pub const USER: u32 = 993;

/// What a box is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxSpec {
    /// User and group id of the program.
    pub uid: u32,
    /// Host name.
    pub hostname: String,
    /// Network.
    #[serde(default)]
    pub network: Network,
    /// Directory under `code_dir` that becomes `/var/task`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Directory under `code_dir` that becomes `/opt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opt: Option<String>,
    /// Size of `/tmp`.
    pub tmp_bytes: u64,
    /// Number of files that `/tmp` may hold.
    pub tmp_inodes: u64,
    /// Open files.
    pub nofile: u64,
    /// Processes and threads.
    pub nproc: u64,
    /// Size of core dumps.
    #[serde(default)]
    pub core: u64,
    /// Whether the program lives in a user namespace of its own.
    #[serde(default = "yes")]
    pub userns: bool,
    /// Whether Landlock must hold too (a kernel without it is then an error).
    #[serde(default = "yes")]
    pub landlock: bool,
    /// Whether this is a clone of a function template.
    #[serde(default)]
    pub nested: bool,
    /// Whether this is going to be a function template.
    #[serde(default)]
    pub may_snapshot: bool,
    /// The secret that a function template's filter asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,
    /// Whether the nursery runs without privilege, so that `uid` can only be a number inside a user namespace.
    #[serde(default)]
    pub rootless: bool,
    /// Whether the clone stops before it is sealed and waits for an `assign` frame on its channel: a spare.
    #[serde(default)]
    pub waits: bool,
    /// Paths besides `/tmp`, `/dev/shm`, `/dev` and `/proc` that the program may write to (writable binds).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writable: Vec<String>,
}

fn yes() -> bool {
    true
}

impl BoxSpec {
    /// Overwrites the secret.
    pub fn wipe(&mut self) {
        if let Some(cookie) = &mut self.cookie {
            wipe(&mut cookie.0);
        }
        self.cookie = None;
    }
}

/// What a spare is told when it is needed: the parts of a box that depend on the function.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Assign {
    /// Always `assign`.
    pub t: String,
    /// The directory below the code store that becomes `/var/task`.
    pub code: String,
    /// The directory below the code store that becomes `/opt`.
    #[serde(default)]
    pub opt: Option<String>,
    /// Size of `/tmp`.
    pub tmp_bytes: u64,
    /// Number of files that `/tmp` may hold.
    pub tmp_inodes: u64,
    /// Open files.
    pub nofile: u64,
    /// Processes and threads.
    pub nproc: u64,
}

/// A function template's secret, three words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie(pub [u64; 3]);

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie")
    }
}

impl Serialize for Cookie {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [a, b, c] = self.0;
        serializer.serialize_str(&format!("{a:016x}{b:016x}{c:016x}"))
    }
}

impl<'de> Deserialize<'de> for Cookie {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl Visitor<'_> for Hex {
            type Value = Cookie;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("48 hex digits")
            }
            // Read where it stands: no copy of the text is made, so none has to be found and wiped.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cookie, E> {
                if text.len() != 48 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(E::custom("a cookie is 48 hex digits"));
                }
                let mut words = [0u64; 3];
                for (i, byte) in text.bytes().enumerate() {
                    let digit = (byte as char).to_digit(16).unwrap_or(0);
                    words[i / 16] = words[i / 16] << 4 | u64::from(digit);
                }
                Ok(Cookie(words))
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

/// A request on a control socket. The fields of a `clone` are a subset of those of a `spawn`; a flat type keeps the
/// decoder from buffering (and so copying) what it reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// `spawn` or `clone`.
    pub t: String,
    /// The number that answers carry.
    pub id: u64,
    /// Program and arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// The whole environment, `KEY=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Whether the child does not execute `argv` but opens a listener and becomes the init of its box.
    #[serde(default)]
    pub init: bool,
    /// The file system.
    #[serde(default)]
    pub root: RootSpec,
    /// The box; without one the program keeps the nursery's privilege.
    #[serde(default, rename = "box", skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<BoxSpec>,
}

/// An answer on a control socket, or a `box_error` on a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Answer {
    /// The child exists; its pidfd is attached.
    Started {
        /// The request.
        id: u64,
    },
    /// There is no child.
    Failed {
        /// The request.
        id: u64,
        /// Why.
        error: String,
    },
    /// The child has ended and has been reaped.
    Exited {
        /// The request.
        id: u64,
        /// As `waitpid` gave it.
        status: i32,
    },
    /// A language template is ready to clone.
    Template {
        /// Version of the language.
        version: String,
        /// Number of threads of the template.
        threads: u32,
    },
    /// The box of the process that writes this could not be made.
    BoxError {
        /// The step that failed and why.
        error: String,
    },
}

impl Answer {
    /// The header of this answer.
    pub fn header(&self) -> Vec<u8> {
        // A value of this type always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_s_box_is_understood() {
        let text = br#"{"t":"clone","id":7,"box":{"uid":200017,"hostname":"h","network":"none","code":"abc","tmp_bytes":1,
            "tmp_inodes":2,"nofile":3,"nproc":4,"core":0,"userns":true,"landlock":true,"nested":false,"may_snapshot":false,
            "cookie":"000000000000000100000000000000ff8000000000000000"}}"#;
        let request: Request = serde_json::from_slice(text).unwrap();
        let spec = request.sandbox.unwrap();
        assert_eq!((spec.uid, spec.cookie, spec.rootless), (200017, Some(Cookie([1, 255, 1 << 63])), false));
        assert_eq!(serde_json::from_slice::<BoxSpec>(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
    }

    #[test]
    fn answers_have_the_contract_s_names() {
        let text = |a: Answer| String::from_utf8(a.header()).unwrap();
        assert_eq!(text(Answer::Started { id: 3 }), r#"{"t":"started","id":3}"#);
        assert_eq!(text(Answer::BoxError { error: "e".into() }), r#"{"t":"box_error","error":"e"}"#);
    }
}
