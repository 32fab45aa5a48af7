//! Unpacks an uploaded zip into a fresh directory tree: either everything that it holds is there, exactly as it says, or the
//! archive is refused with a sentence. What it writes stays in that tree, within the limits.
//!
//! The archive is hostile until shown otherwise. `structure` reads where everything lies and refuses what can be read in two
//! ways; `names` judges the paths; here the bytes are unpacked, by a second reader (the `zip` crate) whose account must agree
//! with the first. It never asks where the archive came from or which function it is for, and never removes what it made: the
//! caller throws the tree away after a refusal.

mod names;
mod structure;

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};

use offshoot_model::{Error, ErrorKind, Limits, Reason};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

use super::disk_error;
use super::tree::Tree;
use names::Plan;
use structure::{Entry, Kind};

/// The longest target of a link.
const MAX_TARGET: u64 = 1024;

/// One thing in a tree of code: what verification compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Node {
    /// A directory, mode 0755.
    Dir {
        /// Relative to the tree.
        path: String,
    },
    /// A regular file.
    File {
        /// Relative to the tree.
        path: String,
        /// 0644 or 0755.
        mode: u32,
        /// Bytes.
        size: u64,
        /// Of its content, in hexadecimal.
        sha256: String,
    },
    /// A symbolic link that stays in the tree.
    Link {
        /// Relative to the tree.
        path: String,
        /// As it was in the archive.
        target: String,
    },
}

impl Node {
    /// Relative to the tree.
    pub fn path(&self) -> &str {
        match self {
            Node::Dir { path } | Node::File { path, .. } | Node::Link { path, .. } => path,
        }
    }
}

/// What was unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Everything in the tree, parents before children.
    pub nodes: Vec<Node>,
    /// The folder around everything that was left out.
    pub stripped: Option<String>,
}

/// Whether the single folder around everything is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrapping {
    /// Where the program is plainly inside of it.
    Strip,
    /// Never: what is in the archive is where the archive says.
    Keep,
}

/// The folder that `Wrapping::Strip` would leave out.
pub(super) fn wrapping(archive: &File, limits: &Limits) -> Result<Option<String>, Error> {
    let entries = structure::read_map(archive, limits)?;
    Ok(names::plan(&entries, limits, Wrapping::Strip)?.stripped)
}

/// Unpacks an archive into a new tree, or says why not.
pub(super) fn unpack(archive: &File, tree: &Tree, limits: &Limits, wrapping: Wrapping) -> Result<Unpacked, Error> {
    let entries = structure::read_map(archive, limits)?;
    let plan = names::plan(&entries, limits, wrapping)?;
    let mut second = open_second(archive, &entries)?;
    let mut nodes = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let path = step.path.clone();
        match (step.kind, step.entry) {
            (Kind::Dir, _) | (_, None) => {
                tree.make_dir(&path).map_err(disk_error)?;
                nodes.push(Node::Dir { path });
            }
            (Kind::File, Some(i)) => nodes.push(unpack_file(&mut second, i, &entries[i], tree, path)?),
            (Kind::Link, Some(i)) => nodes.push(Node::Link { path, target: read_target(&mut second, i, &entries[i])? }),
        }
    }
    make_links(tree, &nodes)?;
    let Plan { stripped, .. } = plan;
    Ok(Unpacked { nodes, stripped })
}

/// The second reader, after it has agreed with the first on what is in the archive and where.
fn open_second(archive: &File, entries: &[Entry]) -> Result<ZipArchive<BufReader<File>>, Error> {
    let mut file = archive.try_clone().map_err(|e| bad("the upload cannot be read").caused_by(e))?;
    file.rewind().map_err(|e| bad("the upload cannot be read").caused_by(e))?;
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut second = ZipArchive::with_config(config, BufReader::with_capacity(64 << 10, file)).map_err(zip_error)?;
    let differs = || bad("two readers find different things in it");
    if second.len() != entries.len() {
        return Err(differs());
    }
    for (i, entry) in entries.iter().enumerate() {
        let other = second.by_index_raw(i).map_err(zip_error)?;
        let same = other.name_raw() == entry.name && other.size() == entry.size && other.crc32() == entry.crc;
        if !same || other.data_start() != entry.data_start || other.encrypted() {
            return Err(differs());
        }
    }
    Ok(second)
}

/// Streams one file out: never more bytes than the entry declares, and the declared sum is within the limit already.
fn unpack_file(
    second: &mut ZipArchive<BufReader<File>>,
    i: usize,
    entry: &Entry,
    tree: &Tree,
    path: String,
) -> Result<Node, Error> {
    let mut file = tree.make_file(&path, entry.executable).map_err(disk_error)?;
    let mut source = second.by_index(i).map_err(zip_error)?;
    let mut hash = Sha256::new();
    let mut size = 0u64;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = source.read(&mut buffer).map_err(|e| damaged(entry, e))?;
        if n == 0 {
            break;
        }
        size += n as u64;
        if size > entry.size {
            return Err(bad(format!("the entry {} holds more than it declares", shown(&entry.name))));
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(disk_error)?;
    }
    if size != entry.size {
        return Err(bad(format!("the entry {} holds less than it declares", shown(&entry.name))));
    }
    Ok(Node::File { path, mode: if entry.executable { 0o755 } else { 0o644 }, size, sha256: hex(&hash.finalize()) })
}

/// The content of a link's entry is where it leads.
fn read_target(second: &mut ZipArchive<BufReader<File>>, i: usize, entry: &Entry) -> Result<String, Error> {
    let illegal = |why: &str| bad(format!("illegal link: {} {why}", shown(&entry.name)));
    if entry.size == 0 || entry.size > MAX_TARGET {
        return Err(illegal("leads nowhere or is too long"));
    }
    let mut target = Vec::new();
    let source = second.by_index(i).map_err(zip_error)?;
    source.take(entry.size + 1).read_to_end(&mut target).map_err(|e| damaged(entry, e))?;
    if target.len() as u64 != entry.size {
        return Err(illegal("has another length than it declares"));
    }
    let target = String::from_utf8(target).map_err(|_| illegal("leads to a name that is not UTF-8"))?;
    if target.starts_with('/') || target.contains('\\') || target.chars().any(char::is_control) {
        return Err(illegal("must lead to a relative path inside the archive"));
    }
    Ok(target)
}

/// Makes the links when everything else is there, and has the kernel follow each one within the tree.
fn make_links(tree: &Tree, nodes: &[Node]) -> Result<(), Error> {
    let links =
        || nodes.iter().filter_map(|n| if let Node::Link { path, target } = n { Some((path, target)) } else { None });
    for (path, target) in links() {
        if !stays_by_text(path, target) {
            return Err(bad(format!("illegal link: '{}' leads out of the archive", path.escape_debug())));
        }
        tree.make_link(path, target).map_err(disk_error)?;
    }
    for (path, _) in links() {
        if !tree.link_stays(path).map_err(disk_error)? {
            return Err(bad(format!(
                "illegal link: '{}' leads out of the archive or in a circle",
                path.escape_debug()
            )));
        }
    }
    Ok(())
}

/// Whether a link's target, read as text, ever climbs above the tree. The kernel's answer covers links on the way; this one
/// covers what the kernel cannot follow, because the target does not exist.
fn stays_by_text(path: &str, target: &str) -> bool {
    let mut depth = path.matches('/').count();
    target.split('/').all(|segment| match segment {
        "" | "." => true,
        ".." => depth.checked_sub(1).map(|d| depth = d).is_some(),
        _ => {
            depth += 1;
            true
        }
    })
}

/// A refused archive. Its sentence starts as Glambdar's does.
fn bad(why: impl std::fmt::Display) -> Error {
    let why = why.to_string();
    let plain = why.starts_with("illegal ") || why.starts_with("the archive ");
    Error::new(ErrorKind::BadArchive, if plain { why } else { format!("error opening zip: {why}") })
}

/// The sentence of AWS, with this server's limit.
pub(super) fn unzipped_too_large(most: u64) -> Error {
    let message = format!("Unzipped size must be smaller than {most} bytes");
    Error::new(ErrorKind::BadArchive, message).because(Reason::UnzippedSize)
}

fn zip_error(e: zip::result::ZipError) -> Error {
    bad("it is malformed").caused_by(e)
}

fn damaged(entry: &Entry, e: std::io::Error) -> Error {
    bad(format!("the entry {} is damaged", shown(&entry.name))).caused_by(e)
}

/// A name for a message: short, and nothing that a terminal obeys.
fn shown(raw: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(raw).chars().take(80).flat_map(char::escape_debug).collect();
    format!("'{text}'")
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
