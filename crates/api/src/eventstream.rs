//! AWS's event-stream framing (`application/vnd.amazon.eventstream`): messages with typed headers and two checksums, in which
//! streamed answers are sent. Only writing, and only headers whose value is text.
//!
//! The form is Smithy's (<https://smithy.io/2.0/aws/amazon-eventstream.html>): total length, length of the headers and their
//! CRC-32, the headers, the payload, and the CRC-32 of everything before it; all numbers big-endian.

use bytes::{BufMut, Bytes, BytesMut};

/// The type of a header whose value is text.
const TEXT: u8 = 7;

/// One message. Names and values of headers are short constants.
pub(crate) fn message(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let head: usize = headers.iter().map(|(n, v)| 1 + n.len() + 1 + 2 + v.len()).sum();
    let total = 12 + head + payload.len() + 4;
    let mut out = BytesMut::with_capacity(total);
    out.put_u32(total as u32);
    out.put_u32(head as u32);
    let prelude = crc32fast::hash(&out);
    out.put_u32(prelude);
    for (name, value) in headers {
        out.put_u8(name.len() as u8);
        out.put_slice(name.as_bytes());
        out.put_u8(TEXT);
        out.put_u16(value.len() as u16);
        out.put_slice(value.as_bytes());
    }
    out.put_slice(payload);
    let whole = crc32fast::hash(&out);
    out.put_u32(whole);
    out.freeze()
}

/// A piece of a function's answer.
pub(crate) fn chunk(payload: &[u8]) -> Bytes {
    let headers =
        [(":event-type", "PayloadChunk"), (":content-type", "application/octet-stream"), (":message-type", "event")];
    message(&headers, payload)
}

/// The end of a function's answer; the document says how it ended.
pub(crate) fn complete(document: &[u8]) -> Bytes {
    let headers =
        [(":event-type", "InvokeComplete"), (":content-type", "application/json"), (":message-type", "event")];
    message(&headers, document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_both_checksums() {
        // The empty message and one with a header, as they are in Smithy's own test vectors.
        let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&message(&[], b"")), "000000100000000005c248eb7d98c8ff");
        assert_eq!(
            hex(&message(&[("content-type", "application/json")], b"{'foo':'bar'}")),
            "0000003d0000002007fd83960c636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e7b27666f6f273a27626172277d8d9c08b1"
        );
    }

    #[test]
    fn a_chunk_carries_its_bytes_as_they_are() {
        let bytes = chunk(b"\0\xff");
        assert_eq!(bytes.len(), 12 + 27 + 41 + 22 + 2 + 4);
        assert_eq!(&bytes[bytes.len() - 6..bytes.len() - 4], b"\0\xff");
    }
}
