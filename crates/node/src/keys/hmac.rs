//! HMAC-SHA256 (RFC 2104) whose key is held as the two states of the hash after its padded blocks: with them every code can be
//! made, and the key itself cannot be found.

use sha2::digest::generic_array::GenericArray;
use sha2::{Digest, Sha256, compress256};

const BLOCK: usize = 64;
/// SHA-256's initial state (FIPS 180-4 §5.3.3).
const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A key for codes of HMAC-SHA256.
#[derive(Clone, PartialEq, Eq)]
pub struct HmacKey {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl std::fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacKey(…)")
    }
}

impl HmacKey {
    /// From the key's bytes, of any length.
    pub fn new(key: &[u8]) -> Self {
        let mut block = [0u8; BLOCK];
        match key.len() {
            0..=BLOCK => block[..key.len()].copy_from_slice(key),
            _ => block[..32].copy_from_slice(&Sha256::digest(key)),
        }
        let state = |pad: u8| {
            let padded = block.map(|b| b ^ pad);
            let mut state = START;
            compress256(&mut state, &[GenericArray::from(padded)]);
            state
        };
        HmacKey { inner: state(0x36), outer: state(0x5c) }
    }

    /// The code of these parts, one after the other.
    pub fn code(&self, parts: &[&[u8]]) -> [u8; 32] {
        finish(self.outer, &[&finish(self.inner, parts)])
    }

    /// 128 hexadecimal digits: what is kept of a key.
    pub fn to_hex(&self) -> String {
        self.inner.iter().chain(&self.outer).map(|word| format!("{word:08x}")).collect()
    }

    /// Reads what `to_hex` wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 128 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut words = [0u32; 16];
        for (word, digits) in words.iter_mut().zip(text.as_bytes().chunks(8)) {
            *word = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        let half = |from: usize| words[from..from + 8].try_into().ok();
        Some(HmacKey { inner: half(0)?, outer: half(8)? })
    }
}

/// Goes on from a state that has taken in one block, to the hash's end.
fn finish(mut state: [u32; 8], parts: &[&[u8]]) -> [u8; 32] {
    let (mut block, mut filled) = ([0u8; BLOCK], 0);
    let mut length = BLOCK as u64;
    for part in parts {
        length += part.len() as u64;
        let mut part = *part;
        while !part.is_empty() {
            let taken = part.len().min(BLOCK - filled);
            block[filled..filled + taken].copy_from_slice(&part[..taken]);
            filled += taken;
            part = &part[taken..];
            if filled == BLOCK {
                compress256(&mut state, &[GenericArray::from(block)]);
                filled = 0;
            }
        }
    }
    block[filled] = 0x80;
    block[filled + 1..].fill(0);
    if filled + 9 > BLOCK {
        compress256(&mut state, &[GenericArray::from(block)]);
        block.fill(0);
    }
    block[BLOCK - 8..].copy_from_slice(&(length * 8).to_be_bytes());
    compress256(&mut state, &[GenericArray::from(block)]);
    let mut out = [0u8; 32];
    for (bytes, word) in out.chunks_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

/// Equality in a time that depends on the length alone.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    let mut difference = u8::from(a.len() != b.len());
    for (at, byte) in b.iter().enumerate() {
        difference |= byte ^ a.get(at).copied().unwrap_or(!byte);
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// RFC 4231 §4.2, 4.3, 4.4 and 4.7.
    #[test]
    fn published_vectors() {
        for (key, data, code) in [
            (vec![0x0b; 20], b"Hi There".to_vec(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?".to_vec(),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (vec![0xaa; 20], vec![0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            let key = HmacKey::new(&key);
            assert_eq!(hex(&key.code(&[&data])), code);
            let middle = data.len() / 3;
            assert_eq!(hex(&key.code(&[&data[..middle], b"", &data[middle..]])), code);
            assert_eq!(HmacKey::from_hex(&key.to_hex()), Some(key));
        }
    }

    /// Every length around the block's edges, against a plain computation from the definition.
    #[test]
    fn every_length() {
        let key = HmacKey::new(b"key");
        let pad = |pad: u8| -> Vec<u8> { (0..64).map(|i| b"key".get(i).copied().unwrap_or(0) ^ pad).collect() };
        for length in 0..200 {
            let data = vec![7u8; length];
            let inner = Sha256::digest([pad(0x36), data.clone()].concat());
            let outer = Sha256::digest([pad(0x5c), inner.to_vec()].concat());
            assert_eq!(key.code(&[&data])[..], outer[..], "{length}");
        }
        assert!(HmacKey::from_hex("00").is_none() && HmacKey::from_hex(&"é".repeat(64)).is_none());
    }
}
