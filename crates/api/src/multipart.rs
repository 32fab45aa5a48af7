//! `multipart/form-data` as a stream: part after part, each part's bytes as they come. At most one piece of the body and
//! one set of part headers are held; a part may be as large as the body is allowed to be.
//!
//! It knows nothing of what the parts mean, and a file name in it is a text like any other.

use bytes::{Buf, Bytes, BytesMut};

use crate::body::Inflow;
use crate::error::Refusal;

/// Parts that a form may have.
const MAX_PARTS: usize = 64;
/// Bytes before the first part, of one part's headers, and after the last part.
const MAX_HEAD: usize = 8 << 10;

/// Where the bytes come from.
pub(crate) trait Source: Send {
    /// The next bytes; `None` at the end.
    fn pull(&mut self) -> impl Future<Output = Result<Option<Bytes>, Refusal>> + Send;
}

impl Source for Inflow {
    async fn pull(&mut self) -> Result<Option<Bytes>, Refusal> {
        Ok(self.next().await?)
    }
}

/// A part's own description.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub name: String,
    pub filename: Option<String>,
}

#[derive(PartialEq, Eq)]
enum Place {
    BeforeFirst,
    InPart,
    AfterDelimiter,
    AtEnd,
}

/// A form being read.
pub(crate) struct Multipart<S> {
    source: S,
    buf: BytesMut,
    delimiter: Vec<u8>,
    place: Place,
    parts: usize,
}

fn bad(message: &'static str) -> Refusal {
    Refusal::bad(message).closing()
}

/// The boundary in a `Content-Type`, when it is `multipart/form-data`.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let (kind, mut rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    while let Some((name, value, after)) = parameter(rest) {
        if name.eq_ignore_ascii_case("boundary") {
            let fits = (1..=70).contains(&value.len()) && value.bytes().all(|b| matches!(b, b' '..=b'~'));
            return fits.then_some(value);
        }
        rest = after;
    }
    None
}

/// One `name=value` or `name="value"`, and what follows its semicolon.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    let name = name.trim_matches([' ', '\t', ';']);
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, after) = rest.split_once(';').unwrap_or((rest, ""));
        return Some((name, value.trim().to_owned(), after));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, value, quoted[at + 1..].trim_start_matches([' ', '\t', ';']))),
            '\\' if quoted[at + 1..].starts_with(['"', '\\']) => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    None
}

impl<S: Source> Multipart<S> {
    /// A form whose parts are separated by this boundary.
    pub fn new(source: S, boundary: &str) -> Self {
        // The line break before a delimiter belongs to it; the first delimiter may stand at the very start.
        let buf = BytesMut::from(&b"\r\n"[..]);
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Multipart { source, buf, delimiter, place: Place::BeforeFirst, parts: 0 }
    }

    /// The next part; what is left of the one before is passed over. `None` after the last, when the body was read to its end.
    pub async fn next(&mut self) -> Result<Option<Part>, Refusal> {
        if self.place == Place::BeforeFirst {
            self.skip_preamble().await?;
        }
        while self.place == Place::InPart {
            self.chunk().await?;
        }
        if self.place == Place::AtEnd || self.is_last().await? {
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(bad("the form has too many parts"));
        }
        let part = self.part_head().await?;
        self.place = Place::InPart;
        Ok(Some(part))
    }

    /// The next bytes of the present part; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Refusal> {
        if self.place != Place::InPart {
            return Ok(None);
        }
        loop {
            match find(&self.buf, &self.delimiter) {
                Some(0) => {
                    self.buf.advance(self.delimiter.len());
                    self.place = Place::AfterDelimiter;
                    return Ok(None);
                }
                Some(at) => return Ok(Some(self.buf.split_to(at).freeze())),
                // The last bytes may be the start of a delimiter.
                None if self.buf.len() >= self.delimiter.len() => {
                    let sure = self.buf.len() - (self.delimiter.len() - 1);
                    return Ok(Some(self.buf.split_to(sure).freeze()));
                }
                None => self.more().await?,
            }
        }
    }

    async fn more(&mut self) -> Result<(), Refusal> {
        match self.source.pull().await? {
            Some(bytes) => self.buf.extend_from_slice(&bytes),
            None => return Err(bad("the form ends in the middle of a part")),
        }
        Ok(())
    }

    async fn skip_preamble(&mut self) -> Result<(), Refusal> {
        let at = loop {
            match find(&self.buf, &self.delimiter) {
                Some(at) => break at,
                None if self.buf.len() > MAX_HEAD => return Err(bad("the form does not start with its boundary")),
                None => self.more().await?,
            }
        };
        self.buf.advance(at + self.delimiter.len());
        self.place = Place::AfterDelimiter;
        Ok(())
    }

    /// After a delimiter: `--` ends the form, a line break starts a part.
    async fn is_last(&mut self) -> Result<bool, Refusal> {
        while self.buf.len() < 2 {
            self.more().await?;
        }
        if !self.buf.starts_with(b"--") {
            return Ok(false);
        }
        let mut after = self.buf.len();
        loop {
            if after > MAX_HEAD {
                return Err(bad("too much follows the last part of the form"));
            }
            let Some(bytes) = self.source.pull().await? else { break };
            after += bytes.len();
        }
        self.place = Place::AtEnd;
        Ok(true)
    }

    async fn part_head(&mut self) -> Result<Part, Refusal> {
        let end = loop {
            match find(&self.buf, b"\r\n\r\n") {
                Some(end) if end <= MAX_HEAD => break end,
                None if self.buf.len() <= MAX_HEAD => self.more().await?,
                _ => return Err(bad("the headers of a part are too large")),
            }
        };
        let head = self.buf.split_to(end + 2);
        let head = std::str::from_utf8(&head).map_err(|_| bad("the headers of a part are not UTF-8"))?;
        let part = disposition(head).ok_or_else(|| bad("a part of the form has no name"))?;
        self.buf.advance(2);
        Ok(part)
    }
}

/// What `Content-Disposition: form-data; name="…"; filename="…"` says. The text starts with what follows the boundary.
fn disposition(head: &str) -> Option<Part> {
    let (padding, lines) = head.split_once("\r\n")?;
    if !padding.bytes().all(|b| matches!(b, b' ' | b'\t')) {
        return None;
    }
    let value = lines.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    let (kind, mut rest) = value.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return None;
    }
    let (mut name, mut filename) = (None, None);
    while let Some((key, value, after)) = parameter(rest) {
        if key.eq_ignore_ascii_case("name") {
            name = Some(value);
        } else if key.eq_ignore_ascii_case("filename") {
            filename = Some(value);
        }
        rest = after;
    }
    Some(Part { name: name?, filename })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack.get(from..)?.iter().position(|b| *b == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Pieces(std::vec::IntoIter<Bytes>);

    impl Source for Pieces {
        async fn pull(&mut self) -> Result<Option<Bytes>, Refusal> {
            Ok(self.0.next())
        }
    }

    type Read = Result<Vec<(Part, Vec<u8>)>, Refusal>;

    fn read(body: &[u8], piece: usize) -> Read {
        let pieces: Vec<_> = body.chunks(piece.max(1)).map(Bytes::copy_from_slice).collect();
        let mut form = Multipart::new(Pieces(pieces.into_iter()), "XX");
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let mut parts = Vec::new();
            while let Some(part) = form.next().await? {
                let mut data = Vec::new();
                while let Some(chunk) = form.chunk().await? {
                    data.extend_from_slice(&chunk);
                }
                parts.push((part, data));
            }
            Ok(parts)
        })
    }

    fn part(name: &str, filename: Option<&str>) -> Part {
        Part { name: name.into(), filename: filename.map(Into::into) }
    }

    #[test]
    fn parts_are_found_however_the_body_is_cut() {
        let body = b"preamble\r\n--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n--XX \r\ncontent-disposition: form-data; name=file; filename=\"x \\\"y\\\".zip\"\r\nContent-Type: application/zip\r\n\r\n--X\r\n--X\r\r\n--XX--\r\nepilogue";
        for piece in 1..=body.len() {
            let parts = read(body, piece).unwrap();
            assert_eq!(
                parts,
                [(part("a", None), b"".to_vec()), (part("file", Some("x \"y\".zip")), b"--X\r\n--X\r".to_vec()),]
            );
        }
    }

    #[test]
    fn malformed_forms_are_refused() {
        let head = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n";
        let many = format!("{}--XX--", format!("{head}x\r\n").repeat(MAX_PARTS + 1));
        let preamble = "p".repeat(100_000);
        let headers = format!("--XX\r\nX: {}", "h".repeat(100_000));
        let epilogue = format!("{head}x\r\n--XX--{}", "e".repeat(100_000));
        for bad in [
            "",
            "--XX",
            "--XX\r\n",
            head,
            "--XX\r\n\r\nx\r\n--XX--",
            "--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--",
            "--XXjunk\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--XX--",
            "--XX\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\nx\r\n--XX--",
            "--XX\r\nContent-Disposition: form-data; name=\"a\r\n\r\nx\r\n--XX--",
            &many,
            &preamble,
            &headers,
            &epilogue,
        ] {
            for piece in [1, 7, 4096, 1 << 20] {
                assert!(read(bad.as_bytes(), piece).is_err(), "{bad:.60}");
            }
        }
        assert!(read(b"--XX--", 1).unwrap().is_empty());
    }

    #[test]
    fn boundaries_are_read() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Form-Data; charset=utf-8; boundary=\"a b\"").as_deref(), Some("a b"));
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        for bad in [
            "multipart/form-data",
            "multipart/mixed; boundary=a",
            "multipart/form-data; boundary=",
            "application/zip",
            &long,
        ] {
            assert_eq!(boundary(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(data in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'X'), any::<u8>()], 0..400), piece in 1usize..64) {
            prop_assume!(find(&[b"\r\n", data.as_slice(), b"\r\n"].concat(), b"\r\n--XX").is_none());
            let mut body = b"--XX\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n".to_vec();
            body.extend_from_slice(&data);
            body.extend_from_slice(b"\r\n--XX--\r\n");
            prop_assert_eq!(read(&body, piece).unwrap(), vec![(part("f", None), data)]);
        }

        #[test]
        fn no_bytes_panic(data in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'X'), any::<u8>()], 0..400)) {
            let _ = read(&[b"--XX\r\n", data.as_slice()].concat(), 3);
        }
    }
}
