//! The framing that the server, the nursery, the templates and the workers share (docs/design/002-channel.md):
//! two little-endian lengths, a JSON header, a raw body.
//!
//! It never allocates what a length field asks for before that length has been checked.

use bytes::{Buf, Bytes, BytesMut};

/// Longest header, in bytes.
pub const MAX_HEADER: usize = 1 << 20;
/// The two length fields, in bytes.
pub const PREFIX: usize = 8;

/// One frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// JSON object whose `t` names the frame.
    pub header: Bytes,
    /// Raw bytes.
    pub body: Bytes,
}

/// A frame that breaks the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is longer than `MAX_HEADER` or empty.
    #[error("a frame's header has {0} bytes")]
    Header(usize),
    /// The body is longer than the receiver allows.
    #[error("a frame's body has {0} bytes")]
    Body(usize),
}

/// The eight length bytes of a frame.
pub fn prefix(header: usize, body: usize) -> [u8; PREFIX] {
    let mut out = [0; PREFIX];
    out[..4].copy_from_slice(&(header as u32).to_le_bytes());
    out[4..].copy_from_slice(&(body as u32).to_le_bytes());
    out
}

/// Takes one whole frame from the front of `buffer`; `Ok(None)` when more bytes are needed. Room for the rest of a frame
/// that has begun is reserved once its lengths are known to be within bounds.
pub fn take(buffer: &mut BytesMut, max_body: usize) -> Result<Option<Frame>, FrameError> {
    let Some(lengths) = buffer.first_chunk::<PREFIX>() else { return Ok(None) };
    let [a, b, c, d, e, f, g, h] = *lengths;
    let header = u32::from_le_bytes([a, b, c, d]) as usize;
    let body = u32::from_le_bytes([e, f, g, h]) as usize;
    if header == 0 || header > MAX_HEADER {
        return Err(FrameError::Header(header));
    }
    if body > max_body {
        return Err(FrameError::Body(body));
    }
    let whole = PREFIX + header + body;
    if buffer.len() < whole {
        buffer.reserve(whole - buffer.len());
        return Ok(None);
    }
    buffer.advance(PREFIX);
    let header = buffer.split_to(header).freeze();
    let body = buffer.split_to(body).freeze();
    Ok(Some(Frame { header, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(header: &[u8], body: &[u8]) -> Vec<u8> {
        [&prefix(header.len(), body.len())[..], header, body].concat()
    }

    #[test]
    fn frames_arrive_in_any_pieces() {
        let bytes = [encode(b"{\"t\":\"a\"}", b"xyz"), encode(b"{}", b"")].concat();
        let mut buffer = BytesMut::new();
        let mut got = Vec::new();
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            while let Some(frame) = take(&mut buffer, 100).unwrap() {
                got.push((frame.header.to_vec(), frame.body.to_vec()));
            }
        }
        assert_eq!(got, vec![(b"{\"t\":\"a\"}".to_vec(), b"xyz".to_vec()), (b"{}".to_vec(), vec![])]);
    }

    #[test]
    fn lengths_are_checked_before_anything_is_reserved() {
        let mut buffer = BytesMut::from(&prefix(10, 4_000_000_000)[..]);
        let before = buffer.capacity();
        assert_eq!(take(&mut buffer, 6 << 20).unwrap_err(), FrameError::Body(4_000_000_000));
        assert_eq!(buffer.capacity(), before);
        for bad in [0, MAX_HEADER + 1, u32::MAX as usize] {
            let mut buffer = BytesMut::from(&prefix(bad, 0)[..]);
            assert_eq!(take(&mut buffer, 100).unwrap_err(), FrameError::Header(bad));
        }
    }
}
