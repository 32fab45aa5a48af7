//! The access keys with which clients sign requests as they sign them for AWS: made here, kept in `keys.json` in the data
//! directory (mode 0600), and asked for on every signed request.
//!
//! A key's secret is shown once, when it is made, and is nowhere afterwards: what is kept can check and make signatures, so
//! the file is as precious as the secrets, but it does not give them away (docs/design/006-sigv4.md).

mod hmac;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use offshoot_model::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

pub use hmac::{HmacKey, same};

use crate::pool::tap::now_ms;

/// Access keys of one server, at most.
const MAX_KEYS: usize = 1000;
/// The longest note on a key, in bytes.
const MAX_NOTE: usize = 128;
/// The letters of key ids (AWS's: base 32).
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// How long temporary keys may hold, in seconds (AWS: 15 minutes to 12 hours).
pub const TEMPORARY_S: std::ops::RangeInclusive<u64> = 900..=43_200;

/// An access key as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessKey {
    /// Its id: not secret.
    pub access_key_id: String,
    /// What it is for, in somebody's words.
    pub note: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
}

/// A key that was just made: the only moment in which its secret is there.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewKey {
    /// Its id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
}

/// A temporary key, as AWS's STS gives them out.
#[derive(Clone)]
pub struct TemporaryKey {
    /// Its id and secret.
    pub key: NewKey,
    /// What has to be sent along with every request.
    pub session_token: String,
    /// When it ends, seconds since 1970.
    pub expires_s: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    id: String,
    note: String,
    created_ms: u64,
    key: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// What temporary keys are derived from.
    seed: String,
    keys: Vec<Kept>,
}

/// All keys of a server.
#[derive(Debug)]
pub struct Keyring {
    path: PathBuf,
    /// Made with the first key; until then there is no file.
    seed: OnceLock<HmacKey>,
    document: Mutex<Document>,
    /// Ready for use: `AWS4` and the secret, as a key for codes.
    ready: RwLock<HashMap<String, HmacKey>>,
}

impl Keyring {
    /// Opens the keys of a data directory; without a file there are none.
    pub fn open(data_dir: &Path) -> Result<Keyring, Error> {
        let path = data_dir.join("keys.json");
        let document: Document = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| damaged().caused_by(e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Document::default(),
            Err(e) => return Err(unreadable().caused_by(e)),
        };
        let seed = OnceLock::new();
        if !document.seed.is_empty() {
            let _ = seed.set(HmacKey::from_hex(&document.seed).ok_or_else(damaged)?);
        }
        let mut ready = HashMap::new();
        for kept in &document.keys {
            ready.insert(kept.id.clone(), HmacKey::from_hex(&kept.key).ok_or_else(damaged)?);
        }
        Ok(Keyring { path, seed, document: Mutex::new(document), ready: RwLock::new(ready) })
    }

    /// Makes a key. It is durable when this returns. Blocks for a disk write.
    pub fn make(&self, note: &str) -> Result<NewKey, Error> {
        if note.len() > MAX_NOTE || note.chars().any(char::is_control) {
            let message = format!("a note has at most {MAX_NOTE} bytes and no control characters");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let made = NewKey { access_key_id: key_id("AKIA")?, secret_access_key: base64(&random::<30>()?) };
        let key = signing_root(&made.secret_access_key);
        let kept =
            Kept { id: made.access_key_id.clone(), note: note.to_owned(), created_ms: now_ms(), key: key.to_hex() };
        let mut document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        if document.keys.len() >= MAX_KEYS {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("there are {MAX_KEYS} keys, the limit: remove some"),
            ));
        }
        let fresh = document.seed.is_empty();
        seed_of(&mut document)?;
        document.keys.push(kept);
        if let Err(error) = write(&self.path, &document) {
            document.keys.pop();
            if fresh {
                document.seed.clear();
            }
            return Err(error);
        }
        self.ready.write().unwrap_or_else(PoisonError::into_inner).insert(made.access_key_id.clone(), key);
        Ok(made)
    }

    /// All keys, oldest first, without anything secret.
    pub fn list(&self) -> Vec<AccessKey> {
        let document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = |kept: &Kept| AccessKey {
            access_key_id: kept.id.clone(),
            note: kept.note.clone(),
            created_ms: kept.created_ms,
        };
        document.keys.iter().map(shown).collect()
    }

    /// Removes a key; `false`: there is none with this id. From then on nothing that is signed with it passes. Blocks for a
    /// disk write.
    pub fn remove(&self, id: &str) -> Result<bool, Error> {
        let mut document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = document.keys.iter().position(|kept| kept.id == id) else { return Ok(false) };
        let removed = document.keys.remove(at);
        if let Err(error) = write(&self.path, &document) {
            document.keys.insert(at, removed);
            return Err(error);
        }
        self.ready.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(true)
    }

    /// What temporary keys are derived from; made, and written, when it is first needed.
    fn seed(&self) -> Result<&HmacKey, Error> {
        if let Some(seed) = self.seed.get() {
            return Ok(seed);
        }
        let mut document = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = document.seed.is_empty();
        let seed = seed_of(&mut document)?;
        if fresh && let Err(error) = write(&self.path, &document) {
            document.seed.clear();
            return Err(error);
        }
        Ok(self.seed.get_or_init(|| seed))
    }

    /// Whether there is any key.
    pub fn is_empty(&self) -> bool {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What checks signatures made with this key: `AWS4` and its secret, as a key for codes.
    pub fn signing_root(&self, id: &str) -> Option<HmacKey> {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// The same for a temporary key, which is known by its session token; `None`: it is not ours, or has ended.
    pub fn temporary_root(&self, id: &str, token: &str, now_s: u64) -> Option<HmacKey> {
        let (expires, mac) = token.strip_prefix("offshoot1.")?.split_once('.')?;
        let expires_s: u64 = expires.parse().ok().filter(|_| expires.len() <= 12)?;
        let wanted = hex(&self.seed.get()?.code(&[b"token:", id.as_bytes(), b":", expires.as_bytes()]));
        let valid = same(mac.as_bytes(), wanted.as_bytes()) && now_s < expires_s;
        if valid { Some(signing_root(&temporary_secret(self.seed.get()?, id, expires))) } else { None }
    }

    /// Makes a temporary key. Nothing is stored: its secret and its token follow from this server's seed.
    pub fn make_temporary(&self, lasts_s: u64, now_s: u64) -> Result<TemporaryKey, Error> {
        if !TEMPORARY_S.contains(&lasts_s) {
            let message = format!("a session lasts {} to {} seconds", TEMPORARY_S.start(), TEMPORARY_S.end());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let (id, expires_s) = (key_id("ASIA")?, now_s.saturating_add(lasts_s));
        let expires = expires_s.to_string();
        let seed = self.seed()?;
        let mac = hex(&seed.code(&[b"token:", id.as_bytes(), b":", expires.as_bytes()]));
        let secret_access_key = temporary_secret(seed, &id, &expires);
        let session_token = format!("offshoot1.{expires}.{mac}");
        Ok(TemporaryKey { key: NewKey { access_key_id: id, secret_access_key }, session_token, expires_s })
    }
}

fn temporary_secret(seed: &HmacKey, id: &str, expires: &str) -> String {
    base64(&seed.code(&[b"secret:", id.as_bytes(), b":", expires.as_bytes()])[..30])
}

/// The document's seed, made if it has none.
fn seed_of(document: &mut Document) -> Result<HmacKey, Error> {
    if document.seed.is_empty() {
        document.seed = HmacKey::new(&random::<32>()?).to_hex();
    }
    HmacKey::from_hex(&document.seed).ok_or_else(damaged)
}

/// The first key of SigV4's chain. Only the date is signed with it, so it is all that has to be kept.
pub fn signing_root(secret: &str) -> HmacKey {
    HmacKey::new(format!("AWS4{secret}").as_bytes())
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(ErrorKind::Internal, "the machine gives no random numbers").caused_by(e))?;
    Ok(bytes)
}

/// Twenty characters, as AWS's: four that say what kind it is, and 80 random bits.
fn key_id(kind: &str) -> Result<String, Error> {
    let random = random::<16>()?;
    let letters = random.iter().map(|b| char::from(LETTERS[usize::from(b & 31)]));
    Ok(kind.chars().chain(letters).collect())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Thirty bytes are forty letters, without padding.
    let six = |group: &[u8], i: usize| {
        let bits = group.iter().fold(0u32, |all, b| all << 8 | u32::from(*b));
        char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63])
    };
    bytes.chunks_exact(3).flat_map(|group| (0..4).map(move |i| six(group, i))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn damaged() -> Error {
    let message = "the access keys (keys.json in the data directory) are damaged: restore the file from a backup, or move it \
                   away and make new keys; nothing was changed";
    Error::new(ErrorKind::Store, message)
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Store, "the access keys (keys.json in the data directory) cannot be read or written")
}

fn write(path: &Path, document: &Document) -> Result<(), Error> {
    let bytes = serde_json::to_vec_pretty(document).map_err(|e| unreadable().caused_by(e))?;
    replace_file(path, &bytes).map_err(|e| unreadable().caused_by(e))
}

/// Replaces a file as a whole, readable by its owner only: after a crash there is the old one or the new one.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_durable_and_their_secrets_are_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::open(dir.path()).unwrap();
        assert!(!dir.path().join("keys.json").exists(), "no key, no file");
        let made = ring.make("for ci").unwrap();
        assert_eq!((made.access_key_id.len(), made.secret_access_key.len()), (20, 40));
        let root = ring.signing_root(&made.access_key_id).unwrap();
        assert_eq!(root, signing_root(&made.secret_access_key));
        let path = dir.path().join("keys.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&made.access_key_id) && !text.contains(&made.secret_access_key));
        let again = Keyring::open(dir.path()).unwrap();
        assert_eq!(again.signing_root(&made.access_key_id), Some(root));
        assert_eq!(again.list()[0].note, "for ci");
        assert!(again.remove(&made.access_key_id).unwrap());
        assert!(!again.remove(&made.access_key_id).unwrap());
        assert!(again.signing_root(&made.access_key_id).is_none() && again.is_empty());
        assert!(Keyring::open(dir.path()).unwrap().is_empty());
        assert!(ring.make("a\nb").is_err() && ring.make(&"x".repeat(200)).is_err());
        fs::write(&path, "{").unwrap();
        assert!(Keyring::open(dir.path()).unwrap_err().message.contains("damaged"));
    }

    #[test]
    fn temporary_keys_hold_for_their_time_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::open(dir.path()).unwrap();
        let made = ring.make_temporary(900, 1_000).unwrap();
        let again = Keyring::open(dir.path()).unwrap();
        let root = |id: &str, token: &str, now| again.temporary_root(id, token, now);
        let (id, token) = (&made.key.access_key_id, &made.session_token);
        assert_eq!(root(id, token, 1_899), Some(signing_root(&made.key.secret_access_key)));
        assert!(root(id, token, 1_900).is_none(), "ended");
        assert!(root("ASIAOTHER", token, 1_000).is_none());
        assert!(root(id, &token.replace(".1900.", ".9900."), 1_000).is_none(), "longer than given");
        for bad in ["", "offshoot1.", "offshoot1.1900", "offshoot1.1900.", "x"] {
            assert!(root(id, bad, 1_000).is_none(), "{bad}");
        }
        assert!(ring.make_temporary(899, 0).is_err() && ring.make_temporary(43_201, 0).is_err());
    }
}
