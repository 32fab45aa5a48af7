//! What is said of a payload that is not JSON, where AWS's words are known (recorded from AWS); the rest is said in our parser's.
//!
//! Pure: it looks at bytes that were refused already.

/// Where AWS's parser says that it stopped.
fn at(column: usize) -> String {
    format!(
        "\n at [Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); line: 1, column: {column}]"
    )
}

/// AWS's sentence about these bytes, if it is known.
pub(super) fn sentence(body: &[u8]) -> Option<String> {
    let lone = |b: u8| (0x80..0xc0).contains(&b) || b >= 0xf8;
    match *body {
        [first, ..] if first >= 0x80 => Some(format!(
            "Unexpected character ((CTRL-CHAR, code {first})): expected a valid value (JSON String, Number, Array, Object or token 'null', 'true' or 'false'){}",
            at(1)
        )),
        [b'n' | b't' | b'f', second, ..] if lone(second) => {
            Some(format!("Invalid UTF-8 start byte 0x{second:x}{}", at(3)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_sentences() {
        assert!(sentence(b"n\x87r").unwrap().starts_with("Invalid UTF-8 start byte 0x87\n at [Source: REDACTED"));
        assert!(sentence(b"n\x87r").unwrap().ends_with("line: 1, column: 3]"));
        assert!(sentence(b"\x99\xeb").unwrap().starts_with("Unexpected character ((CTRL-CHAR, code 153)): expected"));
        assert_eq!(sentence(b"{"), None);
        assert_eq!(sentence(b""), None);
    }
}
