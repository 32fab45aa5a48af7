//! The catalogue: what AWS's dialect knows of functions besides what runs — published versions, aliases, layers, policies,
//! URLs, and the settings around them — with the rules that hold between these things.
//!
//! Everything is durable in the registry's store when a verb returns, and read from memory afterwards. It never speaks HTTP
//! and never starts an instance: what has to be made ready is told to the node through a queue.

mod aliases;
mod functions;
mod layers;
mod mappings;
mod patch;
pub mod policy;
mod settings;
mod signing;
pub mod types;
mod vpc;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use offshoot_model::{CodeDigest, Error, ErrorKind, FunctionName, Place, RequestId};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::registry::store::{Document, Draft, StoredDocument};
use crate::registry::{Registry, Version, now_ms};
use crate::sources::Board;
pub use functions::{Code, FIRST, NewFunction, Progress, RUNTIMES, View};
pub use layers::{LayerContent, NewLayer};
pub use mappings::MappingView;
pub use patch::{DurablePatch, Patch};
pub(crate) use settings::number_of;
pub use settings::{ProvisionedView, UrlChange, UrlView};
pub use signing::{SigningChange, SigningView};
use types::{Entry, Fields, FunctionDoc, Layer, Mapping, Published, PublishedDoc, SigningConfig};

/// Why a verb of the catalogue was refused.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A rule of the catalogue.
    Rule(Rule, String),
    /// The registry or the machine.
    Platform(Error),
}

/// Which kind of rule. Each is one error of AWS's dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A value does not fit.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// A value does not fit, in one of the checks whose answer has no `Type` (recorded from AWS).
    Untyped,
    /// It is there already, or something else stands in the way.
    Conflict,
    /// The revision that the caller knows is not the latest.
    Precondition,
    /// An archive or a request is too large.
    TooLarge,
    /// A policy would be longer than 20 KB.
    PolicyTooLong,
    /// No provisioned concurrency is configured.
    NoProvisioned,
    /// There is no such code signing configuration.
    NoSigning,
    /// A function was to hold to a code signing configuration that is not there.
    SigningGone,
    /// A code signing configuration lets no unsigned code in.
    Unsigned,
    /// This server does not do that.
    Unsupported,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Platform(error)
    }
}

/// A refusal of this kind.
pub(crate) fn fault(rule: Rule, message: impl Into<String>) -> Fault {
    Fault::Rule(rule, message.into())
}

/// Most aliases, URLs, policies and other settings of one function: its document is written as a whole.
const MAX_PER_FUNCTION: usize = 1000;
/// Document kinds in the store.
const FUNCTION: &str = "function";
const VERSION: &str = "version";
const LAYER: &str = "layer";
const MAPPING: &str = "mapping";
const SIGNING: &str = "signing";
/// The last number that was given to a version of a function that is no more.
const NUMBERS: &str = "numbers";
/// Most names of deleted functions whose numbers are remembered; of more, the longest gone are forgotten.
const MAX_GONE: usize = 100_000;

/// What is in memory of the catalogue. Maps are locked for a map operation only.
#[derive(Debug, Default)]
pub struct Shelf {
    functions: RwLock<HashMap<FunctionName, Arc<Entry>>>,
    /// Function and qualifier by the id of a URL.
    urls: RwLock<HashMap<String, (FunctionName, String)>>,
    layers: RwLock<BTreeMap<String, Arc<Layer>>>,
    mappings: RwLock<BTreeMap<String, Arc<Mapping>>>,
    signing: RwLock<BTreeMap<String, SigningConfig>>,
    /// Deleted functions that had published versions: AWS never gives a number again.
    gone: RwLock<HashMap<FunctionName, Gone>>,
    /// Held while layers or mappings change.
    changing: Mutex<()>,
}

/// What is left of a deleted function.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Gone {
    last_version: u64,
    gone_ms: u64,
}

/// Whose numbers are forgotten so that there is room for this name's.
fn oldest(gone: &HashMap<FunctionName, Gone>, name: &FunctionName) -> Option<FunctionName> {
    if gone.len() < MAX_GONE || gone.contains_key(name) {
        return None;
    }
    gone.iter().min_by_key(|(_, g)| g.gone_ms).map(|(name, _)| name.clone())
}

fn unreadable(key: &str, e: impl std::fmt::Display) -> Error {
    let message = "the registry's store (registry.db in the data directory) holds a document that cannot be read: restore it \
                   from a backup, or start the version of Offshoot that wrote it";
    Error::new(ErrorKind::Store, message).caused_by(format!("{}: {e}", key.escape_debug()))
}

impl Shelf {
    /// Reads all documents.
    pub(crate) fn read(documents: Vec<StoredDocument>) -> Result<Shelf, Error> {
        let mut functions = HashMap::<FunctionName, Entry>::new();
        let (mut layers, mut mappings, mut signing, mut gone) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), HashMap::new());
        for StoredDocument { kind, key, text } in documents {
            let bad = |e: serde_json::Error| unreadable(&key, e);
            match kind.as_str() {
                FUNCTION => {
                    let doc: FunctionDoc = serde_json::from_str(&text).map_err(bad)?;
                    functions.entry(FunctionName::parse(&key)?).or_default().doc = doc;
                }
                VERSION => {
                    let doc: PublishedDoc = serde_json::from_str(&text).map_err(bad)?;
                    let (name, number) = key.split_once(':').ok_or_else(|| unreadable(&key, "no number"))?;
                    let number: u64 = number.parse().map_err(|e| unreadable(&key, e))?;
                    let published = published(number, doc, Arc::default());
                    functions.entry(FunctionName::parse(name)?).or_default().published.insert(number, published);
                }
                LAYER => drop(layers.insert(key.clone(), Arc::new(serde_json::from_str::<Layer>(&text).map_err(bad)?))),
                MAPPING => {
                    drop(mappings.insert(key.clone(), Arc::new(serde_json::from_str::<Mapping>(&text).map_err(bad)?)))
                }
                SIGNING => {
                    drop(signing.insert(key.clone(), serde_json::from_str::<SigningConfig>(&text).map_err(bad)?))
                }
                NUMBERS => {
                    gone.insert(FunctionName::parse(&key)?, serde_json::from_str::<Gone>(&text).map_err(bad)?);
                }
                // Of a kind that this version does not know: somebody else's.
                _ => {}
            }
        }
        let functions = functions.into_iter().map(|(name, entry)| (name, Arc::new(entry))).collect();
        Ok(Shelf {
            functions: RwLock::new(functions),
            layers: RwLock::new(layers),
            mappings: RwLock::new(mappings),
            signing: RwLock::new(signing),
            gone: RwLock::new(gone),
            ..Shelf::default()
        })
    }

    /// The stored fields of `$LATEST`.
    pub(crate) fn fields_of(&self, name: &FunctionName, created_ms: u64) -> (Option<Arc<Fields>>, Option<CodeDigest>) {
        match self.get(name).filter(|entry| entry.doc.created_ms == created_ms) {
            Some(entry) => (Some(Arc::new(entry.doc.fields.clone())), entry.doc.opt.clone()),
            None => (None, None),
        }
    }

    /// Lets published versions share the counters of their function, and forgets documents of functions that are not there.
    pub(crate) fn adopt(&self, table: &HashMap<FunctionName, Arc<Version>>) {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        functions.retain(|name, entry| table.get(name).is_some_and(|v| v.created_ms == entry.doc.created_ms));
        let mut urls = self.urls.write().unwrap_or_else(PoisonError::into_inner);
        for (name, entry) in functions.iter_mut() {
            for (qualifier, url) in &entry.doc.urls {
                urls.insert(url.id.clone(), (name.clone(), qualifier.clone()));
            }
            if let Some(latest) = table.get(name).filter(|_| !entry.published.is_empty()) {
                let adopted = entry
                    .published
                    .iter()
                    .map(|(n, p)| (*n, published(*n, p.doc.clone(), Arc::clone(&latest.stats))))
                    .collect();
                *entry = Arc::new(Entry { doc: entry.doc.clone(), published: adopted });
            }
        }
    }

    /// What is kept of a function, if anything.
    pub(crate) fn get(&self, name: &FunctionName) -> Option<Arc<Entry>> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// What will be kept of a function once this draft of it is current.
    pub(crate) fn with_fields(
        &self,
        entry: Option<Entry>,
        draft: &Draft,
        fields: &Fields,
        opt: Option<&CodeDigest>,
    ) -> Entry {
        let known = || self.get(&draft.config.name).map(|e| Entry::clone(&e)).unwrap_or_default();
        let mut entry = entry.unwrap_or_else(known);
        entry.doc.created_ms = draft.created_ms;
        entry.doc.fields = fields.clone();
        entry.doc.opt = opt.cloned();
        entry
    }

    pub(crate) fn put(&self, name: &FunctionName, entry: Entry) {
        let entry = Arc::new(entry);
        let before =
            self.functions.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), Arc::clone(&entry));
        if before.as_ref().is_some_and(|b| b.doc.urls == entry.doc.urls) {
            return;
        }
        let mut urls = self.urls.write().unwrap_or_else(PoisonError::into_inner);
        for url in before.iter().flat_map(|b| b.doc.urls.values()) {
            urls.remove(&url.id);
        }
        for (qualifier, url) in &entry.doc.urls {
            urls.insert(url.id.clone(), (name.clone(), qualifier.clone()));
        }
    }

    pub(crate) fn remove(&self, name: &FunctionName) {
        let before = self.functions.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(last_version) = before.as_ref().map(|b| b.doc.last_version).filter(|n| *n > 0) {
            let mut gone = self.gone.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(oldest) = oldest(&gone, name) {
                gone.remove(&oldest);
            }
            gone.insert(name.clone(), Gone { last_version, gone_ms: now_ms() });
        }
        let mut urls = self.urls.write().unwrap_or_else(PoisonError::into_inner);
        for url in before.iter().flat_map(|b| b.doc.urls.values()) {
            urls.remove(&url.id);
        }
    }

    /// The removal of everything that is stored of a function.
    pub(crate) fn documents_of(&self, name: &FunctionName) -> Vec<Document> {
        let Some(entry) = self.get(name) else { return Vec::new() };
        let gone = |kind, key| Document { kind, key, text: None };
        let versions = entry.published.keys().map(|n| gone(VERSION, format!("{name}:{n}")));
        let mut all: Vec<Document> = versions.chain([gone(FUNCTION, name.to_string())]).collect();
        if entry.doc.last_version > 0 {
            let numbers = Gone { last_version: entry.doc.last_version, gone_ms: now_ms() };
            all.extend(document(NUMBERS, name.to_string(), &numbers).ok());
            let known = self.gone.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(oldest(&known, name).map(|oldest| gone(NUMBERS, oldest.to_string())));
        }
        all
    }

    /// The last number that a version of this function, or of one of its name before it, has had.
    pub(crate) fn last_version(&self, name: &FunctionName) -> u64 {
        self.gone.read().unwrap_or_else(PoisonError::into_inner).get(name).map_or(0, |g| g.last_version)
    }

    /// Whether a published version or a layer stands on this code.
    pub(crate) fn refers_to(&self, digest: &CodeDigest) -> bool {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        let by_version = functions.values().any(|entry| {
            let layers = entry.doc.fields.layers.iter().any(|l| l.code == *digest);
            let versions = entry.published.values().any(|p| {
                p.doc.code == *digest
                    || p.doc.opt.as_ref() == Some(digest)
                    || p.doc.fields.layers.iter().any(|l| l.code == *digest)
            });
            layers || versions
        });
        drop(functions);
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        by_version || layers.values().any(|layer| layer.versions.values().any(|v| v.code == *digest))
    }
}

/// The document of a function.
pub(crate) fn function_document(name: &FunctionName, doc: &FunctionDoc) -> Result<Document, Error> {
    document(FUNCTION, name.to_string(), doc)
}

fn document(kind: &'static str, key: String, content: &impl serde::Serialize) -> Result<Document, Error> {
    let text = serde_json::to_string(content)
        .map_err(|e| Error::new(ErrorKind::Internal, "a document cannot be written").caused_by(e))?;
    Ok(Document { kind, key, text: Some(text) })
}

fn published(number: u64, doc: PublishedDoc, stats: Arc<crate::registry::Stats>) -> Arc<Published> {
    let version = Version {
        config: doc.config.clone(),
        revision: doc.revision,
        code: doc.code.clone(),
        code_bytes: doc.code_bytes,
        created_ms: doc.created_ms,
        updated_ms: doc.updated_ms,
        stats,
        number: Some(number),
        opt: doc.opt.clone(),
        fields: Some(Arc::new(doc.fields.clone())),
    };
    Arc::new(Published { version: Arc::new(version), doc })
}

/// A function whose change is durable and which is to be made ready.
#[derive(Debug)]
pub struct Made {
    /// Its name.
    pub name: FunctionName,
    /// The revision that was made.
    pub revision: u64,
}

/// The catalogue's verbs.
#[derive(Debug)]
pub struct Catalog {
    registry: Arc<Registry>,
    place: Place,
    /// Functions that are being made ready, and those where that failed.
    progress: Mutex<HashMap<FunctionName, Progress>>,
    made: mpsc::UnboundedSender<Made>,
    board: Arc<Board>,
}

impl Catalog {
    /// The catalogue of a registry, and the queue of what has to be made ready: whoever takes from it calls `settled`. One
    /// function is in it at most once, since it takes no other change meanwhile.
    pub fn new(registry: Arc<Registry>, place: Place) -> (Arc<Self>, mpsc::UnboundedReceiver<Made>) {
        let (made, queue) = mpsc::unbounded_channel();
        (Arc::new(Catalog { registry, place, progress: Mutex::default(), made, board: Arc::default() }), queue)
    }

    /// Where this server says that it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is known of event source mappings at work.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The role of a function, as it was given.
    pub(crate) fn role_of(&self, name: &FunctionName) -> String {
        self.entry(name).doc.fields.role.clone()
    }

    /// The registry below.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    fn entry(&self, name: &FunctionName) -> Arc<Entry> {
        self.registry.shelf.get(name).unwrap_or_else(|| Arc::new(self.fresh(name)))
    }

    /// What a function begins with.
    fn fresh(&self, name: &FunctionName) -> Entry {
        let mut entry = Entry::default();
        entry.doc.last_version = self.registry.shelf.last_version(name);
        entry
    }

    /// AWS's sentence for a function or version that is not there.
    pub fn missing(&self, name: &FunctionName, qualifier: Option<&str>) -> Fault {
        fault(Rule::NotFound, format!("Function not found: {}", self.place.function(name.as_str(), qualifier)))
    }

    fn latest(&self, name: &FunctionName) -> Result<Arc<Version>, Fault> {
        self.registry.resolve(name).ok_or_else(|| self.missing(name, None))
    }

    /// Changes what is kept of a function besides its versions: `work` gets a copy, which becomes durable and then current if
    /// it was changed. Changes of one function come one after another.
    async fn amend<T: Send + 'static>(
        self: &Arc<Self>,
        name: &FunctionName,
        work: impl FnOnce(&Catalog, &Version, &mut Entry) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (this, who) = (Arc::clone(self), name.clone());
        let done = self.registry.change(name.clone(), move |_| Ok(this.amend_now(&who, work)));
        done.await?
    }

    fn amend_now<T>(
        &self,
        name: &FunctionName,
        work: impl FnOnce(&Catalog, &Version, &mut Entry) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let latest = self.latest(name)?;
        let before = self.entry(name);
        let mut entry = Entry::clone(&before);
        let done = work(self, &latest, &mut entry)?;
        self.commit(name, &latest, &before, entry, Vec::new())?;
        Ok(done)
    }

    /// Makes a changed entry durable, with other documents that belong to the change, then current.
    fn commit(
        &self,
        name: &FunctionName,
        latest: &Version,
        before: &Entry,
        mut entry: Entry,
        mut documents: Vec<Document>,
    ) -> Result<(), Fault> {
        if entry.doc.created_ms != latest.created_ms {
            // The first thing that is kept of a function that another dialect deployed.
            entry.doc.created_ms = latest.created_ms;
            entry.doc.fields = latest.fields.as_deref().cloned().unwrap_or_default();
            entry.doc.opt = latest.opt.clone();
        }
        let doc = &entry.doc;
        for held in
            [doc.aliases.len(), doc.policies.len(), doc.urls.len(), doc.event_invoke.len(), doc.provisioned.len()]
        {
            if held > MAX_PER_FUNCTION {
                let message = format!("a function may have at most {MAX_PER_FUNCTION} of these");
                return Err(fault(Rule::Conflict, message));
            }
        }
        if entry.doc != before.doc {
            documents.push(function_document(name, &entry.doc)?);
        }
        if documents.is_empty() {
            return Ok(());
        }
        self.registry.store.write(&documents)?;
        self.registry.shelf.put(name, entry);
        Ok(())
    }
}

/// At most `limit` of a map's entries after this key.
fn page<K: Ord + Clone, V: Clone>(map: &BTreeMap<K, V>, after: Option<&K>, limit: usize) -> Vec<(K, V)> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    map.range((from, Bound::Unbounded)).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A stable identifier of a state, in a UUID's form: it changes when one of the parts does.
fn revision_id(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\n"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    RequestId::from_random(bytes).as_str().to_owned()
}

/// Compares the revision that a caller knows with the latest.
fn check_revision(known: Option<&str>, latest: &str, call: &str) -> Result<(), Fault> {
    if known.is_none_or(|k| k.is_empty() || k == latest) {
        return Ok(());
    }
    let message = format!(
        "The Revision Id provided does not match the latest Revision Id. Call the {call} API to retrieve the latest Revision Id"
    );
    Err(fault(Rule::Precondition, message))
}

fn random_uuid() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(ErrorKind::Internal, "no random numbers").caused_by(e))?;
    Ok(RequestId::from_random(bytes).as_str().to_owned())
}

#[cfg(test)]
mod tests;
