//! Functions and their versions as AWS's dialect sees them: create, change, publish, delete, list, and which version a
//! qualifier means.
//!
//! What a function runs is written by the registry; here is what AWS adds to it. Nothing here waits for an instance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use offshoot_model::{
    CodeDigest, Convention, Error, ErrorKind, FunctionConfig, FunctionName, MiB, Millis, Network, Reason, RuntimeName,
    SandboxKind,
};

use super::patch::{Patch, check_env, made_durable, over, still_durable};
use super::types::{Entry, Fields, LayerUse, Published, PublishedDoc};
use super::{
    Catalog, Fault, Made, Rule, VERSION, check_revision, document, fault, now_ms, page, published, revision_id,
};
use crate::registry::archive::Wrapping;
use crate::registry::{Change, Registry, Version};

/// The chance that picks the version that an alias names first.
pub const FIRST: f64 = 1.0;
/// Most layers of a function (AWS: 5).
const MAX_LAYERS: usize = 5;
/// What AWS takes as a runtime, in the order in which its refusals name them (recorded from AWS).
pub const RUNTIMES: &[&str] = &[
    "nodejs20.x",
    "python3.14",
    "provided.al2023",
    "python3.12",
    "python3.13",
    "nodejs24.x",
    "nodejs22.x",
    "java25",
    "python3.10",
    "python3.11",
    "java21",
    "ruby3.3",
    "ruby3.4",
    "ruby3.2",
    "python3.8",
    "python3.9",
    "java17",
    "nodejs16.x",
    "dotnet10",
    "dotnet8",
    "java11",
    "dotnet6",
    "nodejs18.x",
    "provided.al2",
    "java8.al2",
];
/// What AWS once took as a runtime, and refuses by name today (recorded from AWS).
const RETIRED_RUNTIMES: &[&str] =
    &["java8", "go1.x", "provided", "ruby2.7", "nodejs14.x", "python3.7", "dotnetcore3.1", "nodejs12.x"];
/// Most tags of a resource (AWS: 50).
pub(super) const MAX_TAGS: usize = 50;

/// Code that comes with a change.
#[derive(Debug)]
pub struct Code {
    /// The uploaded zip, spooled by the caller, who also removes it.
    pub archive: PathBuf,
    /// `x86_64` or `arm64`.
    pub architecture: Option<String>,
}

/// A function to be made.
#[derive(Debug)]
pub struct NewFunction {
    /// Its name.
    pub name: FunctionName,
    /// Its settings.
    pub patch: Patch,
    /// Its code.
    pub code: Code,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether version 1 is published at once.
    pub publish: bool,
    /// The code signing configuration that its code must satisfy, by its id.
    pub signing: Option<String>,
}

/// Whether the latest change is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A new function is being made ready.
    Creating(u64),
    /// A change is being made ready.
    Updating(u64),
    /// The change is in force, but the function could not be made ready.
    Failed(u64, String),
}

/// One version of a function, with what is known of it at this moment.
#[derive(Debug, Clone)]
pub struct View {
    /// What runs.
    pub version: Arc<Version>,
    /// Its fields; defaults for a function that another dialect deployed.
    pub fields: Fields,
    /// Whether it is ready. `None`: it is.
    pub progress: Option<Progress>,
    /// Changes with every change.
    pub revision_id: String,
    /// SHA-256 of the uploaded archive.
    pub code_sha256: CodeDigest,
    /// Tags of the function.
    pub tags: BTreeMap<String, String>,
    /// Reserved concurrency of the function.
    pub reserved: Option<u32>,
}

impl Catalog {
    /// Makes a function. It is durable when this returns, and ready when its progress has ended.
    pub async fn create(self: &Arc<Self>, mut new: NewFunction) -> Result<View, Fault> {
        new.patch.vpc = self.find_vpc(new.patch.vpc.take()).await?;
        let this = Arc::clone(self);
        let done = self.registry.change(new.name.clone(), move |registry| Ok(this.create_now(registry, &new)));
        done.await?
    }

    fn create_now(&self, registry: &Registry, new: &NewFunction) -> Result<View, Fault> {
        check_tags(&new.tags)?;
        self.lets_code_in(new.signing.as_deref())?;
        let need = |what: &str| {
            fault(
                Rule::Invalid,
                format!(
                    "Runtime and Handler are mandatory parameters for functions created with deployment packages. ({what} is missing)"
                ),
            )
        };
        let base = FunctionConfig {
            name: new.name.clone(),
            runtime: self.runtime(new.patch.runtime.as_deref().ok_or_else(|| need("Runtime"))?)?,
            handler: new.patch.handler.clone().ok_or_else(|| need("Handler"))?,
            convention: Convention::Event,
            memory: MiB(128),
            timeout: Millis(3_000),
            env: BTreeMap::new(),
            sandbox: SandboxKind::Process,
            network: Network::None,
            cpu: None,
            tmp: MiB(512),
            snapshot: false,
            max_concurrency: 1,
            concurrency: None,
            rate_limit: 0,
            keep_alive: None,
        };
        let (config, mut fields, layers) = self.apply(&new.patch, base, Fields::default())?;
        if registry.resolve(&new.name).is_some() {
            return Err(fault(Rule::Conflict, format!("Function already exist: {}", new.name)));
        }
        fields.architecture = new.code.architecture.clone().unwrap_or(fields.architecture);
        fields.durable = new.patch.durable.map(made_durable).transpose()?;
        let mut entry = self.fresh(&new.name);
        entry.doc.tags = new.tags.clone();
        entry.doc.signing = new.signing.clone();
        let written = self.write_code(registry, &new.code, config, fields, layers, Some(entry), None)?;
        let progress = Progress::Creating(written.revision);
        let version = if new.publish { self.publish_now(&new.name, None)?.version.clone() } else { written.clone() };
        Ok(self.begin(&written, progress, &version))
    }

    /// Replaces a function's code. With `dry_run` everything is checked and nothing is changed.
    pub async fn update_code(
        self: &Arc<Self>,
        name: &FunctionName,
        code: Code,
        publish: bool,
        dry_run: bool,
        known: Option<String>,
    ) -> Result<View, Fault> {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = self.registry.change(name.clone(), move |registry| {
            Ok(this.update_code_now(registry, &name, &code, publish, dry_run, known.as_deref()))
        });
        done.await?
    }

    fn update_code_now(
        &self,
        registry: &Registry,
        name: &FunctionName,
        code: &Code,
        publish: bool,
        dry_run: bool,
        known: Option<&str>,
    ) -> Result<View, Fault> {
        let before = self.changeable(name, known)?;
        self.lets_code_in(self.entry(name).doc.signing.as_deref())?;
        let mut fields = before.fields.as_deref().cloned().unwrap_or_default();
        fields.architecture = code.architecture.clone().unwrap_or(fields.architecture);
        if dry_run {
            let staged = registry.code.stage(&code.archive, Wrapping::Keep).map_err(bad_code)?;
            let mut view = self.view(&before);
            (view.code_sha256, view.fields) = (staged.sha256.clone(), fields);
            return Ok(view);
        }
        let layers = fields.layers.clone();
        let config = before.config.clone();
        let written = self.write_code(registry, code, config, fields, layers, None, Some(&before))?;
        let version = if publish { self.publish_now(name, None)?.version.clone() } else { written.clone() };
        Ok(self.begin(&written, Progress::Updating(written.revision), &version))
    }

    /// Changes a function's settings.
    pub async fn update_configuration(
        self: &Arc<Self>,
        name: &FunctionName,
        mut patch: Patch,
        known: Option<String>,
    ) -> Result<View, Fault> {
        patch.vpc = self.find_vpc(patch.vpc.take()).await?;
        let (this, name) = (Arc::clone(self), name.clone());
        let done = self.registry.change(name.clone(), move |registry| {
            Ok(this.update_configuration_now(registry, &name, &patch, known.as_deref()))
        });
        done.await?
    }

    fn update_configuration_now(
        &self,
        registry: &Registry,
        name: &FunctionName,
        patch: &Patch,
        known: Option<&str>,
    ) -> Result<View, Fault> {
        let before = self.changeable(name, known)?;
        let mut base = before.config.clone();
        if let Some(runtime) = &patch.runtime {
            base.runtime = self.runtime(runtime)?;
        }
        base.handler = patch.handler.clone().unwrap_or(base.handler);
        let fields = before.fields.as_deref().cloned().unwrap_or_default();
        let (config, mut fields, layers) = self.apply(patch, base, fields)?;
        fields.durable = still_durable(fields.durable, patch.durable)?;
        let (opt, kept) = self.merge(registry, &before.code, &layers)?;
        fields.layers = layers;
        let mut change = Change::of(Some(&before), config);
        (change.fields, change.opt) = (Some(fields), opt);
        let written = registry.write(change, Some(&before))?;
        drop(kept);
        Ok(self.begin(&written, Progress::Updating(written.revision), &written))
    }

    /// Deletes a function, or one published version of it.
    pub async fn delete_version(self: &Arc<Self>, name: &FunctionName, number: u64) -> Result<(), Fault> {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = self.registry.change(name.clone(), move |_| Ok(this.delete_version_now(&name, number)));
        done.await?
    }

    fn delete_version_now(&self, name: &FunctionName, number: u64) -> Result<(), Fault> {
        let latest = self.latest(name)?;
        let before = self.entry(name);
        let mut entry = Entry::clone(&before);
        let text = number.to_string();
        if let Some((alias, _)) =
            entry.doc.aliases.iter().find(|(_, a)| a.function_version == text || a.weights.contains_key(&text))
        {
            let message = format!("Version {number} of the function is pointed to by the alias {alias}");
            return Err(fault(Rule::Conflict, message));
        }
        if entry.published.remove(&number).is_none() {
            return Ok(());
        }
        let doc = &mut entry.doc;
        doc.policies.remove(&text);
        doc.event_invoke.remove(&text);
        doc.provisioned.remove(&text);
        doc.runtime_management.remove(&text);
        let gone = super::Document { kind: VERSION, key: format!("{name}:{number}"), text: None };
        self.commit(name, &latest, &before, entry, vec![gone])?;
        // Nobody waits for this: its instances end when they are idle.
        let _ = self.made.send(Made { name: name.clone(), revision: 0 });
        Ok(())
    }

    /// Publishes the function as it is now. Where nothing changed since the last time, that version is the answer.
    pub async fn publish(
        self: &Arc<Self>,
        name: &FunctionName,
        description: Option<String>,
        code_sha256: Option<String>,
        known: Option<String>,
    ) -> Result<View, Fault> {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = self.registry.change(name.clone(), move |_| {
            Ok(this.changeable(&name, known.as_deref()).and_then(|latest| {
                let actual = base64_of(&sha256_of(&latest));
                if let Some(wanted) = code_sha256.filter(|w| *w != actual) {
                    let message = format!(
                        "CodeSHA256 ({wanted}) is different from current CodeSHA256 in $LATEST ({actual}). Please try again with the CodeSHA256 in $LATEST."
                    );
                    return Err(fault(Rule::Invalid, message));
                }
                let published = this.publish_now(&name, description)?;
                Ok(this.view(&published.version))
            }))
        });
        done.await?
    }

    fn publish_now(&self, name: &FunctionName, description: Option<String>) -> Result<Arc<Published>, Fault> {
        let latest = self.latest(name)?;
        let before = self.entry(name);
        let of_fields = latest.fields.as_deref().cloned().unwrap_or_default();
        if let Some((_, last)) = before.published.last_key_value()
            && last.doc.code == latest.code
            && last.doc.of_fields == of_fields
            && same_run(&last.doc.config, &latest.config)
        {
            return Ok(Arc::clone(last));
        }
        let mut entry = Entry::clone(&before);
        entry.doc.last_version += 1;
        // Publishing changes the revision of what it was made from (recorded from AWS).
        entry.doc.generation += 1;
        let number = entry.doc.last_version;
        let mut fields = of_fields.clone();
        fields.description = description.unwrap_or(fields.description);
        let mut config = latest.config.clone();
        config.snapshot |= fields.snap_start;
        let doc = PublishedDoc {
            config,
            code: latest.code.clone(),
            code_bytes: latest.code_bytes,
            opt: latest.opt.clone(),
            fields,
            revision: latest.revision,
            updated_ms: latest.updated_ms,
            created_ms: now_ms(),
            of_fields,
        };
        let stored = document(VERSION, format!("{name}:{number}"), &doc)?;
        let made = published(number, doc, Arc::clone(&latest.stats));
        entry.published.insert(number, Arc::clone(&made));
        self.commit(name, &latest, &before, entry, vec![stored])?;
        Ok(made)
    }

    /// Which version a qualifier means, by `chance` (0 to 1) where an alias names two. From memory.
    pub fn resolve(&self, name: &FunctionName, qualifier: Option<&str>, chance: f64) -> Result<Arc<Version>, Fault> {
        self.registry.resolve_qualified(name, qualifier, chance).ok_or_else(|| self.missing(name, qualifier))
    }

    /// A version as it is now.
    pub fn get(&self, name: &FunctionName, qualifier: Option<&str>) -> Result<View, Fault> {
        Ok(self.view(&self.resolve(name, qualifier, FIRST)?))
    }

    /// At most `limit` functions after this name.
    pub fn list(&self, after: Option<&FunctionName>, limit: usize) -> Vec<View> {
        self.registry.page(after, limit).iter().map(|v| self.view(v)).collect()
    }

    /// `$LATEST`, then published versions by number: at most `limit` after this one (0 is `$LATEST`).
    pub fn list_versions(&self, name: &FunctionName, after: Option<u64>, limit: usize) -> Result<Vec<View>, Fault> {
        let latest = self.latest(name)?;
        let mut views = Vec::new();
        if after.is_none() {
            views.push(self.view(&latest));
        }
        let room = limit.saturating_sub(views.len());
        let entry = self.entry(name);
        let more = page(&entry.published, Some(&after.unwrap_or(0)), room);
        views.extend(more.iter().map(|(_, p)| self.view(&p.version)));
        Ok(views)
    }

    /// Adds and removes tags of a function.
    pub async fn tag(
        self: &Arc<Self>,
        name: &FunctionName,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    ) -> Result<(), Fault> {
        self.amend(name, move |_, _, entry| {
            entry.doc.generation += 1;
            entry.doc.tags.extend(add);
            entry.doc.tags.retain(|key, _| !remove.contains(key));
            check_tags(&entry.doc.tags)
        })
        .await
    }

    /// Tells that a function was made ready, or why it could not be.
    pub fn settled(&self, made: &Made, failed: Option<String>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let current = matches!(
            progress.get(&made.name),
            Some(Progress::Creating(r) | Progress::Updating(r)) if *r == made.revision
        );
        if current {
            match failed {
                Some(why) => progress.insert(made.name.clone(), Progress::Failed(made.revision, why)),
                None => progress.remove(&made.name),
            };
        }
    }

    /// Notes that a change is being made ready, and says so to whoever makes it. The answer is how things are before that.
    fn begin(&self, written: &Version, progress: Progress, shown: &Arc<Version>) -> View {
        let name = written.config.name.clone();
        {
            let mut all = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            // What failed of functions that are no more is not kept.
            all.retain(|known, _| self.registry.resolve(known).is_some());
            all.insert(name.clone(), progress);
        }
        let view = self.view(shown);
        let made = Made { name, revision: written.revision };
        if let Err(unheard) = self.made.send(made) {
            // Nobody makes functions ready: then they are as ready as they get.
            self.settled(&unheard.0, None);
        }
        view
    }

    /// The revision of a version. It is another one once the version is ready (recorded from AWS).
    pub(super) fn function_revision(&self, version: &Version, entry: &Entry) -> String {
        self.revision_with(version, entry, entry.doc.generation)
    }

    /// The revision of a version's policy: the version's own when the policy was changed, which tags and publications since
    /// then leave alone (recorded from AWS).
    pub(super) fn version_policy_revision(&self, version: &Version, entry: &Entry) -> String {
        let key = version.number.map(|n| n.to_string()).unwrap_or_default();
        let since = entry.doc.policies.get(&key).and_then(|p| p.since);
        self.revision_with(version, entry, since.unwrap_or(entry.doc.generation))
    }

    fn revision_with(&self, version: &Version, entry: &Entry, generation: u64) -> String {
        let policy = |key: &str| entry.doc.policies.get(key).map_or(0, |p| p.generation).to_string();
        let label = version.label();
        let (generation, policy) = match version.number {
            None => (generation.to_string(), policy("")),
            Some(_) => (String::new(), policy(&label)),
        };
        let busy = matches!(self.progress_of(version), Some(Progress::Creating(_) | Progress::Updating(_)));
        let ready = if busy { "not ready" } else { "" };
        let (created, revision) = (version.created_ms.to_string(), version.revision.to_string());
        revision_id(&[version.config.name.as_str(), &label, &created, &revision, &generation, &policy, ready])
    }

    fn progress_of(&self, version: &Version) -> Option<Progress> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let found = progress.get(&version.config.name)?;
        let (Progress::Creating(r) | Progress::Updating(r) | Progress::Failed(r, _)) = found;
        (*r == version.revision).then(|| found.clone())
    }

    /// The current version, if it may be changed now.
    pub(super) fn changeable(&self, name: &FunctionName, known: Option<&str>) -> Result<Arc<Version>, Fault> {
        let latest = self.latest(name)?;
        if let Some(Progress::Creating(_) | Progress::Updating(_)) = self.progress_of(&latest) {
            let arn = self.place.function(name.as_str(), None);
            let message =
                format!("The operation cannot be performed at this time. An update is in progress for resource: {arn}");
            return Err(fault(Rule::Conflict, message));
        }
        check_revision(known, &self.view(&latest).revision_id, "GetFunction/GetAlias")?;
        Ok(latest)
    }

    pub(super) fn view(&self, version: &Arc<Version>) -> View {
        let entry = self.entry(&version.config.name);
        let reserved = match version.number {
            None => version.config.concurrency,
            Some(_) => self.registry.resolve(&version.config.name).and_then(|v| v.config.concurrency),
        };
        // A version that was published together with a change becomes ready with it.
        let progress = match (self.progress_of(version), version.number) {
            (Some(Progress::Updating(revision)), Some(_)) => Some(Progress::Creating(revision)),
            (Some(Progress::Failed(..)), Some(_)) => None,
            (progress, _) => progress,
        };
        View {
            fields: version.fields.as_deref().cloned().unwrap_or_default(),
            progress,
            revision_id: self.function_revision(version, &entry),
            code_sha256: sha256_of(version),
            tags: entry.doc.tags.clone(),
            reserved,
            version: Arc::clone(version),
        }
    }

    fn runtime(&self, text: &str) -> Result<RuntimeName, Fault> {
        if RETIRED_RUNTIMES.contains(&text) {
            let message = format!(
                "The runtime parameter of {text} is no longer supported for creating or updating AWS Lambda functions. We recommend you use a supported runtime while creating or updating functions."
            );
            return Err(fault(Rule::Invalid, message));
        }
        self.registry.runtimes.wait();
        let name = RuntimeName::parse_any(text).map_err(|_| {
            if RUNTIMES.contains(&text) {
                return fault(Rule::Invalid, format!("The runtime {text} is not one that this server can run."));
            }
            let message = format!(
                "Value {text} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or be a valid ARN",
                RUNTIMES.join(", ")
            );
            fault(Rule::Invalid, message)
        })?;
        self.registry.runtimes.accepts(name).map_err(|e| fault(Rule::Invalid, e.message))?;
        Ok(name)
    }

    /// Settings over a configuration, checked.
    fn apply(
        &self,
        patch: &Patch,
        base: FunctionConfig,
        fields: Fields,
    ) -> Result<(FunctionConfig, Fields, Vec<LayerUse>), Fault> {
        let limits = &self.registry.limits;
        if let Some(env) = &patch.env {
            check_env(env, limits.env_bytes)?;
        }
        let layers = match &patch.layers {
            Some(arns) => self.use_layers(arns)?,
            None => fields.layers.clone(),
        };
        let (config, fields) = over(patch, base, fields);
        config.validate(limits).map_err(|e| fault(Rule::Invalid, e.message))?;
        Ok((config, fields, layers))
    }

    fn use_layers(&self, arns: &[String]) -> Result<Vec<LayerUse>, Fault> {
        if arns.len() > MAX_LAYERS {
            return Err(fault(Rule::Invalid, format!("Cannot reference more than {MAX_LAYERS} layers.")));
        }
        let mut used: Vec<LayerUse> = Vec::new();
        for arn in arns {
            let (name, number) = self.layer_arn(arn)?;
            let stem = |a: &str| a.rsplit_once(':').map(|(stem, _)| stem.to_owned());
            if let Some(twin) = used.iter().find(|u| stem(&u.arn) == stem(arn)) {
                let message = format!(
                    "Two different versions of the same layer are not allowed to be referenced in the same function. {} and {arn} are versions of the same layer.",
                    twin.arn
                );
                return Err(fault(Rule::Invalid, message));
            }
            let layer = self
                .layer_version(&name, number)
                .map_err(|_| fault(Rule::Invalid, format!("Layer version {arn} does not exist.")))?;
            used.push(LayerUse { arn: arn.clone(), code_size: layer.code_size, code: layer.code });
        }
        Ok(used)
    }

    fn merge<'a>(
        &self,
        registry: &'a Registry,
        code: &CodeDigest,
        layers: &[LayerUse],
    ) -> Result<(Option<CodeDigest>, Option<crate::registry::code::Kept<'a>>), Fault> {
        if layers.is_empty() {
            return Ok((None, None));
        }
        let taken = registry.code.unpacked_bytes(code)?;
        let room = registry.limits.unzipped_bytes.saturating_sub(taken);
        let parts: Vec<CodeDigest> = layers.iter().map(|l| l.code.clone()).collect();
        let (opt, kept) = registry.code.merge(&parts, room).map_err(|e| match e.kind {
            ErrorKind::BadArchive => fault(Rule::Invalid, e.message),
            _ => Fault::Platform(e),
        })?;
        Ok((Some(opt), Some(kept)))
    }

    /// Stores code and makes it current, with everything else that is new.
    #[allow(clippy::too_many_arguments)]
    fn write_code(
        &self,
        registry: &Registry,
        code: &Code,
        config: FunctionConfig,
        mut fields: Fields,
        layers: Vec<LayerUse>,
        entry: Option<Entry>,
        before: Option<&Version>,
    ) -> Result<Arc<Version>, Fault> {
        let staged = registry.code.stage(&code.archive, Wrapping::Keep).map_err(bad_code)?;
        let (digest, sha256, bytes) = (staged.digest.clone(), staged.sha256.clone(), staged.manifest.archive_bytes);
        let kept = staged.commit()?;
        let (opt, merged) = self.merge(registry, &digest, &layers)?;
        fields.layers = layers;
        fields.code_sha256 = (sha256 != digest).then_some(sha256);
        let change = Change { config, code: digest, code_bytes: bytes, fields: Some(fields), opt, entry };
        let written = registry.write(change, before);
        drop((kept, merged)); // not before the table refers to the code
        Ok(written?)
    }
}

impl Registry {
    /// Which version a qualifier means. Memory only: it is asked on every invocation that names one.
    pub fn resolve_qualified(&self, name: &FunctionName, qualifier: Option<&str>, chance: f64) -> Option<Arc<Version>> {
        let qualifier = match qualifier {
            None | Some("$LATEST") => return self.resolve(name),
            Some(q) => q,
        };
        // Deleted functions leave the table first: what is kept of one that is gone must not be found.
        let latest = self.resolve(name)?;
        let entry = self.shelf.get(name).filter(|e| e.doc.created_ms == latest.created_ms)?;
        let number = match entry.doc.aliases.get(qualifier) {
            Some(alias) => {
                let other = alias.weights.iter().find(|(_, weight)| chance < **weight).map(|(version, _)| version);
                other.unwrap_or(&alias.function_version).as_str()
            }
            None => qualifier,
        };
        if number == "$LATEST" {
            return Some(latest);
        }
        entry.published.get(&parse_number(number)?).map(|p| Arc::clone(&p.version))
    }
}

/// A version number: digits alone, no leading zero.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let plain =
        !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

fn sha256_of(version: &Version) -> CodeDigest {
    version.fields.as_deref().and_then(|f| f.code_sha256.clone()).unwrap_or_else(|| version.code.clone())
}

/// A digest as AWS writes it: base64 of its bytes.
pub fn base64_of(digest: &CodeDigest) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let nibble = |b: u8| char::from(b).to_digit(16).unwrap_or(0);
    let bits: Vec<u32> =
        digest.as_str().bytes().flat_map(|b| (0..4).rev().map(move |i| (nibble(b) >> i) & 1)).collect();
    let six = |group: &[u32]| (0..6).fold(0usize, |all, i| all << 1 | group.get(i).copied().unwrap_or(0) as usize);
    let mut out: String = bits.chunks(6).map(|group| char::from(ALPHABET[six(group)])).collect();
    while !out.len().is_multiple_of(4) {
        out.push('=');
    }
    out
}

/// Whether two configurations run alike. What is not versioned on AWS does not count.
fn same_run(published: &FunctionConfig, latest: &FunctionConfig) -> bool {
    let mut latest = latest.clone();
    latest.concurrency = published.concurrency;
    latest.snapshot = published.snapshot;
    latest == *published
}

pub(super) fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Fault> {
    if tags.len() > MAX_TAGS {
        return Err(fault(Rule::Invalid, "Number of tags exceeds resource tag limit."));
    }
    if tags.iter().any(|(k, v)| k.is_empty() || k.chars().count() > 128 || v.chars().count() > 256) {
        return Err(fault(Rule::Invalid, "A tag's key has 1 to 128 characters and its value at most 256."));
    }
    Ok(())
}

/// What is wrong with an archive, in AWS's words; ours go to the diagnostics.
pub(super) fn bad_code(error: Error) -> Fault {
    match error.kind {
        ErrorKind::BadArchive if error.reason == Some(Reason::UnzippedSize) => fault(Rule::Invalid, error.message),
        ErrorKind::BadArchive => {
            tracing::info!(why = error.message, "an archive was refused");
            fault(Rule::Invalid, "Could not unzip uploaded file. Please check your file, then try to upload again.")
        }
        ErrorKind::TooLarge => fault(Rule::TooLarge, error.message),
        _ => Fault::Platform(error),
    }
}
