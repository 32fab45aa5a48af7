//! The map of a zip: where every entry lies, read from the bytes and accepted only when there is one way to read them.
//!
//! A zip says everything twice (in front of each entry and in the directory at its end), so two readers can see two
//! different archives in one file. This reader refuses such a file: the entries, the directory and the end record must
//! cover the file from its first byte to its last, once, without gap or overlap, and both accounts of an entry must agree.
//! It never decompresses, never writes, and holds no more than the directory in memory.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use offshoot_model::{Error, Limits};

use super::{bad, shown, unzipped_too_large};

const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: usize = 22;
const END64_LOCATOR_LEN: u64 = 20;
const END64_LEN: u64 = 56;

/// Saturated fields: the real value is in the entry's zip64 part.
const MAX16: u64 = 0xffff;
const MAX32: u64 = 0xffff_ffff;

const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// Encrypted, patched, strongly encrypted, directory masked.
const FLAGS_REFUSED: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;
/// What both accounts of an entry must agree on: encryption, descriptor, name encoding.
const FLAGS_COMPARED: u16 = 1 | FLAG_DESCRIPTOR | 1 << 11;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    Link,
}

/// One entry, as the directory and its own header agree that it is.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name's bytes as stored, not judged yet.
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Some execute bit is set. No other mode bit is kept: set-user-id and its kin end here.
    pub executable: bool,
    /// Size once unpacked, as declared twice.
    pub size: u64,
    /// Checksum of the unpacked bytes.
    pub crc: u32,
    /// First byte of the compressed data in the file.
    pub data_start: u64,
    packed: u64,
    header: u64,
    flags: u16,
    method: u16,
}

/// Reads the map. The entries come in the order of the directory.
pub(super) fn read_map(file: &File, limits: &Limits) -> Result<Vec<Entry>, Error> {
    let len = file.metadata().map_err(unreadable)?.len();
    let directory = find_directory(file, len)?;
    if directory.entries > limits.archive_entries {
        return Err(bad(format!("{} entries: at most {} are allowed", directory.entries, limits.archive_entries)));
    }
    let bytes = read(file, directory.start, directory.len)?; // `find_directory` saw that it ends inside the file
    let mut fields = Fields::new(&bytes);
    let mut entries = Vec::with_capacity(usize::try_from(directory.entries).unwrap_or(0));
    let mut total = 0u64;
    for _ in 0..directory.entries {
        let entry = read_entry(&mut fields)?;
        total = total.saturating_add(entry.size);
        entries.push(entry);
    }
    if !fields.rest().is_empty() {
        return Err(bad("its directory holds more than the end record counts"));
    }
    if total >= limits.unzipped_bytes {
        return Err(unzipped_too_large(limits.unzipped_bytes));
    }
    lay_out(file, &mut entries, directory.start)?;
    Ok(entries)
}

/// Where the directory lies.
struct Directory {
    start: u64,
    len: u64,
    entries: u64,
}

/// Finds the end record, which must be the only one and must end where the file ends, and the directory right before it.
fn find_directory(file: &File, len: u64) -> Result<Directory, Error> {
    let tail_len = len.min((END_LEN + 0xffff) as u64);
    let tail = read(file, len - tail_len, tail_len)?;
    let Some(at) = (0..tail.len().saturating_sub(END_LEN - 1)).rev().find(|&i| tail[i..].starts_with(END)) else {
        return Err(bad("this is not a zip archive, or its end is cut off"));
    };
    let mut fields = Fields::new(&tail[at + 4..]);
    let (disk, directory_disk) = (fields.u16()?, fields.u16()?);
    let (entries_here, entries) = (u64::from(fields.u16()?), u64::from(fields.u16()?));
    let (size, start) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
    let comment = usize::from(fields.u16()?);
    // A reader that scans backwards takes the last signature, one that checks the length may take an earlier one.
    let ends_here = |i: usize| {
        tail.get(i + 20..i + 22)
            .is_some_and(|c| i + END_LEN + usize::from(u16::from_le_bytes([c[0], c[1]])) == tail.len())
    };
    if (0..at).any(|i| tail[i..].starts_with(END) && ends_here(i)) {
        return Err(bad("it has two end records, so it can be read in two ways"));
    }
    if at + END_LEN + comment != tail.len() {
        return Err(bad("there is data after its end"));
    }
    if disk != 0 || directory_disk != 0 || entries_here != entries {
        return Err(bad("it is one part of a split archive"));
    }
    let end = len - tail_len + at as u64;
    let plain = Directory { start, len: size, entries };
    let (directory, directory_end) = match read_end64(file, end)? {
        Some((wide, wide_at)) => (agree(&plain, wide)?, wide_at),
        None => (plain, end),
    };
    if directory.start.checked_add(directory.len) != Some(directory_end) {
        return Err(bad("its directory is not where the end record says, or there is data around it"));
    }
    Ok(directory)
}

/// The zip64 end record in front of the plain one, if its locator is there, and its position.
fn read_end64(file: &File, end: u64) -> Result<Option<(Directory, u64)>, Error> {
    let Some(locator_at) = end.checked_sub(END64_LOCATOR_LEN) else { return Ok(None) };
    let locator = read(file, locator_at, END64_LOCATOR_LEN)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let mut fields = Fields::new(&locator[4..]);
    let (disk, at, disks) = (fields.u32()?, fields.u64()?, fields.u32()?);
    if disk != 0 || disks > 1 || at.checked_add(END64_LEN) != Some(locator_at) {
        return Err(bad("its zip64 end record is not where it should be"));
    }
    let record = read(file, at, END64_LEN)?;
    let mut fields = Fields::new(&record);
    let (signature, record_len) = (fields.u32()?, fields.u64()?);
    if signature != 0x0606_4b50 || record_len != END64_LEN - 12 {
        return Err(bad("its zip64 end record is malformed"));
    }
    fields.u32()?; // versions
    let (disk, directory_disk, here, entries) = (fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?);
    let (len, start) = (fields.u64()?, fields.u64()?);
    if disk != 0 || directory_disk != 0 || here != entries {
        return Err(bad("it is one part of a split archive"));
    }
    Ok(Some((Directory { start, len, entries }, at)))
}

/// Both end records must say the same, unless the plain one says "look there".
fn agree(plain: &Directory, wide: Directory) -> Result<Directory, Error> {
    let same = |narrow: u64, full: u64, max: u64| narrow == max || narrow == full;
    let agree = same(plain.start, wide.start, MAX32)
        && same(plain.len, wide.len, MAX32)
        && same(plain.entries, wide.entries, MAX16);
    if agree { Ok(wide) } else { Err(bad("its two end records disagree")) }
}

/// One entry of the directory; `data_start` is filled in later.
fn read_entry(fields: &mut Fields) -> Result<Entry, Error> {
    if fields.u32()? != 0x0201_4b50 {
        return Err(bad("its directory is malformed"));
    }
    let made_by = fields.u16()?;
    fields.u16()?; // version needed
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.u32()?; // time and date
    let crc = fields.u32()?;
    let (packed, size) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
    let (name_len, extra_len, comment_len) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let disk = fields.u16()?;
    fields.u16()?; // internal attributes
    let attributes = fields.u32()?;
    let header = u64::from(fields.u32()?);
    let name = fields.take(name_len.into())?.to_vec();
    let extra = fields.take(extra_len.into())?;
    fields.take(comment_len.into())?;

    let who = shown(&name);
    let mut wide = [size, packed, header];
    read_extra(extra, &name, &mut wide).map_err(|why| bad(format!("the entry {who} {why}")))?;
    let [size, packed, header] = wide;
    let (kind, executable) =
        kind_of(&name, made_by, attributes).map_err(|why| bad(format!("the entry {who} {why}")))?;
    let entry = Entry { name, kind, executable, size, crc, data_start: 0, packed, header, flags, method };
    match refusal(&entry, disk) {
        Some(why) => Err(bad(format!("the entry {who} {why}"))),
        None => Ok(entry),
    }
}

/// Why an entry cannot be taken, by its directory record alone.
fn refusal(entry: &Entry, disk: u16) -> Option<&'static str> {
    if entry.flags & FLAGS_REFUSED != 0 {
        return Some("is encrypted or patched: make the zip without a password");
    }
    if entry.method != 0 && entry.method != 8 {
        return Some("is compressed by a method other than deflate: make the zip with the usual one");
    }
    if disk != 0 {
        return Some("lies in another part of a split archive");
    }
    if entry.method == 0 && entry.packed != entry.size {
        return Some("is stored, but has two sizes");
    }
    // An empty directory may still carry the two bytes that deflate needs to say "nothing".
    if entry.kind == Kind::Dir && (entry.size != 0 || entry.packed > 2) {
        return Some("is a directory with content");
    }
    None
}

/// What an entry is, from its name and the mode that its maker wrote; and whether it may be executed.
fn kind_of(name: &[u8], made_by: u16, attributes: u32) -> Result<(Kind, bool), &'static str> {
    let named_dir = name.ends_with(b"/");
    let mode = attributes >> 16;
    let file_type = mode & 0o170_000;
    // Hosts 3 and 19 write Unix modes. From any other, readers differ on whether these bits mean something.
    let unix = matches!(made_by >> 8, 3 | 19);
    match file_type {
        0 | 0o100_000 if !named_dir => Ok((Kind::File, unix && mode & 0o111 != 0)),
        0 | 0o040_000 if named_dir => Ok((Kind::Dir, true)),
        0o120_000 if unix && !named_dir => Ok((Kind::Link, false)),
        0o120_000 => Err("is a symbolic link by one reading and not by another"),
        0o100_000 | 0o040_000 => Err("is a file by its name and a directory by its mode, or the other way round"),
        _ => Err("is a device, a pipe or a socket: only files, directories and links are taken"),
    }
}

/// Reads the zip64 part (sizes and offset too wide for their fields) and refuses a second name.
fn read_extra(mut extra: &[u8], name: &[u8], wide: &mut [u64; 3]) -> Result<(), &'static str> {
    let mut seen_wide = false;
    while !extra.is_empty() {
        let [a, b, c, d, rest @ ..] = extra else { return Err("has malformed extra data") };
        let (id, len) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
        let part = rest.get(..len).ok_or("has malformed extra data")?;
        extra = rest.get(len..).unwrap_or_default();
        match id {
            0x0001 if seen_wide => return Err("gives its size twice"),
            0x0001 => {
                seen_wide = true;
                let mut numbers = part.chunks_exact(8);
                for field in wide.iter_mut().filter(|f| **f == MAX32) {
                    let bytes = numbers.next().ok_or("lacks its zip64 size")?;
                    *field = u64::from_le_bytes(bytes.try_into().map_err(|_| "lacks its zip64 size")?);
                }
            }
            // Info-ZIP's "Unicode path": a name that some readers prefer to the one in the header.
            0x7075 if part.get(5..) != Some(name) => return Err("has two names, so it can be read in two ways"),
            _ => {}
        }
    }
    if !seen_wide && wide.contains(&MAX32) {
        return Err("lacks its zip64 size");
    }
    Ok(())
}

/// Checks that entries and their headers cover the file from 0 to the directory, and fills in where the data lies.
fn lay_out(file: &File, entries: &mut [Entry], directory_start: u64) -> Result<(), Error> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| entries[i].header);
    let mut at = 0u64;
    for (turn, &i) in order.iter().enumerate() {
        let next = order.get(turn + 1).map_or(directory_start, |&n| entries[n].header);
        let entry = &mut entries[i];
        if entry.header > at {
            return Err(bad(if at == 0 {
                "there is data before its first entry"
            } else {
                "there is data between its entries"
            }));
        }
        if entry.header < at {
            return Err(bad(format!("the entry {} overlaps another", shown(&entry.name))));
        }
        let who = shown(&entry.name);
        entry.data_start = check_header(file, entry)?;
        let end = entry.data_start.checked_add(entry.packed).filter(|&e| e <= next);
        let end = end.ok_or_else(|| bad(format!("the entry {who} overlaps another or is cut short")))?;
        at = end;
        if entry.flags & FLAG_DESCRIPTOR != 0 {
            check_descriptor(file, entry, end, next)?;
            at = next;
        }
    }
    if at != directory_start {
        return Err(bad(if entries.is_empty() {
            "there is data before its directory"
        } else {
            "there is data between its entries and its directory"
        }));
    }
    Ok(())
}

/// Compares an entry's own header with the directory. Answers where its data starts.
fn check_header(file: &File, entry: &Entry) -> Result<u64, Error> {
    let who = shown(&entry.name);
    let bytes = read(file, entry.header, 30 + entry.name.len() as u64)?;
    let mut fields = Fields::new(&bytes);
    if fields.u32()? != 0x0403_4b50 {
        return Err(bad(format!("the entry {who} is not where the directory says")));
    }
    fields.u16()?; // version needed
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.u32()?; // time and date
    let crc = fields.u32()?;
    let (packed, size) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
    let (name_len, extra_len) = (fields.u16()?, fields.u16()?);
    let differs = || bad(format!("the entry {who} is described in two ways that disagree"));
    if (flags ^ entry.flags) & FLAGS_COMPARED != 0 || method != entry.method || fields.rest() != entry.name {
        return Err(differs());
    }
    if usize::from(name_len) != entry.name.len() {
        return Err(differs());
    }
    let extra_at = entry.header + 30 + u64::from(name_len);
    let extra = read(file, extra_at, extra_len.into())?;
    let mut wide = [size, packed, 0];
    read_extra(&extra, &entry.name, &mut wide).map_err(|why| bad(format!("the entry {who} {why}")))?;
    let [size, packed, _] = wide;
    // A writer that streams leaves zeros here and gives the numbers after the data.
    let streamed = flags & FLAG_DESCRIPTOR != 0;
    let same = |here: u64, there: u64| here == there || (streamed && here == 0);
    if !same(crc.into(), entry.crc.into()) || !same(packed, entry.packed) || !same(size, entry.size) {
        return Err(differs());
    }
    Ok(extra_at + u64::from(extra_len))
}

/// Compares the record after a streamed entry's data, which must fill the space up to what follows, with the directory.
fn check_descriptor(file: &File, entry: &Entry, end: u64, next: u64) -> Result<(), Error> {
    let len = next - end;
    if len == 0 && entry.kind == Kind::Dir {
        return Ok(()); // some writers mark directories as streamed and then have nothing to say
    }
    let differs = || bad(format!("the entry {} is followed by data that does not describe it", shown(&entry.name)));
    if ![12, 16, 20, 24].contains(&len) {
        return Err(differs());
    }
    let bytes = read(file, end, len)?;
    let mut fields = Fields::new(&bytes);
    if matches!(len, 16 | 24) && fields.u32()? != 0x0807_4b50 {
        return Err(differs());
    }
    let crc = fields.u32()?;
    let mut number = || if len >= 20 { fields.u64() } else { fields.u32().map(u64::from) };
    let (packed, size) = (number()?, number()?);
    if crc == entry.crc && packed == entry.packed && size == entry.size { Ok(()) } else { Err(differs()) }
}

/// Little-endian fields, one after the other; running out of them is the archive's fault.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Fields(bytes)
    }
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.0.split_at_checked(len).ok_or_else(|| bad("its directory is cut short"))?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| bad("its directory is cut short"))
    }
    fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }
    fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Reads exactly these bytes. `len` is two small lengths of a header, or was compared with the file's before.
fn read(file: &File, at: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| bad("it is too large for this machine"))?];
    file.read_exact_at(&mut bytes, at).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::InvalidInput => bad("it points outside of itself, or is cut short"),
        _ => unreadable(e),
    })?;
    Ok(bytes)
}

fn unreadable(e: std::io::Error) -> Error {
    bad("the upload cannot be read").caused_by(e)
}
