//! Code signing configurations: whose signatures code must bear, and which functions hold to them.
//!
//! This server cannot see who signed an archive, so no code counts as signed: a configuration that says `Enforce` refuses all
//! new code of its functions, as AWS refuses unsigned code, and one that says `Warn` lets it in. Nothing is verified here.

use std::sync::{Arc, PoisonError};

use offshoot_model::FunctionName;

use super::types::{Entry, SigningConfig};
use super::{Catalog, Document, Fault, Rule, SIGNING, document, fault, now_ms, page};

/// Most configurations of a server (AWS: 100).
const MAX_CONFIGS: usize = 100;
/// Characters of an id after its prefix.
const ID: usize = 17;

/// A configuration with its id.
#[derive(Debug, Clone)]
pub struct SigningView {
    /// `csc-` and 17 characters.
    pub id: String,
    /// What it says.
    pub config: SigningConfig,
}

/// A change of a configuration; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct SigningChange {
    /// For people.
    pub description: Option<String>,
    /// ARNs of signing profile versions.
    pub publishers: Option<Vec<String>>,
    /// `Warn` or `Enforce`.
    pub policy: Option<String>,
}

impl Catalog {
    /// The ARN of a configuration.
    pub fn signing_arn(&self, id: &str) -> String {
        self.place.lambda(&format!("code-signing-config:{id}"))
    }

    fn signing_absent(&self, id: &str) -> Fault {
        let message = format!("The Lambda code signing configuration {} can not be found.", self.signing_arn(id));
        fault(Rule::NoSigning, message)
    }

    /// Makes a configuration.
    pub async fn create_signing(self: &Arc<Self>, change: SigningChange) -> Result<SigningView, Fault> {
        let this = Arc::clone(self);
        let done = self.registry.blocking(move |_| {
            let _turn = this.registry.shelf.changing.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(this.create_signing_now(change))
        });
        done.await?
    }

    fn create_signing_now(&self, change: SigningChange) -> Result<SigningView, Fault> {
        if self.signings(None, usize::MAX).len() >= MAX_CONFIGS {
            let message = format!("a server keeps at most {MAX_CONFIGS} code signing configurations");
            return Err(fault(Rule::Invalid, message));
        }
        let config = SigningConfig {
            description: change.description.unwrap_or_default(),
            publishers: change.publishers.unwrap_or_default(),
            policy: change.policy.unwrap_or_else(|| "Warn".to_owned()),
            modified_ms: now_ms(),
        };
        let id = new_id()?;
        self.put_signing(&id, &config)?;
        Ok(SigningView { id, config })
    }

    fn put_signing(&self, id: &str, config: &SigningConfig) -> Result<(), Fault> {
        self.registry.store.write(&[document(SIGNING, id.to_owned(), config)?])?;
        let mut all = self.registry.shelf.signing.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.to_owned(), config.clone());
        Ok(())
    }

    /// A configuration.
    pub fn signing(&self, id: &str) -> Result<SigningView, Fault> {
        let all = self.registry.shelf.signing.read().unwrap_or_else(PoisonError::into_inner);
        let config = all.get(id).cloned().ok_or_else(|| self.signing_absent(id))?;
        Ok(SigningView { id: id.to_owned(), config })
    }

    /// At most `limit` configurations after this id.
    pub fn signings(&self, after: Option<&String>, limit: usize) -> Vec<SigningView> {
        let all = self.registry.shelf.signing.read().unwrap_or_else(PoisonError::into_inner);
        page(&all, after, limit).into_iter().map(|(id, config)| SigningView { id, config }).collect()
    }

    /// Changes a configuration. A change of nothing is none.
    pub async fn update_signing(self: &Arc<Self>, id: String, change: SigningChange) -> Result<SigningView, Fault> {
        let this = Arc::clone(self);
        let done = self.registry.blocking(move |_| {
            let _turn = this.registry.shelf.changing.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(this.update_signing_now(id, change))
        });
        done.await?
    }

    fn update_signing_now(&self, id: String, change: SigningChange) -> Result<SigningView, Fault> {
        let before = self.signing(&id)?.config;
        let mut config = before.clone();
        config.description = change.description.unwrap_or(config.description);
        config.publishers = change.publishers.unwrap_or(config.publishers);
        config.policy = change.policy.unwrap_or(config.policy);
        if config != before {
            config.modified_ms = now_ms();
            self.put_signing(&id, &config)?;
        }
        Ok(SigningView { id, config })
    }

    /// Removes a configuration that no function holds to.
    pub async fn delete_signing(self: &Arc<Self>, id: String) -> Result<(), Fault> {
        let this = Arc::clone(self);
        let done = self.registry.blocking(move |_| {
            let _turn = this.registry.shelf.changing.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(this.delete_signing_now(&id))
        });
        done.await?
    }

    fn delete_signing_now(&self, id: &str) -> Result<(), Fault> {
        self.signing(id)?;
        if !self.signed_by(id, None, 1).is_empty() {
            let message = "The code signing configuration cannot be deleted while functions use it.";
            return Err(fault(Rule::Conflict, message));
        }
        self.registry.store.write(&[Document { kind: SIGNING, key: id.to_owned(), text: None }])?;
        self.registry.shelf.signing.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    /// At most `limit` functions after this one that hold to a configuration.
    pub fn signed_by(&self, id: &str, after: Option<&FunctionName>, limit: usize) -> Vec<FunctionName> {
        let functions = self.registry.shelf.functions.read().unwrap_or_else(PoisonError::into_inner);
        let holds = |(name, entry): (&FunctionName, &Arc<Entry>)| {
            (entry.doc.signing.as_deref() == Some(id) && after.is_none_or(|a| name > a)).then(|| name.clone())
        };
        let mut names: Vec<FunctionName> = functions.iter().filter_map(holds).collect();
        names.sort();
        names.truncate(limit);
        names
    }

    /// The configuration that a function holds to, by its id.
    pub fn function_signing(&self, name: &FunctionName) -> Result<Option<String>, Fault> {
        self.latest(name)?;
        Ok(self.entry(name).doc.signing.clone())
    }

    /// Lets a function hold to a configuration, or to none.
    pub async fn put_function_signing(self: &Arc<Self>, name: &FunctionName, id: Option<String>) -> Result<(), Fault> {
        if let Some(id) = &id {
            self.usable_signing(id)?;
        }
        self.amend(name, move |this, _, entry| {
            // Again, now that nothing else changes this function.
            if let Some(id) = &id {
                this.usable_signing(id)?;
            }
            entry.doc.signing = id;
            Ok(())
        })
        .await
    }

    fn usable_signing(&self, id: &str) -> Result<SigningConfig, Fault> {
        let gone = |_| {
            let message = format!(
                "The code signing configuration cannot be found. Check that the provided configuration is not deleted: {}.",
                self.signing_arn(id)
            );
            fault(Rule::SigningGone, message)
        };
        Ok(self.signing(id).map_err(gone)?.config)
    }

    /// Whether new code may come to a function that holds to this configuration.
    pub(super) fn lets_code_in(&self, id: Option<&str>) -> Result<(), Fault> {
        let Some(id) = id else { return Ok(()) };
        if self.usable_signing(id)?.policy != "Enforce" {
            return Ok(());
        }
        let message = "The code signature failed one or more of the validation checks for signature mismatch or expiry, and the code signing policy is set to ENFORCE. Lambda blocks the deployment.";
        Err(fault(Rule::Unsigned, message))
    }
}

fn new_id() -> Result<String, Fault> {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let mut bytes = [0u8; ID];
    getrandom::fill(&mut bytes).map_err(|e| {
        offshoot_model::Error::new(offshoot_model::ErrorKind::Internal, "no random numbers").caused_by(e)
    })?;
    let letters: String = bytes.iter().map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect();
    Ok(format!("csc-{letters}"))
}
