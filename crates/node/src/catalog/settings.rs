//! Settings around a function that are not part of its versions: concurrency, asynchronous invocation, recursion, runtime
//! management, URLs.

use std::sync::Arc;

use offshoot_model::FunctionName;

use super::functions::{FIRST, parse_number};
use super::types::{Cors, Destinations, Entry, EventInvoke, Provisioned, RuntimeManagement, UrlConfig};
use super::{Catalog, Fault, Made, Rule, fault, now_ms, page};
use crate::queue::{EventInvokeConfig, Target};
use crate::registry::{Change, Version};

/// Concurrency that reservations must leave to everybody else (AWS: 100), at most a tenth of the server's.
const UNRESERVED: u32 = 100;
/// Characters of a URL's id.
const URL_ID: usize = 32;

/// Provisioned concurrency of one version or alias.
#[derive(Debug, Clone)]
pub struct ProvisionedView {
    /// Version number or alias.
    pub qualifier: String,
    /// What was asked for.
    pub config: Provisioned,
    /// The version that it holds ready.
    pub version: Arc<Version>,
}

/// A URL of a function.
#[derive(Debug, Clone)]
pub struct UrlView {
    /// The function.
    pub name: FunctionName,
    /// The alias, if it is one's.
    pub qualifier: Option<String>,
    /// Its configuration.
    pub config: UrlConfig,
}

/// A change of a URL; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct UrlChange {
    /// `NONE` or `AWS_IAM`.
    pub auth_type: Option<String>,
    /// Cross-origin rules.
    pub cors: Option<Cors>,
    /// `BUFFERED` or `RESPONSE_STREAM`.
    pub invoke_mode: Option<String>,
}

impl Catalog {
    /// Reserves concurrency for a function; `None` gives it back, 0 lets nothing run.
    pub async fn reserve(self: &Arc<Self>, name: &FunctionName, reserved: Option<u32>) -> Result<(), Fault> {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = self.registry.change(name.clone(), move |_| Ok(this.reserve_now(&name, reserved)));
        done.await?
    }

    fn reserve_now(&self, name: &FunctionName, reserved: Option<u32>) -> Result<(), Fault> {
        let before = self.registry.resolve(name).ok_or_else(|| self.missing(name, Some("$LATEST")))?;
        if before.config.concurrency == reserved {
            return Ok(());
        }
        if let Some(wanted) = reserved {
            let all = self.registry.limits.concurrency;
            let others: u64 = self
                .registry
                .list()
                .iter()
                .filter(|v| v.config.name != *name)
                .map(|v| u64::from(v.config.concurrency.unwrap_or(0)))
                .sum();
            let least = UNRESERVED.min(all / 10);
            if others + u64::from(wanted) + u64::from(least) > u64::from(all) {
                let message = format!(
                    "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [{least}]."
                );
                return Err(fault(Rule::Untyped, message));
            }
            let held: u32 = self.entry(name).doc.provisioned.values().map(|p| p.requested).sum();
            if wanted < held {
                let message = format!(
                    " ReservedConcurrentExecutions  {wanted} should not be lower than function's total provisioned concurrency [{held}]."
                );
                return Err(fault(Rule::Untyped, message));
            }
        }
        let mut config = before.config.clone();
        config.concurrency = reserved;
        let written = self.registry.write(Change::of(Some(&before), config), Some(&before))?;
        // Nobody waits for this; the instances of the version before go when they are idle.
        let _ = self.made.send(Made { name: name.clone(), revision: written.revision });
        Ok(())
    }

    /// Reserved concurrency of all functions together.
    pub fn reserved(&self) -> u64 {
        self.registry.list().iter().map(|v| u64::from(v.config.concurrency.unwrap_or(0))).sum()
    }

    /// Reserved concurrency of a function.
    pub fn reservation(&self, name: &FunctionName) -> Result<Option<u32>, Fault> {
        Ok(self.latest(name)?.config.concurrency)
    }

    /// Holds instances of a version or alias ready.
    pub async fn provision(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: String,
        requested: u32,
    ) -> Result<Provisioned, Fault> {
        let who = name.clone();
        self.provisionable(name, &self.entry(name), &qualifier)?;
        self.amend(name, move |this, latest, entry| {
            this.provisionable(&who, entry, &qualifier)?;
            let number = number_of(entry, &qualifier);
            for other in entry.doc.provisioned.keys().filter(|q| **q != qualifier) {
                if number_of(entry, other) == number {
                    let message = if parse_number(other).is_some() {
                        "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
                    } else {
                        "Version is pointed by a Provisioned Concurrency alias"
                    };
                    return Err(fault(Rule::Conflict, message));
                }
            }
            let held: u32 = entry.doc.provisioned.iter().filter(|(q, _)| **q != qualifier).map(|(_, p)| p.requested).sum();
            if latest.config.concurrency.is_some_and(|r| held.saturating_add(requested) > r) {
                let message =
                    "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function";
                return Err(fault(Rule::Invalid, message));
            }
            if latest.config.concurrency.is_none() {
                this.leaves_enough(held.saturating_add(requested))?;
            }
            let made = Provisioned { requested, modified_ms: now_ms() };
            entry.doc.provisioned.insert(qualifier, made.clone());
            Ok(made)
        })
        .await
    }

    /// What is held ready comes out of what nobody has reserved, and must leave AWS's minimum of that.
    fn leaves_enough(&self, wanted: u32) -> Result<(), Fault> {
        let all = u64::from(self.registry.limits.concurrency);
        let least = u64::from(UNRESERVED).min(all / 10);
        let unreserved = all.saturating_sub(self.reserved());
        if u64::from(wanted) > unreserved {
            let message = format!(
                "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [{unreserved}]."
            );
            return Err(fault(Rule::Untyped, message));
        }
        if unreserved - u64::from(wanted) < least {
            let message = format!(
                "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [{least}]."
            );
            return Err(fault(Rule::Untyped, message));
        }
        Ok(())
    }

    /// Lets go of them.
    pub async fn unprovision(self: &Arc<Self>, name: &FunctionName, qualifier: String) -> Result<(), Fault> {
        let who = name.clone();
        if qualifier == "$LATEST" {
            let message = "The function resource provided must be an alias or a published version.";
            return Err(fault(Rule::Invalid, message));
        }
        self.provisionable(name, &self.entry(name), &qualifier)?;
        self.amend(name, move |this, _, entry| {
            this.provisionable(&who, entry, &qualifier)?;
            entry.doc.provisioned.remove(&qualifier);
            Ok(())
        })
        .await
    }

    fn provisionable(&self, name: &FunctionName, entry: &Entry, qualifier: &str) -> Result<(), Fault> {
        if qualifier == "$LATEST" {
            let message = "Provisioned Concurrency Configs cannot be applied to unpublished function versions.";
            return Err(fault(Rule::Invalid, message));
        }
        match parse_number(qualifier) {
            Some(n) if entry.published.contains_key(&n) => Ok(()),
            Some(_) => Err(self.missing(name, Some(qualifier))),
            None if entry.doc.aliases.contains_key(qualifier) => Ok(()),
            None => Err(self.no_alias(name, qualifier)),
        }
    }

    /// What is held ready for a version or alias.
    pub fn provisioned(&self, name: &FunctionName, qualifier: &str) -> Result<ProvisionedView, Fault> {
        if qualifier == "$LATEST" {
            let message = "The function resource provided must be an alias or a published version.";
            return Err(fault(Rule::Invalid, message));
        }
        let entry = self.entry(name);
        self.provisionable(name, &entry, qualifier)?;
        let none = || fault(Rule::NoProvisioned, "No Provisioned Concurrency Config found for this function");
        provisioned_views(&entry).into_iter().find(|v| v.qualifier == qualifier).ok_or_else(none)
    }

    /// Everything that is held ready for one function.
    pub fn list_provisioned(&self, name: &FunctionName) -> Result<Vec<ProvisionedView>, Fault> {
        self.latest(name)?;
        Ok(provisioned_views(&self.entry(name)))
    }

    /// Every version that instances are to be held ready for, and how many.
    pub fn all_provisioned(&self) -> Vec<(Arc<Version>, u32)> {
        let functions = self.registry.shelf.functions.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = functions.iter().filter(|(_, e)| !e.doc.provisioned.is_empty());
        held.flat_map(|(_, entry)| provisioned_views(entry)).map(|view| (view.version, view.config.requested)).collect()
    }

    /// The key and the value of how asynchronous invocations of a qualifier are treated.
    pub async fn put_event_invoke(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: Option<String>,
        given: EventInvoke,
        replace: bool,
    ) -> Result<EventInvoke, Fault> {
        let who = name.clone();
        if given.maximum_retry_attempts.is_none()
            && given.maximum_event_age_in_seconds.is_none()
            && given.destination_config.is_none()
        {
            let message = "You must specify at least one of error handling or destination setting.";
            return Err(fault(Rule::Invalid, message));
        }
        if self.registry.resolve(name).is_none() {
            return Err(fault(Rule::NotFound, "The function doesn't exist."));
        }
        self.amend(name, move |this, _, entry| {
            let key = qualifier.unwrap_or_else(|| "$LATEST".to_owned());
            let there = key == "$LATEST"
                || entry.doc.aliases.contains_key(&key)
                || parse_number(&key).is_some_and(|n| entry.published.contains_key(&n));
            if !there {
                return Err(fault(Rule::NotFound, "The function doesn't exist."));
            }
            this.check_destinations(&who, given.destination_config.as_ref())?;
            let known = entry.doc.event_invoke.get(&key).cloned();
            let base = match (replace, known) {
                (true, _) => EventInvoke::default(),
                (false, Some(known)) => known,
                (false, None) => return Err(this.no_event_invoke(&who, &key)),
            };
            let made = EventInvoke {
                maximum_retry_attempts: given.maximum_retry_attempts.or(base.maximum_retry_attempts),
                maximum_event_age_in_seconds: given.maximum_event_age_in_seconds.or(base.maximum_event_age_in_seconds),
                destination_config: given.destination_config.or(base.destination_config),
                modified_ms: now_ms(),
            };
            entry.doc.event_invoke.insert(key, made.clone());
            Ok(made)
        })
        .await
    }

    fn no_event_invoke(&self, name: &FunctionName, key: &str) -> Fault {
        let arn = self.place.function(name.as_str(), Some(key));
        fault(Rule::NotFound, format!("The function {arn} doesn't have an EventInvokeConfig"))
    }

    fn check_destinations(&self, name: &FunctionName, config: Option<&Destinations>) -> Result<(), Fault> {
        let Some(config) = config else { return Ok(()) };
        for (text, target) in [("onSuccess=OnSuccess", &config.on_success), ("onFailure=OnFailure", &config.on_failure)]
        {
            let Some(arn) = target.destination.as_deref().filter(|a| !a.is_empty()) else { continue };
            let service = arn.split(':').nth(2).unwrap_or("");
            if !matches!(service, "sqs" | "sns" | "lambda" | "events" | "s3") {
                let other = if text.starts_with("onSuccess") { "onFailure=null" } else { "onSuccess=null" };
                let mut parts = [format!("{text}(destination={arn})"), other.to_owned()];
                parts.sort_by_key(|p| !p.starts_with("onSuccess"));
                let message =
                    format!("The provided destination config DestinationConfig({}) is invalid.", parts.join(", "));
                return Err(fault(Rule::Invalid, message));
            }
            if service != "lambda" {
                continue;
            }
            let own = self.place.function(name.as_str(), None);
            if arn == own || arn.starts_with(&format!("{own}:")) {
                return Err(fault(Rule::Invalid, "You can't specify the function as a destination for itself."));
            }
            let there = arn
                .strip_prefix(&self.place.lambda("function:"))
                .and_then(|rest| FunctionName::parse(rest.split(':').next()?).ok())
                .is_some_and(|target| self.registry.resolve(&target).is_some());
            if !there {
                return Err(fault(Rule::Invalid, format!("The destination ARN {arn} is invalid.")));
            }
        }
        Ok(())
    }

    /// How asynchronous invocations of a qualifier are treated, where somebody has said it.
    pub fn event_invoke(&self, name: &FunctionName, qualifier: Option<&str>) -> Result<EventInvoke, Fault> {
        let key = qualifier.unwrap_or("$LATEST");
        self.entry(name).doc.event_invoke.get(key).cloned().ok_or_else(|| self.no_event_invoke(name, key))
    }

    /// The same in the queue's terms, with the function's dead-letter target. What nobody has set is AWS's default.
    pub fn asynchronous(&self, name: &FunctionName, qualifier: Option<&str>) -> EventInvokeConfig {
        let set = self.event_invoke(name, qualifier).unwrap_or_default();
        let target = |text: &Option<String>| text.as_deref().and_then(|t| Target::parse(t).ok());
        let to = set.destination_config.unwrap_or_default();
        let fields = self.registry.resolve_qualified(name, qualifier, FIRST).and_then(|version| version.fields.clone());
        EventInvokeConfig {
            max_retries: set.maximum_retry_attempts,
            max_age_s: set.maximum_event_age_in_seconds.map(u64::from),
            on_success: target(&to.on_success.destination),
            on_failure: target(&to.on_failure.destination),
            dead_letter: fields.and_then(|fields| target(&fields.dead_letter)),
        }
    }

    /// Forgets it.
    pub async fn delete_event_invoke(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: Option<String>,
    ) -> Result<(), Fault> {
        let who = name.clone();
        let key = qualifier.unwrap_or_else(|| "$LATEST".to_owned());
        if self.registry.resolve(name).is_none() {
            return Err(self.no_event_invoke(name, &key));
        }
        self.amend(name, move |this, _, entry| match entry.doc.event_invoke.remove(&key) {
            Some(_) => Ok(()),
            None => Err(this.no_event_invoke(&who, &key)),
        })
        .await
    }

    /// At most `limit` of them after this qualifier.
    pub fn list_event_invoke(
        &self,
        name: &FunctionName,
        after: Option<&String>,
        limit: usize,
    ) -> Result<Vec<(String, EventInvoke)>, Fault> {
        if self.registry.resolve(name).is_none() {
            return Err(fault(Rule::NotFound, "The function doesn't exist."));
        }
        Ok(page(&self.entry(name).doc.event_invoke, after, limit))
    }

    /// What happens when a function calls itself in a circle: `Terminate` or `Allow`.
    pub fn recursion(&self, name: &FunctionName) -> Result<String, Fault> {
        self.latest(name)?;
        Ok(self.entry(name).doc.recursive_loop.clone().unwrap_or_else(|| "Terminate".to_owned()))
    }

    /// Sets it.
    pub async fn put_recursion(self: &Arc<Self>, name: &FunctionName, value: String) -> Result<(), Fault> {
        self.amend(name, move |_, _, entry| {
            entry.doc.recursive_loop = Some(value);
            Ok(())
        })
        .await
    }

    /// When the runtime of a version is updated.
    pub fn runtime_management(&self, name: &FunctionName, qualifier: Option<&str>) -> Result<RuntimeManagement, Fault> {
        let version = self.resolve(name, qualifier, FIRST)?;
        let auto = || RuntimeManagement { update_runtime_on: "Auto".to_owned(), runtime_version_arn: None };
        Ok(self.entry(name).doc.runtime_management.get(&version.label()).cloned().unwrap_or_else(auto))
    }

    /// Sets it.
    pub async fn put_runtime_management(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: Option<String>,
        value: RuntimeManagement,
    ) -> Result<(), Fault> {
        let label = self.resolve(name, qualifier.as_deref(), FIRST)?.label();
        self.amend(name, move |_, _, entry| {
            entry.doc.runtime_management.insert(label, value);
            Ok(())
        })
        .await
    }

    /// Makes a URL for a function or one of its aliases.
    pub async fn create_url(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: Option<String>,
        auth_type: String,
        change: UrlChange,
    ) -> Result<UrlView, Fault> {
        let who = name.clone();
        let absent = || fault(Rule::NotFound, "Function does not exist");
        if self.registry.resolve(name).is_none() {
            return Err(absent());
        }
        let id = url_id()?;
        self.amend(name, move |this, _, entry| {
            let key = qualifier.clone().unwrap_or_default();
            if qualifier.as_ref().is_some_and(|q| !entry.doc.aliases.contains_key(q)) {
                return Err(absent());
            }
            if entry.doc.urls.contains_key(&key) {
                let arn = this.place.function(who.as_str(), qualifier.as_deref());
                let message = format!(
                    "Failed to create function url config for [functionArn = {arn}]. Error message:  FunctionUrlConfig exists for this Lambda function"
                );
                return Err(fault(Rule::Conflict, message));
            }
            let now = now_ms();
            let config = UrlConfig {
                id,
                auth_type,
                cors: change.cors,
                invoke_mode: change.invoke_mode,
                created_ms: now,
                modified_ms: now,
            };
            entry.doc.urls.insert(key, config.clone());
            Ok(UrlView { name: who, qualifier, config })
        })
        .await
    }

    /// Changes a URL.
    pub async fn update_url(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: Option<String>,
        change: UrlChange,
    ) -> Result<UrlView, Fault> {
        let who = name.clone();
        let there = |q: &String| self.entry(name).doc.aliases.contains_key(q);
        if self.registry.resolve(name).is_none() || qualifier.as_ref().is_some_and(|q| !there(q)) {
            return Err(fault(Rule::NotFound, "Function does not exist"));
        }
        self.amend(name, move |_, _, entry| {
            let config = entry.doc.urls.get_mut(qualifier.as_deref().unwrap_or("")).ok_or_else(no_url)?;
            config.auth_type = change.auth_type.unwrap_or_else(|| config.auth_type.clone());
            config.cors = change.cors.or(config.cors.take());
            config.invoke_mode = change.invoke_mode.or(config.invoke_mode.take());
            config.modified_ms = now_ms();
            Ok(UrlView { name: who, qualifier, config: config.clone() })
        })
        .await
    }

    /// The URL of a function or alias.
    pub fn url(&self, name: &FunctionName, qualifier: Option<&str>) -> Result<UrlView, Fault> {
        let config = self.entry(name).doc.urls.get(qualifier.unwrap_or("")).cloned().ok_or_else(no_url)?;
        Ok(UrlView { name: name.clone(), qualifier: qualifier.map(str::to_owned), config })
    }

    /// Removes a URL.
    pub async fn delete_url(self: &Arc<Self>, name: &FunctionName, qualifier: Option<String>) -> Result<(), Fault> {
        self.url(name, qualifier.as_deref())?;
        self.amend(name, move |_, _, entry| {
            entry.doc.urls.remove(qualifier.as_deref().unwrap_or("")).map(drop).ok_or_else(no_url)
        })
        .await
    }

    /// At most `limit` URLs of a function after this qualifier.
    pub fn list_urls(&self, name: &FunctionName, after: Option<&String>, limit: usize) -> Result<Vec<UrlView>, Fault> {
        if self.registry.resolve(name).is_none() {
            return Err(fault(Rule::NotFound, "Function does not exist"));
        }
        let found = page(&self.entry(name).doc.urls, after, limit).into_iter();
        Ok(found
            .map(|(q, config)| UrlView { name: name.clone(), qualifier: Some(q).filter(|q| !q.is_empty()), config })
            .collect())
    }

    /// Whose URL has this id. From memory: it is asked on every request to one.
    pub fn url_by_id(&self, id: &str) -> Option<UrlView> {
        let urls = self.registry.shelf.urls.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (name, qualifier) = urls.get(id).cloned()?;
        drop(urls);
        self.url(&name, Some(qualifier.as_str()).filter(|q| !q.is_empty())).ok()
    }
}

fn no_url() -> Fault {
    fault(Rule::NotFound, "The resource you requested does not exist.")
}

/// Not to be guessed, and lower case, because it is a host's first label.
fn url_id() -> Result<String, Fault> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0u8; URL_ID];
    getrandom::fill(&mut bytes).map_err(|e| {
        offshoot_model::Error::new(offshoot_model::ErrorKind::Internal, "no random numbers").caused_by(e)
    })?;
    Ok(bytes.iter().map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect())
}

/// The version number behind a number or an alias.
pub(crate) fn number_of(entry: &Entry, qualifier: &str) -> Option<u64> {
    parse_number(qualifier).or_else(|| parse_number(&entry.doc.aliases.get(qualifier)?.function_version))
}

fn provisioned_views(entry: &Entry) -> Vec<ProvisionedView> {
    let view = |(qualifier, config): (&String, &Provisioned)| {
        let version = Arc::clone(&entry.published.get(&number_of(entry, qualifier)?)?.version);
        Some(ProvisionedView { qualifier: qualifier.clone(), config: config.clone(), version })
    };
    entry.doc.provisioned.iter().filter_map(view).collect()
}
