//! Roles that clients make before they make a function: kept in `roles.json` in the data directory so that what was written
//! can be read back, and nothing more. No policy of a role is ever evaluated.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use offshoot_model::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::keys::replace_file;

/// Roles of one server, at most (AWS: 1,000 of an account).
const MAX_ROLES: usize = 1000;
/// Bytes of everything in one role: documents, policies, tags.
const MAX_ROLE: usize = 256 << 10;

/// A role as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Role {
    /// Its path, `/` or `/…/`.
    pub path: String,
    /// Who may take it, as a document.
    pub trust: String,
    /// What it is for.
    pub description: String,
    /// The longest session, in seconds.
    pub max_session_s: u64,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// ARNs of policies attached to it.
    pub attached: BTreeMap<String, ()>,
    /// Policies of its own: name and document.
    pub inline: BTreeMap<String, String>,
}

/// All roles that were written.
#[derive(Debug)]
pub struct Roles {
    path: PathBuf,
    roles: Mutex<BTreeMap<String, Role>>,
}

impl Roles {
    /// Opens the roles of a data directory; without a file there are none.
    pub fn open(data_dir: &Path) -> Result<Roles, Error> {
        let path = data_dir.join("roles.json");
        let roles = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                let message = "the roles (roles.json in the data directory) are damaged: restore the file from a backup, or move it away";
                Error::new(ErrorKind::Store, message).caused_by(e)
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(unwritable().caused_by(e)),
        };
        Ok(Roles { path, roles: Mutex::new(roles) })
    }

    /// A role that was written.
    pub fn get(&self, name: &str) -> Option<Role> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<(String, Role)> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect()
    }

    /// Changes a role: `None` in, when it is not there; `None` out, to remove it. Durable when this returns. Blocks for a disk
    /// write.
    pub fn change<T>(
        &self,
        name: &str,
        change: impl FnOnce(Option<Role>) -> Result<(Option<Role>, T), Error>,
    ) -> Result<T, Error> {
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = roles.get(name).cloned();
        let (after, result) = change(before.clone())?;
        if after == before {
            return Ok(result);
        }
        if let Some(role) = &after {
            let size = serde_json::to_vec(role).map_or(usize::MAX, |bytes| bytes.len());
            if size > MAX_ROLE || (before.is_none() && roles.len() >= MAX_ROLES) {
                let message = format!("a role has at most {MAX_ROLE} bytes, and there are at most {MAX_ROLES} roles");
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
        }
        let mut changed = roles.clone();
        match after {
            Some(role) => drop(changed.insert(name.to_owned(), role)),
            None => drop(changed.remove(name)),
        }
        let bytes = serde_json::to_vec(&changed).map_err(|e| unwritable().caused_by(e))?;
        replace_file(&self.path, &bytes).map_err(|e| unwritable().caused_by(e))?;
        *roles = changed;
        Ok(result)
    }
}

fn unwritable() -> Error {
    Error::new(ErrorKind::Store, "the roles (roles.json in the data directory) cannot be read or written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_durable() {
        let dir = tempfile::tempdir().unwrap();
        let roles = Roles::open(dir.path()).unwrap();
        let role = Role { path: "/".into(), trust: "{}".into(), ..Role::default() };
        roles.change("r", |_| Ok((Some(role.clone()), ()))).unwrap();
        assert_eq!(Roles::open(dir.path()).unwrap().get("r"), Some(role));
        let large = Role { description: "x".repeat(MAX_ROLE), ..Role::default() };
        assert!(roles.change("r", |_| Ok((Some(large), ()))).is_err());
        roles.change("r", |before| Ok((None, assert!(before.is_some())))).unwrap();
        assert!(Roles::open(dir.path()).unwrap().list().is_empty());
        std::fs::write(dir.path().join("roles.json"), "[").unwrap();
        assert!(Roles::open(dir.path()).unwrap_err().message.contains("damaged"));
    }
}
