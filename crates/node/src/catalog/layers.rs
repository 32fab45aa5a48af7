//! Layers: archives with numbers, which functions see at `/opt`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use offshoot_model::CodeDigest;
use serde_json::Value;

use super::functions::{bad_code, parse_number};
use super::types::{Layer, LayerVersion, Policy};
use super::{Catalog, Fault, LAYER, Rule, check_revision, document, fault, now_ms, page, policy, revision_id};
use crate::registry::archive::Wrapping;

/// A layer version to be published.
#[derive(Debug)]
pub struct NewLayer {
    /// 1 to 140 of `A–Z a–z 0–9 _ -`.
    pub name: String,
    /// For people.
    pub description: String,
    /// The uploaded zip, spooled by the caller, who also removes it.
    pub archive: PathBuf,
    /// Names of runtimes.
    pub compatible_runtimes: Option<Vec<String>>,
    /// Names of architectures.
    pub compatible_architectures: Option<Vec<String>>,
    /// A licence.
    pub license_info: Option<String>,
}

/// A layer version with its number.
#[derive(Debug, Clone)]
pub struct LayerContent {
    /// The layer.
    pub name: String,
    /// The version.
    pub number: u64,
    /// What it is.
    pub version: LayerVersion,
}

/// Most versions of one layer that are kept: its document is written as a whole.
const MAX_VERSIONS: usize = 1000;

impl Catalog {
    /// Publishes a version of a layer, the first of which makes the layer.
    pub async fn publish_layer(self: &Arc<Self>, new: NewLayer) -> Result<LayerContent, Fault> {
        let this = Arc::clone(self);
        let done = self.registry.blocking(move |_| Ok(this.publish_layer_now(new)));
        done.await?
    }

    fn publish_layer_now(&self, new: NewLayer) -> Result<LayerContent, Fault> {
        let staged = self.registry.code.stage(&new.archive, Wrapping::Keep).map_err(bad_code)?;
        let version = LayerVersion {
            description: new.description,
            created_ms: now_ms(),
            code: staged.digest.clone(),
            sha256: staged.sha256.clone(),
            code_size: staged.manifest.archive_bytes,
            compatible_runtimes: new.compatible_runtimes,
            compatible_architectures: new.compatible_architectures,
            license_info: new.license_info,
            policy: Policy::default(),
        };
        let kept = staged.commit()?;
        let number = self.change_layer(&new.name, |layer| {
            if layer.versions.len() >= MAX_VERSIONS {
                let message = format!("a layer keeps at most {MAX_VERSIONS} versions: delete old ones");
                return Err(fault(Rule::Conflict, message));
            }
            layer.last_version += 1;
            layer.versions.insert(layer.last_version, version.clone());
            Ok(layer.last_version)
        })?;
        drop(kept); // not before the layer refers to it
        Ok(LayerContent { name: new.name, number, version })
    }

    /// Changes one layer. Changes of layers come one after another: they are rare and short.
    fn change_layer<T>(&self, name: &str, work: impl FnOnce(&mut Layer) -> Result<T, Fault>) -> Result<T, Fault> {
        let shelf = &self.registry.shelf;
        let _turn = shelf.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.layer(name);
        let mut layer = before.as_deref().cloned().unwrap_or_default();
        let done = work(&mut layer)?;
        self.registry.store.write(&[document(LAYER, name.to_owned(), &layer)?])?;
        shelf.layers.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::new(layer));
        Ok(done)
    }

    fn layer(&self, name: &str) -> Option<Arc<Layer>> {
        self.registry.shelf.layers.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The ARN of a layer version.
    pub fn layer_version_arn(&self, name: &str, number: u64) -> String {
        self.place.lambda(&format!("layer:{name}:{number}"))
    }

    /// A layer version that is there.
    pub fn layer_version(&self, name: &str, number: u64) -> Result<LayerVersion, Fault> {
        self.layer(name).and_then(|layer| layer.versions.get(&number).cloned()).ok_or_else(|| {
            let message = "The resource you requested does not exist.";
            fault(Rule::NotFound, message)
        })
    }

    /// Name and number in the ARN of a layer version of this place.
    pub(super) fn layer_arn(&self, arn: &str) -> Result<(String, u64), Fault> {
        let missing = || fault(Rule::Invalid, format!("Layer version {arn} does not exist."));
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", _, "lambda", region, account, "layer", name, number] = parts[..] else { return Err(missing()) };
        if region != self.place.region {
            let message = format!(
                "Layers are not in the same region as the function. Layers are expected to be in region {}.",
                self.place.region
            );
            return Err(fault(Rule::Invalid, message));
        }
        let number = parse_number(number).filter(|_| account == self.place.account).ok_or_else(missing)?;
        Ok((name.to_owned(), number))
    }

    /// At most `limit` layers after this one, each with its newest version that satisfies `wanted`.
    pub fn list_layers(
        &self,
        after: Option<&String>,
        limit: usize,
        wanted: impl Fn(&LayerVersion) -> bool,
    ) -> Vec<LayerContent> {
        let layers = self.registry.shelf.layers.read().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let newest = layers.range::<String, _>((from, std::ops::Bound::Unbounded)).filter_map(|(name, layer)| {
            let (number, version) = layer.versions.iter().rev().find(|(_, v)| wanted(v))?;
            Some(LayerContent { name: name.clone(), number: *number, version: version.clone() })
        });
        newest.take(limit).collect()
    }

    /// At most `limit` versions of a layer that satisfy `wanted`, the newest first, below this number.
    pub fn list_layer_versions(
        &self,
        name: &str,
        below: Option<u64>,
        limit: usize,
        wanted: impl Fn(&LayerVersion) -> bool,
    ) -> Vec<LayerContent> {
        let Some(layer) = self.layer(name) else { return Vec::new() };
        let all: BTreeMap<std::cmp::Reverse<u64>, LayerVersion> =
            layer.versions.iter().filter(|(_, v)| wanted(v)).map(|(n, v)| (std::cmp::Reverse(*n), v.clone())).collect();
        let found = page(&all, below.map(std::cmp::Reverse).as_ref(), limit).into_iter();
        found.map(|(n, version)| LayerContent { name: name.to_owned(), number: n.0, version }).collect()
    }

    /// Deletes a layer version; one that is not there is deleted already. Functions that use it go on.
    pub async fn delete_layer_version(self: &Arc<Self>, name: &str, number: u64) -> Result<(), Fault> {
        let (this, name) = (Arc::clone(self), name.to_owned());
        let done = self.registry.blocking(move |_| {
            if this.layer_version(&name, number).is_err() {
                return Ok(Ok(()));
            }
            Ok(this.change_layer(&name, |layer| {
                layer.versions.remove(&number);
                Ok(())
            }))
        });
        done.await?
    }

    /// Lets others use a layer version. Answers the statement and the policy's revision.
    pub async fn add_layer_permission(
        self: &Arc<Self>,
        name: &str,
        number: u64,
        statement: Value,
        known: Option<String>,
    ) -> Result<(Value, String), Fault> {
        self.change_layer_policy(name, number, known, move |policy| {
            policy::add(policy, statement.clone())?;
            Ok(statement)
        })
        .await
    }

    /// Takes a statement out of a layer version's policy.
    pub async fn remove_layer_permission(
        self: &Arc<Self>,
        name: &str,
        number: u64,
        sid: String,
        known: Option<String>,
    ) -> Result<(), Fault> {
        self.change_layer_policy(name, number, known, move |policy| policy::remove(policy, &sid)).await.map(|_| ())
    }

    async fn change_layer_policy<T: Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        number: u64,
        known: Option<String>,
        work: impl FnOnce(&mut Policy) -> Result<T, Fault> + Send + 'static,
    ) -> Result<(T, String), Fault> {
        let (this, name) = (Arc::clone(self), name.to_owned());
        let done = self.registry.blocking(move |_| {
            let missing = this.no_layer_version(&name, number);
            if this.layer_version(&name, number).is_err() {
                return Ok(Err(missing));
            }
            Ok(this.change_layer(&name, |layer| {
                let version = layer.versions.get_mut(&number).ok_or(missing)?;
                let latest = layer_policy_revision(&name, number, version);
                check_revision(known.as_deref(), &latest, "GetLayerPolicy")?;
                let done = work(&mut version.policy)?;
                version.policy.generation += 1;
                Ok((done, layer_policy_revision(&name, number, version)))
            }))
        });
        done.await?
    }

    fn no_layer_version(&self, name: &str, number: u64) -> Fault {
        fault(Rule::NotFound, format!("Layer version {} does not exist.", self.layer_version_arn(name, number)))
    }

    /// A layer version's policy and its revision.
    pub fn layer_policy(&self, name: &str, number: u64) -> Result<(Vec<Value>, String), Fault> {
        let version = self.layer_version(name, number).map_err(|_| self.no_layer_version(name, number))?;
        if version.policy.statements.is_empty() {
            return Err(fault(Rule::NotFound, "No policy is associated with the given resource."));
        }
        let revision = layer_policy_revision(name, number, &version);
        Ok((version.policy.statements, revision))
    }

    /// Bytes of all archives that functions, versions and layers stand on, counted once per use as AWS does, and functions.
    pub fn usage(&self) -> (u64, usize) {
        let functions = self.registry.list();
        let published: u64 = {
            let entries = self.registry.shelf.functions.read().unwrap_or_else(PoisonError::into_inner);
            entries.values().flat_map(|e| e.published.values()).map(|p| p.doc.code_bytes).sum()
        };
        let layers: u64 = {
            let layers = self.registry.shelf.layers.read().unwrap_or_else(PoisonError::into_inner);
            layers.values().flat_map(|l| l.versions.values()).map(|v| v.code_size).sum()
        };
        let latest: u64 = functions.iter().map(|v| v.code_bytes).sum();
        (latest + published + layers, functions.len())
    }

    /// Where the archive of stored code lies.
    pub fn archive(&self, code: &CodeDigest) -> Option<PathBuf> {
        self.registry.code.archive(code)
    }
}

fn layer_policy_revision(name: &str, number: u64, version: &LayerVersion) -> String {
    let (number, created, generation) =
        (number.to_string(), version.created_ms.to_string(), version.policy.generation.to_string());
    revision_id(&["layer", name, &number, &created, &generation])
}
