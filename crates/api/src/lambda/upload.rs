//! Archives inside JSON: takes the member `ZipFile` out of a request's body as it comes, decodes it to a file, and leaves the
//! rest of the document, so that an archive is never held in memory.
//!
//! It looks at the members `ZipFile`, `Code.ZipFile` and `Content.ZipFile` and at no other of that name.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind};
use tokio::io::AsyncWriteExt;

use super::error::AwsError;
use crate::Backend;
use crate::connection::Call;
use crate::ids;

/// Largest document besides the archive, in bytes.
const MAX_REST: usize = 1 << 20;
/// Bytes of the archive that are gathered before they are written.
const CHUNK: usize = 256 << 10;

/// A file that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Spool(pub PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(error = %e, "an upload could not be removed");
        }
    }
}

/// A document, and the archive that was in it.
#[derive(Debug)]
pub(crate) struct Upload {
    pub document: Bytes,
    pub archive: Option<Spool>,
}

/// Reads a body of at most `limit` bytes, and of the archive at most `zipped`.
pub(crate) async fn read<B: Backend>(call: &mut Call<'_, B>, limit: u64, zipped: u64) -> Result<Upload, AwsError> {
    let dir = call.backend().tmp_dir().to_owned();
    let mut body = call.inflow(limit)?;
    let mut filter = Filter::default();
    let mut file: Option<(tokio::fs::File, Spool)> = None;
    let mut written = 0u64;
    while let Some(bytes) = body.next().await? {
        filter.feed(&bytes)?;
        if filter.rest.len() > MAX_REST {
            let message = format!("the request holds more than {MAX_REST} bytes besides the archive");
            return Err(AwsError::new(413, "RequestEntityTooLargeException", message).closing());
        }
        if filter.code.len() >= CHUNK {
            written += write_out(&mut file, &dir, &mut filter.code).await?;
        }
        if written + filter.code.len() as u64 >= zipped {
            let message = format!("Zipped size must be smaller than {zipped} bytes");
            return Err(AwsError::new(413, "RequestEntityTooLargeException", message).closing());
        }
    }
    if filter.seen {
        filter.finish()?;
        write_out(&mut file, &dir, &mut filter.code).await?;
    }
    let archive = match file {
        Some((mut file, spool)) => {
            file.flush().await.map_err(failed)?;
            Some(spool)
        }
        None => None,
    };
    Ok(Upload { document: Bytes::from(filter.rest), archive })
}

/// An archive that comes piece by piece from somewhere else.
pub(super) struct Incoming {
    file: Option<(tokio::fs::File, Spool)>,
    dir: PathBuf,
    left: u64,
    most: u64,
}

impl Incoming {
    /// One of less than `most` bytes, in this directory.
    pub fn new(dir: &Path, most: u64) -> Self {
        Incoming { file: None, dir: dir.to_owned(), left: most, most }
    }
    /// Takes the next piece.
    pub async fn take(&mut self, piece: &[u8]) -> Result<(), AwsError> {
        self.left = self.left.checked_sub(piece.len() as u64).filter(|left| *left > 0).ok_or_else(|| {
            let message = format!("Zipped size must be smaller than {} bytes", self.most);
            AwsError::new(413, "RequestEntityTooLargeException", message)
        })?;
        write_out(&mut self.file, &self.dir, &mut piece.to_vec()).await.map(drop)
    }
    /// The whole.
    pub async fn finish(mut self) -> Result<Spool, AwsError> {
        let (mut file, spool) =
            self.file.take().ok_or_else(|| AwsError::invalid("Uploaded file must be a non-empty zip"))?;
        file.flush().await.map_err(failed)?;
        Ok(spool)
    }
}

fn failed(e: std::io::Error) -> AwsError {
    Error::new(ErrorKind::Store, "the upload cannot be stored").caused_by(e).into()
}

async fn write_out(
    file: &mut Option<(tokio::fs::File, Spool)>,
    dir: &Path,
    code: &mut Vec<u8>,
) -> Result<u64, AwsError> {
    if file.is_none() {
        let name: String = ids::random()?.iter().map(|b| format!("{b:02x}")).collect();
        let path = dir.join(format!("upload-{name}.zip"));
        let mut options = tokio::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let opened = options.open(&path).await.map_err(failed)?;
        *file = Some((opened, Spool(path)));
    }
    if let Some((file, _)) = file {
        file.write_all(code).await.map_err(failed)?;
    }
    let size = code.len() as u64;
    code.clear();
    Ok(size)
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Between,
    Text,
    Code,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    No,
    Begun,
    /// Digits of `\uXXXX` that were read, and their value.
    Unicode(u8, u32),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Seen {
    #[default]
    Other,
    /// A text that may be a key.
    Text,
    /// A key and its colon.
    Colon,
}

/// Splits a document into its archive and the rest, byte by byte.
#[derive(Debug, Default)]
struct Filter {
    rest: Vec<u8>,
    code: Vec<u8>,
    seen: bool,
    at: At,
    escape: Escape,
    before: Seen,
    depth: usize,
    /// The last text, as far as it can be one of the names looked for.
    last: Vec<u8>,
    /// The last key at the top.
    top: Vec<u8>,
    bits: u32,
    digits: u8,
    padding: u8,
}

impl Filter {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), AwsError> {
        for byte in bytes {
            match self.at {
                At::Between => self.between(*byte)?,
                At::Text => self.text(*byte),
                At::Code => self.in_code(*byte)?,
            }
        }
        Ok(())
    }

    fn between(&mut self, byte: u8) -> Result<(), AwsError> {
        self.rest.push(byte);
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return Ok(()),
            b'"' => {
                let named = self.before == Seen::Colon && self.last == b"ZipFile";
                let inside = self.depth == 1 || (self.depth == 2 && matches!(&self.top[..], b"Code" | b"Content"));
                if named && inside {
                    if self.seen {
                        return Err(AwsError::invalid("the archive is in the request twice"));
                    }
                    (self.seen, self.at) = (true, At::Code);
                } else {
                    self.last.clear();
                    self.at = At::Text;
                }
                return Ok(());
            }
            b':' if self.before == Seen::Text => {
                if self.depth == 1 {
                    self.top = self.last.clone();
                }
                self.before = Seen::Colon;
                return Ok(());
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.before = Seen::Other;
        Ok(())
    }

    fn text(&mut self, byte: u8) {
        self.rest.push(byte);
        match (self.escape, byte) {
            (Escape::No, b'\\') => self.escape = Escape::Begun,
            (Escape::No, b'"') => (self.at, self.before) = (At::Between, Seen::Text),
            _ => self.escape = Escape::No,
        }
        if self.at == At::Text && self.last.len() < 16 {
            self.last.push(byte);
        }
    }

    fn in_code(&mut self, byte: u8) -> Result<(), AwsError> {
        let bad = || AwsError::invalid("ZipFile is not base64");
        match (self.escape, byte) {
            (Escape::No, b'"') => {
                self.rest.push(b'"');
                (self.at, self.before) = (At::Between, Seen::Text);
                self.last.clear();
                self.finish()
            }
            (Escape::No, b'\\') => {
                self.escape = Escape::Begun;
                Ok(())
            }
            (Escape::No, byte) => self.digit(byte),
            (Escape::Begun, b'/') => {
                self.escape = Escape::No;
                self.digit(b'/')
            }
            (Escape::Begun, b'u') => {
                self.escape = Escape::Unicode(0, 0);
                Ok(())
            }
            (Escape::Begun, b'n' | b'r') => {
                self.escape = Escape::No; // line breaks of MIME
                Ok(())
            }
            (Escape::Begun, _) => Err(bad()),
            (Escape::Unicode(read, value), byte) => {
                let value = value << 4 | char::from(byte).to_digit(16).ok_or_else(bad)?;
                if read < 3 {
                    self.escape = Escape::Unicode(read + 1, value);
                    return Ok(());
                }
                self.escape = Escape::No;
                self.digit(u8::try_from(value).map_err(|_| bad())?)
            }
        }
    }

    fn digit(&mut self, byte: u8) -> Result<(), AwsError> {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' if self.padding < 2 => {
                self.padding += 1;
                return Ok(());
            }
            _ => return Err(AwsError::invalid("ZipFile is not base64")),
        };
        if self.padding > 0 {
            return Err(AwsError::invalid("ZipFile is not base64"));
        }
        self.bits = self.bits << 6 | u32::from(value);
        self.digits += 1;
        if self.digits == 4 {
            self.code.extend_from_slice(&self.bits.to_be_bytes()[1..]);
            (self.bits, self.digits) = (0, 0);
        }
        Ok(())
    }

    /// The last group, which may be short.
    fn finish(&mut self) -> Result<(), AwsError> {
        if self.at == At::Code {
            return Err(AwsError::invalid("ZipFile does not end"));
        }
        match self.digits {
            0 => {}
            2 => self.code.push((self.bits >> 4) as u8),
            3 => self.code.extend_from_slice(&[(self.bits >> 10) as u8, (self.bits >> 2) as u8]),
            _ => return Err(AwsError::invalid("ZipFile is not base64")),
        }
        (self.bits, self.digits) = (0, 0);
        Ok(())
    }
}

/// Decodes base64 of a header or a member, with or without padding.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut filter = Filter::default();
    for byte in text.bytes() {
        filter.digit(byte).ok()?;
    }
    filter.finish().ok()?;
    Some(filter.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rest and the archive, whatever the pieces in which the document comes.
    fn split(document: &str) -> Result<(String, Vec<u8>), AwsError> {
        let mut results = [1usize, 2, 3, 7, 1000].into_iter().map(|size| {
            let mut filter = Filter::default();
            for piece in document.as_bytes().chunks(size) {
                filter.feed(piece)?;
            }
            if filter.seen {
                filter.finish()?;
            }
            Ok((String::from_utf8(filter.rest).unwrap(), filter.code))
        });
        let first = results.next().unwrap();
        for other in results {
            match (&first, &other) {
                (Ok(a), Ok(b)) => assert_eq!(a, b),
                (Err(_), Err(_)) => {}
                _ => panic!("{document}: depends on the pieces"),
            }
        }
        first
    }

    #[test]
    fn the_archive_is_taken_out() {
        for (document, rest, code) in [
            (r#"{"ZipFile":"aGVsbG8="}"#, r#"{"ZipFile":""}"#, "hello"),
            (
                r#"{"A":1,"Code":{"ZipFile" : "aGVsbG8","X":[]},"B":"x"}"#,
                r#"{"A":1,"Code":{"ZipFile" : "","X":[]},"B":"x"}"#,
                "hello",
            ),
            (r#"{"Content":{"ZipFile":"Pz8\/Pz8\u002f"}}"#, r#"{"Content":{"ZipFile":""}}"#, "??????"),
            (r#"{"ZipFile":""}"#, r#"{"ZipFile":""}"#, ""),
        ] {
            let (left, archive) = split(document).unwrap();
            assert_eq!(left, rest);
            assert_eq!(String::from_utf8_lossy(&archive), code, "{document}");
        }
    }

    #[test]
    fn other_members_of_that_name_are_left_alone() {
        for document in [
            r#"{"Environment":{"Variables":{"ZipFile":"not base64!"}}}"#,
            r#"{"Tags":{"ZipFile":"x!"}}"#,
            r#"{"a":"ZipFile","b":"y!"}"#,
            r#"{"a\"ZipFile":"y!"}"#,
            r#"["ZipFile","y!"]"#,
            r#"{"Code":{"x":{"ZipFile":"y!"}}}"#,
        ] {
            assert_eq!(split(document).unwrap(), (document.to_owned(), Vec::new()));
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for document in [
            r#"{"ZipFile":"a"}"#,
            r#"{"ZipFile":"a!bc"}"#,
            r#"{"ZipFile":"ab=c"}"#,
            r#"{"ZipFile":"ab==="}"#,
            r#"{"ZipFile":"\u00zz"}"#,
            r#"{"ZipFile":"aGVs"#,
            r#"{"ZipFile":"aGVs","ZipFile":"aGVs"}"#,
        ] {
            assert!(split(document).is_err(), "{document}");
        }
        assert_eq!(base64_decode("eyJhIjoxfQ==").unwrap(), br#"{"a":1}"#);
        assert_eq!(base64_decode("e"), None);
    }
}
