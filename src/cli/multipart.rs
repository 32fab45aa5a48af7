//! Writes `multipart/form-data` (RFC 7578): text fields first, then one file. It never copies the file.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

/// A form, ready to be sent.
pub struct Form {
    /// The value of the `Content-Type` header.
    pub content_type: String,
    /// The parts of the body, in order.
    pub parts: Vec<Bytes>,
}

/// Makes a form of text fields and a zip archive in the field `file`.
pub fn form(fields: &[(&str, String)], file_name: &str, file: Bytes) -> Form {
    let boundary = format!("offshoot-{:016x}{:016x}", random(), random());
    let mut head = String::new();
    for (name, value) in fields {
        head += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    head += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file_name}\"\r\n");
    head += "Content-Type: application/zip\r\n\r\n";
    let tail = format!("\r\n--{boundary}--\r\n");
    Form {
        content_type: format!("multipart/form-data; boundary={boundary}"),
        parts: vec![head.into(), file, tail.into()],
    }
}

/// Bits that no file can have foreseen: the standard library keys every `RandomState` anew.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_before_the_file() {
        let made = form(&[("funcName", "hello".into()), ("memory", "128".into())], "hello.zip", Bytes::from("PK"));
        let boundary = made.content_type.split_once("boundary=").unwrap().1.to_owned();
        let text = String::from_utf8(made.parts.concat()).unwrap();
        let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 5);
        assert_eq!(parts[1], "\r\nContent-Disposition: form-data; name=\"funcName\"\r\n\r\nhello\r\n");
        assert!(parts[3].contains("filename=\"hello.zip\"") && parts[3].ends_with("\r\n\r\nPK\r\n"));
        assert_eq!(parts[4], "--\r\n");
        assert_ne!(form(&[], "a", Bytes::new()).content_type, made.content_type);
    }
}
