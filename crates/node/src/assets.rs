//! The workers and the shared library, carried inside the binary and laid out on disk under a name that is their own digest.
//!
//! It never overwrites a layout that another server of another build may be using.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use offshoot_model::{Error, ErrorKind};
use sha2::{Digest, Sha256};

const FILES: &[(&str, &[u8])] = &[
    ("node/logs.cjs", include_bytes!("../../../workers/node/logs.cjs")),
    ("node/worker.cjs", include_bytes!("../../../workers/node/worker.cjs")),
    ("python/offshoot_event.py", include_bytes!("../../../workers/python/offshoot_event.py")),
    ("python/offshoot_logs.py", include_bytes!("../../../workers/python/offshoot_logs.py")),
    ("python/offshoot_request.py", include_bytes!("../../../workers/python/offshoot_request.py")),
    ("python/rehearsal.py", include_bytes!("../../../workers/python/rehearsal.py")),
    ("python/worker.py", include_bytes!("../../../workers/python/worker.py")),
    ("ruby/rehearsal.rb", include_bytes!("../../../workers/ruby/rehearsal.rb")),
    ("ruby/worker.rb", include_bytes!("../../../workers/ruby/worker.rb")),
    ("libjail.so", include_bytes!(concat!(env!("OUT_DIR"), "/libjail.so"))),
];

/// AWS's place for certificates of authorities beside those that Node.js has of its own, and where machines keep them.
const AUTHORITIES: (&str, &[&str]) =
    ("ca-cert.pem", &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"]);

/// Lays the files out below `data` and returns the directory that boxes see as `/var/runtime`.
pub fn lay_out(data: &Path) -> Result<PathBuf, Error> {
    let mut hash = Sha256::new();
    for (name, bytes) in FILES {
        hash.update(name.as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    let digest: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    let dir = data.join("runtime").join(digest);
    if dir.is_dir() && FILES.iter().all(|(name, bytes)| fs::read(dir.join(name)).is_ok_and(|have| have == *bytes)) {
        return Ok(dir);
    }
    let made = write(&dir).and_then(|()| link_authorities(&dir));
    made.map_err(|e| Error::new(ErrorKind::Store, "the workers cannot be written to the data directory").caused_by(e))?;
    Ok(dir)
}

fn write(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (name, bytes) in FILES {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent)?;
        // Boxes run as users of their own: what they may read must be readable by everyone, up to here.
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        // Not synced: the next start compares the contents, and writes again what a power cut has spoilt.
        let fresh = path.with_extension("new");
        let mut file = fs::File::create(&fresh)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        fs::rename(&fresh, &path)?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

/// A box shows the machine's own: what is renewed there is renewed here. A machine without any has no link either.
fn link_authorities(dir: &Path) -> std::io::Result<()> {
    let (name, places) = AUTHORITIES;
    let Some(place) = places.iter().find(|place| Path::new(place).exists()) else { return Ok(()) };
    match std::os::unix::fs::symlink(place, dir.join(name)) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}
