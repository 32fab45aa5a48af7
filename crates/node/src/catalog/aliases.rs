//! Aliases: names for versions, with a share of the calls for a second one.

use std::collections::BTreeMap;
use std::sync::Arc;

use offshoot_model::FunctionName;

use super::functions::parse_number;
use super::types::{Alias, Entry};
use super::{Catalog, Fault, Rule, check_revision, fault, now_ms, page, revision_id};

impl Catalog {
    /// Makes an alias.
    pub async fn create_alias(
        self: &Arc<Self>,
        name: &FunctionName,
        alias: String,
        version: String,
        description: String,
        weights: BTreeMap<String, f64>,
    ) -> Result<(Alias, String), Fault> {
        let who = name.clone();
        if self.registry.resolve(name).is_none() {
            return Err(self.missing(name, Some(&version)));
        }
        self.amend(name, move |this, _, entry| {
            if entry.doc.aliases.contains_key(&alias) {
                let arn = this.place.function(who.as_str(), Some(&alias));
                return Err(fault(Rule::Conflict, format!("Alias already exists: {arn}")));
            }
            let made = Alias { function_version: version, description, weights, generation: 0, created_ms: now_ms() };
            this.check_routing(&who, entry, &made)?;
            entry.doc.aliases.insert(alias.clone(), made.clone());
            let revision = alias_revision(&who, &alias, &made, entry);
            Ok((made, revision))
        })
        .await
    }

    /// Changes an alias.
    pub async fn update_alias(
        self: &Arc<Self>,
        name: &FunctionName,
        alias: String,
        version: Option<String>,
        description: Option<String>,
        weights: Option<BTreeMap<String, f64>>,
        known: Option<String>,
    ) -> Result<(Alias, String), Fault> {
        let who = name.clone();
        self.amend(name, move |this, _, entry| {
            let Some(mut changed) = entry.doc.aliases.get(&alias).cloned() else {
                let arn = this.place.function(who.as_str(), Some(&alias));
                return Err(fault(Rule::NotFound, format!("Alias not found: {arn}")));
            };
            check_revision(known.as_deref(), &alias_revision(&who, &alias, &changed, entry), "GetFunction/GetAlias")?;
            changed.function_version = version.unwrap_or(changed.function_version);
            changed.description = description.unwrap_or(changed.description);
            changed.weights = weights.unwrap_or(changed.weights);
            changed.generation += 1;
            this.check_routing(&who, entry, &changed)?;
            entry.doc.aliases.insert(alias.clone(), changed.clone());
            let revision = alias_revision(&who, &alias, &changed, entry);
            Ok((changed, revision))
        })
        .await
    }

    /// An alias, with its revision.
    pub fn alias(&self, name: &FunctionName, alias: &str) -> Result<(Alias, String), Fault> {
        let entry = self.entry(name);
        let found = entry.doc.aliases.get(alias).filter(|_| self.registry.resolve(name).is_some());
        let found = found.ok_or_else(|| self.no_alias(name, alias))?;
        Ok((found.clone(), alias_revision(name, alias, found, &entry)))
    }

    pub(super) fn no_alias(&self, name: &FunctionName, alias: &str) -> Fault {
        let arn = self.place.function(name.as_str(), Some(alias));
        fault(Rule::NotFound, format!("Cannot find alias arn: {arn}"))
    }

    /// Removes an alias, and what was configured for it. One that is not there is removed already.
    pub async fn delete_alias(self: &Arc<Self>, name: &FunctionName, alias: String) -> Result<(), Fault> {
        self.amend(name, move |_, _, entry| {
            let doc = &mut entry.doc;
            if doc.aliases.remove(&alias).is_some() {
                doc.policies.remove(&alias);
                doc.urls.remove(&alias);
                doc.event_invoke.remove(&alias);
                doc.provisioned.remove(&alias);
            }
            Ok(())
        })
        .await
    }

    /// At most `limit` aliases after this one, of one version or of all.
    pub fn list_aliases(
        &self,
        name: &FunctionName,
        version: Option<&str>,
        after: Option<&String>,
        limit: usize,
    ) -> Result<Vec<(String, Alias, String)>, Fault> {
        self.latest(name)?;
        let entry = self.entry(name);
        let of_version = |alias: &Alias| version.is_none_or(|v| alias.function_version == v);
        let all: BTreeMap<String, Alias> =
            entry.doc.aliases.iter().filter(|(_, a)| of_version(a)).map(|(n, a)| (n.clone(), a.clone())).collect();
        let found = page(&all, after, limit).into_iter();
        Ok(found.map(|(n, a)| (n.clone(), a.clone(), alias_revision(name, &n, &a, &entry))).collect())
    }

    /// The versions must be there, and a split must be one that can be routed.
    fn check_routing(&self, name: &FunctionName, entry: &Entry, alias: &Alias) -> Result<(), Fault> {
        let there = |version: &str| {
            version == "$LATEST" || parse_number(version).is_some_and(|n| entry.published.contains_key(&n))
        };
        let missing = |version: &str| self.missing(name, Some(version));
        if alias.weights.len() > 1 {
            let message = "Number of items in AdditionalVersionWeights cannot be greater than 1";
            return Err(fault(Rule::Invalid, message));
        }
        for version in alias.weights.keys() {
            if *version == alias.function_version {
                let message = format!(
                    "Invalid function version {version}. Function version {version} is already included in routing configuration."
                );
                return Err(fault(Rule::Invalid, message));
            }
        }
        if !there(&alias.function_version) {
            return Err(missing(&alias.function_version));
        }
        if alias.function_version == "$LATEST" && !alias.weights.is_empty() {
            let message = "$LATEST is not supported for an alias pointing to more than 1 version";
            return Err(fault(Rule::Untyped, message));
        }
        match alias.weights.keys().find(|v| !there(v)) {
            Some(version) => Err(missing(version)),
            None => Ok(()),
        }
    }
}

pub(super) fn alias_revision(name: &FunctionName, alias_name: &str, alias: &Alias, entry: &Entry) -> String {
    let policy = entry.doc.policies.get(alias_name).map_or(0, |p| p.generation).to_string();
    let (created, generation) = (alias.created_ms.to_string(), alias.generation.to_string());
    revision_id(&[name.as_str(), "alias", alias_name, &created, &generation, &policy])
}
