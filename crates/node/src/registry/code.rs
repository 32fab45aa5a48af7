//! The code store: every archive that was deployed, unpacked once, under the SHA-256 of the archive.
//!
//! `<data>/code/<digest>/` is a tree, `<data>/code.meta/<digest>.json` says what must be in it, `<data>/tmp/` holds what is
//! not finished, `<data>/archives/<digest>.zip` is the archive as it was uploaded. Making one is a row of steps, each of which leaves either nothing or the whole: unpack into `tmp`, sync,
//! write and rename the manifest, rename the tree, sync the directories. Stopped anywhere, the code is absent or complete.
//! A tree is never changed once it has its name, nothing is removed unless `collect` is told to, and this module does not
//! know what a function is.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use offshoot_model::{CodeDigest, Error, ErrorKind, Limits};
use rustix::fs::{CWD, FileType, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archive::{self, Node, Wrapping, hex};
use super::disk_error;
use super::tree::{Tree, sync_dir};

mod merge;

/// What a tree must hold. Made from the archive alone, so that the same archive always has the same manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    /// Size of the archive.
    pub archive_bytes: u64,
    /// The folder around everything that was left out.
    pub stripped: Option<String>,
    nodes: Vec<Node>,
}

const FORMAT: u32 = 1;

/// The verdict on one tree: given once per process.
type Verdict = Arc<OnceLock<Result<(), Error>>>;

/// The store.
#[derive(Debug)]
pub(crate) struct CodeStore {
    code: PathBuf,
    meta: PathBuf,
    archives: PathBuf,
    tmp: PathBuf,
    limits: Limits,
    /// Digests that a deployment is about to refer to; `collect` leaves them alone.
    pins: Mutex<HashMap<CodeDigest, usize>>,
    verdicts: Mutex<HashMap<CodeDigest, Verdict>>,
}

impl CodeStore {
    /// Opens the store, and clears what an earlier process left unfinished. The caller holds the lock on the data directory.
    pub fn open(data: &Path, limits: Limits) -> Result<CodeStore, Error> {
        let [code, meta, archives, tmp] = ["code", "code.meta", "archives", "tmp"].map(|name| data.join(name));
        for (dir, mode) in [(&code, 0o755), (&meta, 0o700), (&archives, 0o700), (&tmp, 0o700)] {
            fs::DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(disk_error)?;
        }
        sync_dir(data).map_err(disk_error)?;
        let store = CodeStore { code, meta, archives, tmp, limits, pins: Mutex::default(), verdicts: Mutex::default() };
        store.clear_unfinished()?;
        Ok(store)
    }

    /// The directory that holds one directory per digest.
    pub fn dir(&self) -> &Path {
        &self.code
    }

    /// Whether no code is here at all.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(fs::read_dir(&self.code).map_err(disk_error)?.next().is_none())
    }

    /// Whether an archive is small enough to have been uploaded as it is.
    pub fn check_upload(&self, archive: &Path) -> Result<(), Error> {
        let most = self.limits.zipped_bytes;
        let about = fs::metadata(archive).map_err(|e| not_a_zip("the upload cannot be read").caused_by(e))?;
        if about.len() >= most {
            return Err(Error::new(ErrorKind::TooLarge, format!("Zipped size must be smaller than {most} bytes")));
        }
        Ok(())
    }

    /// Unpacks an archive, or finds that it is here already. Nothing is visible before `commit`.
    pub fn stage(&self, archive: &Path, wrapping: Wrapping) -> Result<Staged<'_>, Error> {
        let mut file = File::open(archive).map_err(|e| not_a_zip("the upload cannot be read").caused_by(e))?;
        let about = file.metadata().map_err(disk_error)?;
        if !about.is_file() {
            return Err(not_a_zip("this is not a file"));
        }
        // Uploads are held to their own limit; what comes from S3 may be as large as what is unpacked from it.
        let most = self.limits.zipped_bytes.max(self.limits.unzipped_bytes);
        if about.len() >= most {
            return Err(archive::unzipped_too_large(most));
        }
        let (hash, size) = hash_of(&mut file).map_err(disk_error)?;
        let sha256 = CodeDigest::from_bytes(&hash);
        let digest = match wrapping {
            Wrapping::Keep if archive::wrapping(&file, &self.limits)?.is_some() => as_it_is(&sha256),
            _ => sha256.clone(),
        };
        let archive = Some((archive.to_owned(), file.try_clone().map_err(disk_error)?));
        let pin = self.pin(&digest);
        let present = self.code.join(digest.as_str()).symlink_metadata().is_ok();
        if present && self.verify(&digest).is_ok() {
            let manifest = self.manifest(&digest)?;
            let (fresh, replaces) = (None, false);
            return Ok(Staged { store: self, digest, sha256, manifest, archive, fresh, replaces, _pin: pin });
        }
        let (fresh, tree) = self.fresh()?;
        let unpacked = archive::unpack(&file, &tree, &self.limits, wrapping)?;
        let manifest =
            Manifest { format: FORMAT, archive_bytes: size, stripped: unpacked.stripped, nodes: unpacked.nodes };
        let (fresh, replaces) = (Some(fresh), present);
        Ok(Staged { store: self, digest, sha256, manifest, archive, fresh, replaces, _pin: pin })
    }

    /// The archive that this code was uploaded as, when it is here: code that an older server stored has none.
    pub fn archive(&self, digest: &CodeDigest) -> Option<PathBuf> {
        Some(self.archive_path(digest)).filter(|path| path.is_file())
    }

    fn archive_path(&self, digest: &CodeDigest) -> PathBuf {
        self.archives.join(format!("{digest}.zip"))
    }

    /// The manifest of stored code.
    pub fn manifest(&self, digest: &CodeDigest) -> Result<Manifest, Error> {
        let bytes = fs::read(self.manifest_path(digest))
            .map_err(|e| corrupt(digest, "its manifest cannot be read").caused_by(e))?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| corrupt(digest, "its manifest is damaged").caused_by(e))?;
        if manifest.format == FORMAT {
            Ok(manifest)
        } else {
            Err(corrupt(digest, "its manifest was written by a newer Offshoot"))
        }
    }

    /// The tree of stored code.
    pub(in crate::registry) fn tree(&self, digest: &CodeDigest) -> Result<Tree, Error> {
        Tree::open(&self.code.join(digest.as_str())).map_err(|e| corrupt(digest, "it is missing").caused_by(e))
    }

    /// Compares every file with the manifest, once per process; later calls repeat the answer.
    pub fn verify(&self, digest: &CodeDigest) -> Result<(), Error> {
        let verdict = Arc::clone(lock(&self.verdicts).entry(digest.clone()).or_default());
        verdict.get_or_init(|| compare(&self.tree(digest)?, &self.manifest(digest)?, digest)).clone()
    }

    /// The answer of `verify`, if it was given already.
    pub fn verdict(&self, digest: &CodeDigest) -> Option<Result<(), Error>> {
        lock(&self.verdicts).get(digest)?.get().cloned()
    }

    /// Removes code that nobody wants. `wanted` is asked while no deployment can start to refer to the code in question.
    pub fn collect(&self, wanted: impl Fn(&CodeDigest) -> bool) -> Result<usize, Error> {
        let mut removed = 0;
        for digest in self.stored()? {
            let trash = self.tmp.join(random_name()?);
            {
                let pins = lock(&self.pins);
                if pins.contains_key(&digest) || wanted(&digest) {
                    continue;
                }
                // The tree first: a manifest without a tree is nothing, a tree without a manifest would be damaged code.
                match fs::rename(self.code.join(digest.as_str()), &trash) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(disk_error(e)),
                    renamed => removed += usize::from(renamed.is_ok()),
                }
                lock(&self.verdicts).remove(&digest);
                sync_dir(&self.code)
                    .and_then(|()| remove(&self.manifest_path(&digest)))
                    .and_then(|()| remove(&self.archive_path(&digest)))
                    .map_err(disk_error)?;
            }
            remove(&trash).map_err(disk_error)?;
        }
        Ok(removed)
    }

    /// Every digest that has a tree, a manifest or an archive.
    fn stored(&self) -> Result<Vec<CodeDigest>, Error> {
        let mut found = Vec::new();
        for dir in [&self.code, &self.meta, &self.archives] {
            for entry in fs::read_dir(dir).map_err(disk_error)? {
                let name = entry.map_err(disk_error)?.file_name().to_string_lossy().into_owned();
                found.extend(CodeDigest::try_from(name.trim_end_matches(".json").trim_end_matches(".zip").to_owned()));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn manifest_path(&self, digest: &CodeDigest) -> PathBuf {
        self.meta.join(format!("{digest}.json"))
    }

    /// A new empty tree that disappears unless it is kept.
    fn fresh(&self) -> Result<(Fresh, Tree), Error> {
        let path = self.tmp.join(random_name()?);
        let tree = Tree::create(&path).map_err(disk_error)?;
        Ok((Fresh { path }, tree))
    }

    /// Removes in the background what was unfinished when this process started; new names are random and never among them.
    fn clear_unfinished(&self) -> Result<(), Error> {
        let left: Vec<PathBuf> =
            fs::read_dir(&self.tmp).map_err(disk_error)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
        if left.is_empty() {
            return Ok(());
        }
        let clear = move || {
            for path in left {
                if let Err(e) = remove(&path) {
                    tracing::warn!(error = %e, "an unfinished deployment of an earlier run cannot be removed");
                }
            }
        };
        std::thread::Builder::new().name("clear-unfinished".into()).spawn(clear).map_err(disk_error)?;
        Ok(())
    }

    fn pin(&self, digest: &CodeDigest) -> Pin<'_> {
        *lock(&self.pins).entry(digest.clone()).or_default() += 1;
        Pin { store: self, digest: digest.clone() }
    }
}

/// Code that is ready to be stored, or stored already. Dropped without `commit`, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    store: &'a CodeStore,
    /// The address.
    pub digest: CodeDigest,
    /// Of the archive. The address too, except for an archive that was unpacked with the folder around everything.
    pub sha256: CodeDigest,
    /// What is in it.
    pub manifest: Manifest,
    /// The upload, by its name and open; `None` for a tree that was not made of one.
    archive: Option<(PathBuf, File)>,
    fresh: Option<Fresh>,
    /// The stored tree is damaged and this one takes its place.
    replaces: bool,
    _pin: Pin<'a>,
}

impl<'a> Staged<'a> {
    /// The tree, wherever it is now.
    pub(in crate::registry) fn tree(&self) -> Result<Tree, Error> {
        match &self.fresh {
            Some(fresh) => Tree::open(&fresh.path).map_err(disk_error),
            None => self.store.tree(&self.digest),
        }
    }

    /// Stores the code. When this returns, it is on stable storage; until the answer is dropped, `collect` leaves it alone.
    pub fn commit(mut self) -> Result<Kept<'a>, Error> {
        self.keep_archive()?;
        if let Some(fresh) = self.fresh.take() {
            let tree = Tree::open(&fresh.path).map_err(disk_error)?;
            tree.sync(self.synced().into_iter()).map_err(disk_error)?;
            self.write_manifest()?;
            self.name(fresh)?;
            sync_dir(&self.store.code).map_err(disk_error)?;
        }
        Ok(Kept { _pin: self._pin })
    }

    /// Keeps the upload beside the code. On one file system it is a second name for the same bytes, elsewhere a copy; also
    /// when whoever brought it has gone, and its name with them.
    fn keep_archive(&mut self) -> Result<(), Error> {
        let Some((archive, mut file)) = self.archive.take() else { return Ok(()) };
        let place = self.store.archive_path(&self.digest);
        if place.is_file() {
            return Ok(());
        }
        let draft = Fresh { path: self.store.tmp.join(random_name()?) };
        if fs::hard_link(archive, &draft.path).is_err() {
            let mut copy = File::create_new(&draft.path).map_err(disk_error)?;
            file.rewind().and_then(|()| std::io::copy(&mut file, &mut copy)).map_err(disk_error)?;
        }
        File::open(&draft.path).and_then(|file| file.sync_all()).map_err(disk_error)?;
        fs::rename(&draft.path, &place).map_err(disk_error)?;
        sync_dir(&self.store.archives).map_err(disk_error)
    }

    fn synced(&self) -> Vec<&str> {
        self.manifest.nodes.iter().filter(|n| !matches!(n, Node::Link { .. })).map(Node::path).collect()
    }

    fn write_manifest(&self) -> Result<(), Error> {
        let text = serde_json::to_vec(&self.manifest)
            .map_err(|e| Error::new(ErrorKind::Internal, "a manifest cannot be written").caused_by(e))?;
        let draft = Fresh { path: self.store.tmp.join(random_name()?) };
        let mut file = File::create_new(&draft.path).map_err(disk_error)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(disk_error)?;
        fs::rename(&draft.path, self.store.manifest_path(&self.digest)).map_err(disk_error)?;
        sync_dir(&self.store.meta).map_err(disk_error)
    }

    /// Gives the tree its name. Somebody may have stored the same archive meanwhile: then theirs is as good.
    fn name(&self, fresh: Fresh) -> Result<(), Error> {
        let place = self.store.code.join(self.digest.as_str());
        let flags = if self.replaces { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, &fresh.path, CWD, &place, flags) {
            Ok(()) => {
                let verdict = Verdict::default();
                let _ = verdict.set(Ok(())); // it is what was just hashed
                lock(&self.store.verdicts).insert(self.digest.clone(), verdict);
                // After an exchange this is the damaged tree. An instance may still stand on it: the next start removes it.
                fresh.keep();
                Ok(())
            }
            Err(Errno::EXIST) => self.store.verify(&self.digest),
            Err(e) => Err(disk_error(e)),
        }
    }
}

/// Stored code that is not referred to yet, kept from `collect`.
#[derive(Debug)]
pub(crate) struct Kept<'a> {
    _pin: Pin<'a>,
}

#[derive(Debug)]
struct Pin<'a> {
    store: &'a CodeStore,
    digest: CodeDigest,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = lock(&self.store.pins);
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

/// Something in `tmp` that is removed unless it is kept.
#[derive(Debug)]
struct Fresh {
    path: PathBuf,
}

impl Fresh {
    fn keep(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty()
            && let Err(e) = remove(&self.path)
        {
            tracing::warn!(error = %e, "an unfinished deployment cannot be removed; the next start tries again");
        }
    }
}

/// Compares a tree with its manifest: nothing missing, nothing changed, nothing more.
fn compare(tree: &Tree, manifest: &Manifest, digest: &CodeDigest) -> Result<(), Error> {
    let mut in_dir: HashMap<&str, usize> = HashMap::from([("", 0)]);
    for node in &manifest.nodes {
        let path = node.path();
        let same = same_node(tree, node).unwrap_or(false);
        if !same {
            return Err(corrupt(digest, &format!("'{}' is not what was deployed", path.escape_debug())));
        }
        *in_dir.entry(path.rsplit_once('/').map_or("", |(dir, _)| dir)).or_default() += 1;
        if let Node::Dir { path } = node {
            in_dir.entry(path).or_default();
        }
    }
    for (dir, count) in in_dir {
        if tree.names(dir).map(|names| names.len()) != Ok(count) {
            return Err(corrupt(
                digest,
                &format!("the directory '{}' holds something else than was deployed", dir.escape_debug()),
            ));
        }
    }
    Ok(())
}

fn same_node(tree: &Tree, node: &Node) -> std::io::Result<bool> {
    let (file_type, mode) = tree.stat(node.path())?;
    Ok(match node {
        Node::Dir { .. } => file_type == FileType::Directory && mode == 0o755,
        Node::Link { path, target } => file_type == FileType::Symlink && tree.link_target(path)? == target.as_bytes(),
        Node::File { path, mode: wanted, size, sha256 } => {
            if file_type != FileType::RegularFile || mode != *wanted {
                return Ok(false);
            }
            let Some(mut file) = tree.open_file(path)? else { return Ok(false) };
            let (hash, len) = hash_of(&mut file)?;
            len == *size && hex(&hash) == *sha256
        }
    })
}

fn hash_of(file: &mut File) -> std::io::Result<([u8; 32], u64)> {
    let mut hash = Sha256::new();
    let mut size = 0u64;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok((hash.finalize().into(), size)),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hash.update(&buffer[..n]);
        size += n as u64;
    }
}

/// The address of an archive that was unpacked with the folder around everything, which is another tree than without it.
fn as_it_is(sha256: &CodeDigest) -> CodeDigest {
    CodeDigest::from_bytes(&Sha256::digest(format!("as it is {sha256}")).into())
}

fn corrupt(digest: &CodeDigest, what: &str) -> Error {
    let short = &digest.as_str()[..12];
    Error::new(
        ErrorKind::CodeCorrupt,
        format!("the stored code {short}… is damaged and is not run: {what}; deploy the function again"),
    )
}

fn not_a_zip(why: &str) -> Error {
    Error::new(ErrorKind::BadArchive, format!("error opening zip: {why}"))
}

/// Removes a file or a whole directory; one that is gone already is fine.
fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    removed.or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

fn random_name() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(ErrorKind::Internal, "no random numbers").caused_by(e))?;
    Ok(hex(&bytes))
}

/// The maps behind these locks are valid after every statement, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
