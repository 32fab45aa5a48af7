//! The control plane: what is deployed. Every verb is atomic and durable when it returns; reads never touch the disk.
//!
//! It never starts, stops or waits for an instance, and removes code only when `collect_garbage` is called.

pub(crate) mod archive;
pub(crate) mod code;
mod config;
mod detect;
pub(crate) mod store;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::ops::Bound;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use offshoot_model::{
    CodeDigest, Convention, Error, ErrorKind, FunctionConfig, FunctionName, Limits, MiB, Millis, Network, RuntimeName,
};
use rustix::fs::FlockOperation;
use serde::Deserialize;
use tokio::sync::broadcast;

use crate::catalog::Shelf;
use crate::catalog::types::Fields;
use crate::runtime::RuntimeTable;
use archive::Wrapping;
use code::CodeStore;
use store::{Count, Draft, Store, Stored};

/// What a deployment or a configuration change may set. `None` keeps what was, or takes the default for a new function.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Runtime name; without one, the newest present for the language that the code is written in.
    pub runtime: Option<RuntimeName>,
    /// `file.export`; without one, found from the files (`index.handler`, `lambda_function.lambda_handler`, …).
    pub handler: Option<String>,
    /// How the handler is called.
    pub convention: Option<Convention>,
    /// Memory limit in MiB.
    pub memory: Option<MiB>,
    /// Timeout in milliseconds.
    pub timeout: Option<Millis>,
    /// Environment, replaced as a whole.
    pub env: Option<BTreeMap<String, String>>,
    /// Network access.
    pub network: Option<Network>,
    /// CPU limit in cores; `Some(None)` takes back what was set.
    #[serde(deserialize_with = "given")]
    pub cpu: Option<Option<f64>>,
    /// Size of `/tmp` in MiB.
    pub tmp: Option<MiB>,
    /// Whether starts clone an initialised instance.
    pub snapshot: Option<bool>,
    /// Invocations that one instance serves at once.
    pub max_concurrency: Option<u32>,
    /// Invocations that the function runs at once; 0 removes the limit.
    pub concurrency: Option<u32>,
    /// Invocations per second; 0 = no limit.
    pub rate_limit: Option<u32>,
    /// How long an idle instance is kept, in milliseconds; `Some(None)` takes back what was set.
    #[serde(deserialize_with = "given")]
    pub keep_alive: Option<Option<Millis>>,
}

/// A member that is there, be it `null`.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

/// A deployment: an archive on disk, the function's name, and what to set.
#[derive(Debug)]
pub struct DeployRequest {
    /// The uploaded zip, spooled by the caller, who also removes it.
    pub archive: PathBuf,
    /// The function's name.
    pub name: FunctionName,
    /// What to set.
    pub settings: Settings,
}

/// One deployed version of one function. Immutable; a redeployment makes another.
#[derive(Debug)]
pub struct Version {
    /// Its configuration.
    pub config: FunctionConfig,
    /// Counts every change of the function: code or configuration. Never reused, not even after delete and deploy.
    pub revision: u64,
    /// Its code.
    pub code: CodeDigest,
    /// Size of the uploaded archive in bytes.
    pub code_bytes: u64,
    /// When the function was first deployed, milliseconds since 1970.
    pub created_ms: u64,
    /// When this version was made, milliseconds since 1970.
    pub updated_ms: u64,
    /// Counters, shared by all versions of one function.
    pub stats: Arc<Stats>,
    /// Its number when it was published; `None` is `$LATEST`.
    pub number: Option<u64>,
    /// The tree that its instances see at `/opt`: its layers, laid over each other.
    pub opt: Option<CodeDigest>,
    /// What only AWS's dialect says of it. `None`: nobody used that dialect for this function.
    pub fields: Option<Arc<Fields>>,
}

impl Version {
    /// The version as AWS names it: `$LATEST` or a number.
    pub fn label(&self) -> String {
        self.number.map_or_else(|| "$LATEST".to_owned(), |n| n.to_string())
    }

    /// Whether its boxes show this tree of the code store.
    fn shows(&self, digest: &CodeDigest) -> bool {
        self.code == *digest || self.opt.as_ref() == Some(digest)
    }
}

/// Exact counters of one function; written to the store every second and at shutdown.
#[derive(Debug, Default)]
pub struct Stats {
    /// Invocations accepted.
    pub invocations: AtomicU64,
    /// When the last one was accepted, milliseconds since 1970; 0 = never.
    pub last_invoked_ms: AtomicU64,
    /// Invocations that run or wait now, over all versions.
    pub running: AtomicU32,
}

/// Uploads that are unpacked at once: each may fill a disk's queue and a core.
const UNPACKING: usize = 4;

/// Changes that a slow subscriber may lag behind before it is told to look at everything again.
const BACKLOG: usize = 1024;

/// What is deployed on this server.
#[derive(Debug)]
pub struct Registry {
    pub(crate) store: Store,
    pub(crate) code: CodeStore,
    pub(crate) limits: Limits,
    pub(crate) runtimes: Arc<RuntimeTable>,
    /// The current version of every function. Held for a map operation only, never over work.
    table: RwLock<HashMap<FunctionName, Arc<Version>>>,
    /// The names in the table, in order. Changed with it.
    order: RwLock<BTreeSet<FunctionName>>,
    /// What the catalogue keeps besides.
    pub(crate) shelf: Shelf,
    /// Versions that were replaced or deleted and may still be in somebody's hands.
    retired: Mutex<Vec<Weak<Version>>>,
    /// One lock per name that is being changed.
    changing: Mutex<HashMap<FunctionName, Weak<tokio::sync::Mutex<()>>>>,
    unpacking: Arc<tokio::sync::Semaphore>,
    changes: broadcast::Sender<FunctionName>,
    /// The counters as they were last written.
    flushed: Mutex<HashMap<FunctionName, (u64, u64)>>,
    /// Locked as long as this process uses the data directory.
    _lock: File,
}

impl Registry {
    /// Opens the registry in a data directory, which is made if it is not there. Blocks for some milliseconds.
    pub fn open(data_dir: &Path, limits: Limits, runtimes: Arc<RuntimeTable>) -> Result<Arc<Registry>, Error> {
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(disk_error)?;
        let lock = lock_directory(data_dir)?;
        let code = CodeStore::open(data_dir, limits.clone())?;
        // Code without a store means that the store was lost: a new, empty one would make garbage of everything.
        let store = Store::open(&data_dir.join("registry.db"), code.is_empty()?)?;
        let shelf = Shelf::read(store.documents()?)?;
        let versions = store.load()?.into_iter().map(|stored| {
            let (fields, opt) = shelf.fields_of(&stored.draft.config.name, stored.draft.created_ms);
            version_of(stored, fields, opt)
        });
        let table: HashMap<_, _> = versions.map(|v| (v.config.name.clone(), Arc::new(v))).collect();
        shelf.adopt(&table);
        let order = table.keys().cloned().collect();
        let flushed = table.values().map(|v| (v.config.name.clone(), v.stats.read())).collect();
        Ok(Arc::new(Registry {
            store,
            code,
            limits,
            runtimes,
            table: RwLock::new(table),
            order: RwLock::new(order),
            shelf,
            retired: Mutex::default(),
            changing: Mutex::default(),
            unpacking: Arc::new(tokio::sync::Semaphore::new(UNPACKING)),
            changes: broadcast::Sender::new(BACKLOG),
            flushed: Mutex::new(flushed),
            _lock: lock,
        }))
    }

    /// The current version of a function. Memory only.
    pub fn resolve(&self, name: &FunctionName) -> Option<Arc<Version>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The current version of every function, by name. Memory only.
    pub fn list(&self) -> Vec<Arc<Version>> {
        let mut all: Vec<_> = self.table.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        all
    }

    /// At most `limit` functions, by name, after this one. Memory only, and no more of it than the answer.
    pub fn page(&self, after: Option<&FunctionName>, limit: usize) -> Vec<Arc<Version>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        order.range((from, Bound::Unbounded)).filter_map(|name| table.get(name).cloned()).take(limit).collect()
    }

    /// Deploys an archive as a new function or as a new version of one. When it returns, the version is durable and current;
    /// when it fails, nothing changed. Runs to its end even if the caller stops waiting.
    pub async fn deploy(self: &Arc<Self>, request: DeployRequest) -> Result<Arc<Version>, Error> {
        self.deploy_if(request, |_| Ok(())).await
    }

    /// The same, if the version is accepted: `accept` sees it, with its code in the store, before anybody can call it. It may block, and
    /// other changes of the function wait for it.
    pub async fn deploy_if(
        self: &Arc<Self>,
        request: DeployRequest,
        accept: impl FnOnce(Arc<Version>) -> Result<(), Error> + Send + 'static,
    ) -> Result<Arc<Version>, Error> {
        let turn = self.turn_of(request.name.clone()).lock_owned().await;
        // After the name's turn, so that many deployments of one name do not keep the others from unpacking.
        let room = Arc::clone(&self.unpacking)
            .acquire_owned()
            .await
            .map_err(|e| internal("deployments have ended").caused_by(e))?;
        self.blocking(move |this| {
            let _held = turn; // given up when the work is done, not when the caller stops waiting
            this.deploy_now(&request, room, accept)
        })
        .await
    }

    /// Changes the configuration of a function. Settings that change nothing make no new version.
    pub async fn configure(self: &Arc<Self>, name: &FunctionName, settings: Settings) -> Result<Arc<Version>, Error> {
        let name = name.clone();
        self.change(name.clone(), move |this| this.configure_now(&name, &settings)).await
    }

    /// Deletes a function. Its code stays until `collect_garbage`; instances of it are their owner's business.
    pub async fn delete(self: &Arc<Self>, name: &FunctionName) -> Result<(), Error> {
        let name = name.clone();
        self.change(name.clone(), move |this| {
            this.require(&name)?;
            this.remove_now(&name)
        })
        .await
    }

    /// The directory that holds one directory per code digest.
    pub fn code_dir(&self) -> &Path {
        self.code.dir()
    }

    /// Makes sure that stored code is what was deployed, by hashing it once in this process's life. Once the answer is known, it
    /// is given without waiting.
    pub async fn verify_code(self: &Arc<Self>, digest: &CodeDigest) -> Result<(), Error> {
        if let Some(known) = self.code.verdict(digest) {
            return known;
        }
        let digest = digest.clone();
        self.blocking(move |this| this.code.verify(&digest)).await
    }

    /// Names of functions as they change: deployed, configured, deleted. Who lags is told so and looks at everything again.
    pub fn subscribe(&self) -> broadcast::Receiver<FunctionName> {
        self.changes.subscribe()
    }

    /// Writes the counters that moved since the last time, in one transaction. Blocks for a disk write if any did.
    pub fn flush_stats(&self) -> Result<(), Error> {
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = self.list();
        let moved: Vec<(&Arc<Version>, (u64, u64))> = versions
            .iter()
            .map(|v| (v, v.stats.read()))
            .filter(|(v, now)| flushed.get(&v.config.name).copied().unwrap_or_default() != *now)
            .collect();
        if moved.is_empty() {
            return Ok(());
        }
        let counts: Vec<Count> = moved
            .iter()
            .map(|(v, (invocations, last))| Count {
                name: &v.config.name,
                created_ms: v.created_ms,
                invocations: *invocations,
                last_invoked_ms: *last,
            })
            .collect();
        self.store.count(&counts)?;
        *flushed = versions
            .iter()
            .map(|v| (v.config.name.clone(), flushed.get(&v.config.name).copied().unwrap_or_default()))
            .collect();
        flushed.extend(moved.into_iter().map(|(v, now)| (v.config.name.clone(), now)));
        Ok(())
    }

    /// Removes code that no function refers to, that is not in `in_use` (instances stand on it), and of which nobody holds a
    /// `Version`. Answers how many trees were removed. Blocks.
    pub fn collect_garbage(&self, in_use: &HashSet<CodeDigest>) -> Result<usize, Error> {
        // What is referred to now is left alone at once; only the rest is asked for one by one, while nothing can change.
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let known: HashSet<CodeDigest> =
            table.values().flat_map(|v| [Some(v.code.clone()), v.opt.clone()]).flatten().collect();
        drop(table);
        self.code.collect(|digest| in_use.contains(digest) || known.contains(digest) || self.refers_to(digest))
    }

    fn deploy_now(
        &self,
        request: &DeployRequest,
        room: tokio::sync::OwnedSemaphorePermit,
        accept: impl FnOnce(Arc<Version>) -> Result<(), Error>,
    ) -> Result<Arc<Version>, Error> {
        let before = self.resolve(&request.name);
        self.code.check_upload(&request.archive)?;
        let staged = self.code.stage(&request.archive, Wrapping::Strip)?;
        let old = before.as_deref().map(|v| &v.config);
        let tree = staged.tree()?;
        let config = config::for_deploy(
            &request.name,
            &request.settings,
            old,
            &tree,
            staged.manifest.stripped.as_deref(),
            &self.runtimes,
        )?;
        config.validate(&self.limits)?;
        let (code, code_bytes) = (staged.digest.clone(), staged.manifest.archive_bytes);
        let kept = staged.commit()?;
        let mut change = Change::of(before.as_deref(), config);
        change.code = code;
        change.code_bytes = code_bytes;
        if let Some(fields) = &mut change.fields {
            fields.code_sha256 = None;
        }
        drop(room);
        let made = accept(Arc::new(candidate(&change))).and_then(|()| self.write(change, before.as_deref()));
        drop(kept); // not before the table refers to the code
        made
    }

    fn configure_now(&self, name: &FunctionName, settings: &Settings) -> Result<Arc<Version>, Error> {
        let before = self.require(name)?;
        let code =
            || -> Result<_, Error> { Ok((self.code.tree(&before.code)?, self.code.manifest(&before.code)?.stripped)) };
        let config = config::for_change(settings, &before.config, code, &self.runtimes)?;
        config.validate(&self.limits)?;
        if config == before.config {
            return Ok(before);
        }
        self.write(Change::of(Some(&before), config), Some(&before))
    }

    /// Removes a function and what the catalogue keeps of it.
    pub(crate) fn remove_now(&self, name: &FunctionName) -> Result<(), Error> {
        self.store.remove(name, &self.shelf.documents_of(name))?;
        self.publish(name, None);
        self.shelf.remove(name);
        Ok(())
    }

    /// Makes a version durable, then current. What the catalogue keeps of the function goes into the same transaction.
    pub(crate) fn write(&self, change: Change, before: Option<&Version>) -> Result<Arc<Version>, Error> {
        let Change { config, code, code_bytes, fields, opt, entry } = change;
        let now = now_ms();
        let created_ms = before.map_or(now, |v| v.created_ms);
        let draft = Draft { config, code, code_bytes, created_ms, updated_ms: now.max(created_ms) };
        let (entry, documents) = match &fields {
            Some(fields) => {
                let entry = self.shelf.with_fields(entry, &draft, fields, opt.as_ref());
                let documents = vec![crate::catalog::function_document(&draft.config.name, &entry.doc)?];
                (Some(entry), documents)
            }
            None => (None, Vec::new()),
        };
        let revision = self.store.put(&draft, &documents)?;
        let stored = Stored { draft, revision, invocations: 0, last_invoked_ms: 0 };
        let mut version = version_of(stored, fields.map(Arc::new), opt);
        if let Some(before) = before {
            version.stats = Arc::clone(&before.stats);
        }
        let version = Arc::new(version);
        if let Some(entry) = entry {
            self.shelf.put(&version.config.name, entry);
        }
        self.publish(&version.config.name, Some(Arc::clone(&version)));
        Ok(version)
    }

    /// Puts a version, or its absence, where `resolve` finds it, and tells the subscribers.
    fn publish(&self, name: &FunctionName, version: Option<Arc<Version>>) {
        // The old version is on the list of the retired before it leaves the table: its code is referred to at every instant.
        if let Some(old) = self.resolve(name) {
            let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.retain(|v| v.strong_count() > 0);
            retired.push(Arc::downgrade(&old));
        }
        let mut order = self.order.write().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match version {
            Some(version) => {
                if table.insert(name.clone(), version).is_none() {
                    order.insert(name.clone());
                }
            }
            None => {
                table.remove(name);
                order.remove(name);
            }
        }
        drop(table);
        drop(order);
        let _ = self.changes.send(name.clone()); // nobody may be listening
    }

    fn refers_to(&self, digest: &CodeDigest) -> bool {
        let current = self.table.read().unwrap_or_else(PoisonError::into_inner).values().any(|v| v.shows(digest));
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        current || retired.iter().filter_map(Weak::upgrade).any(|v| v.shows(digest)) || self.shelf.refers_to(digest)
    }

    pub(crate) fn require(&self, name: &FunctionName) -> Result<Arc<Version>, Error> {
        self.resolve(name).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no function is named '{name}'")))
    }

    /// Runs a change of one function off the async threads, after earlier changes of the same function.
    pub(crate) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        name: FunctionName,
        work: impl FnOnce(&Arc<Registry>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.turn_of(name).lock_owned().await;
        self.blocking(move |this| {
            let _turn = turn; // as in `deploy`
            work(this)
        })
        .await
    }

    fn turn_of(&self, name: FunctionName) -> Arc<tokio::sync::Mutex<()>> {
        let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        changing.retain(|_, lock| lock.strong_count() > 0);
        if let Some(turn) = changing.get(&name).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        changing.insert(name, Arc::downgrade(&turn));
        turn
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Registry>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.unwrap_or_else(|e| Err(internal("the registry stopped in the middle of a change").caused_by(e)))
    }
}

impl Stats {
    fn read(&self) -> (u64, u64) {
        (self.invocations.load(Ordering::Relaxed), self.last_invoked_ms.load(Ordering::Relaxed))
    }
}

/// What a change makes of a function.
pub(crate) struct Change {
    /// Its configuration.
    pub config: FunctionConfig,
    /// Its code.
    pub code: CodeDigest,
    /// Bytes of its archive.
    pub code_bytes: u64,
    /// What AWS's dialect says of it, if anything.
    pub fields: Option<Fields>,
    /// Its merged layers.
    pub opt: Option<CodeDigest>,
    /// What the catalogue keeps of it, when that changes too.
    pub entry: Option<crate::catalog::types::Entry>,
}

impl Change {
    /// A change of the configuration alone. Code and the rest are those of the version before, or empty.
    pub fn of(before: Option<&Version>, config: FunctionConfig) -> Change {
        Change {
            config,
            code: before.map_or_else(|| CodeDigest::from_bytes(&[0; 32]), |v| v.code.clone()),
            code_bytes: before.map_or(0, |v| v.code_bytes),
            fields: before.and_then(|v| v.fields.as_deref().cloned()),
            opt: before.and_then(|v| v.opt.clone()),
            entry: None,
        }
    }
}

/// What a change is going to be, for those who judge it: nobody can call it, and it has no revision yet.
fn candidate(change: &Change) -> Version {
    let now = now_ms();
    let draft = Draft {
        config: change.config.clone(),
        code: change.code.clone(),
        code_bytes: change.code_bytes,
        created_ms: now,
        updated_ms: now,
    };
    let stored = Stored { draft, revision: 0, invocations: 0, last_invoked_ms: 0 };
    version_of(stored, change.fields.clone().map(Arc::new), change.opt.clone())
}

fn version_of(stored: Stored, fields: Option<Arc<Fields>>, opt: Option<CodeDigest>) -> Version {
    let Stored { draft, revision, invocations, last_invoked_ms } = stored;
    let stats = Stats {
        invocations: AtomicU64::new(invocations),
        last_invoked_ms: AtomicU64::new(last_invoked_ms),
        running: AtomicU32::new(0),
    };
    Version {
        config: draft.config,
        revision,
        code: draft.code,
        code_bytes: draft.code_bytes,
        created_ms: draft.created_ms,
        updated_ms: draft.updated_ms,
        stats: Arc::new(stats),
        number: None,
        opt,
        fields,
    }
}

/// One server per data directory: a second one would throw away what the first is unpacking.
fn lock_directory(data_dir: &Path) -> Result<File, Error> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(data_dir.join("lock")).map_err(disk_error)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
        if e != rustix::io::Errno::WOULDBLOCK {
            return disk_error(e);
        }
        let message = format!(
            "another Offshoot server uses the data directory {}: stop it, or give this one a directory of its own with data_dir",
            data_dir.display()
        );
        Error::new(ErrorKind::Store, message)
    })?;
    Ok(file)
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The disk's fault, in words that are about the data directory.
pub(crate) fn disk_error(e: impl Into<std::io::Error>) -> Error {
    let e = e.into();
    let message = match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "there is no room left for the data directory: free some and try again"
        }
        _ => "the data directory cannot be read or written: see the server's log",
    };
    Error::new(ErrorKind::Store, message).caused_by(e)
}

fn internal(what: &str) -> Error {
    Error::new(ErrorKind::Internal, what)
}

#[cfg(test)]
mod tests;
