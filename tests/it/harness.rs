//! What every test needs: languages and their functions, archives made of folders, and small tools. `http` is the client,
//! `server` the server under test.

mod http;
mod server;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

pub use http::{Answer, Conn, find, form};
pub use server::{HOST_SECRET, Proc, Server, Shared, eventually, free_port, processes, signal};

/// The binary under test: the one that cargo built, or what the variable `BINARY` names (a release, say).
pub fn binary() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| std::env::var("BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_offshoot").to_owned()))
}
/// The longest that anything may take which has no time limit of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

// ── Languages ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A language that functions are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    Node,
    Python,
    Ruby,
}

impl Lang {
    /// The languages that every machine of these tests has.
    pub const ALL: [Lang; 2] = [Lang::Node, Lang::Python];

    /// Whether this machine has the language; said aloud where it has not.
    pub fn is_here(self, what: &str) -> bool {
        let here = self != Lang::Ruby || Path::new("/usr/bin/ruby").exists();
        if !here {
            skip(what, "Ruby is not on this machine: apt-get install ruby");
        }
        here
    }

    pub fn dir(self) -> &'static str {
        match self {
            Lang::Node => "node",
            Lang::Python => "python",
            Lang::Ruby => "ruby",
        }
    }

    /// The zip of one of `tests/functions`.
    pub fn zip(self, case: &str) -> Vec<u8> {
        let dir = root().join("tests/functions").join(self.dir()).join(case);
        assert!(dir.is_dir(), "there is no function folder {}", dir.display());
        zip_of_dir(&dir)
    }

    /// The zip of a function of the request convention whose only file says this.
    pub fn inline(self, body: &str) -> Vec<u8> {
        match self {
            Lang::Node => {
                zip_of(&[("index.js", format!("exports.handler = async (req) => ({{ body: {body} }});\n").as_bytes())])
            }
            Lang::Python => {
                zip_of(&[("index.py", format!("def handler(req):\n    return {{\"body\": {body}}}\n").as_bytes())])
            }
            Lang::Ruby => zip_of(&[("index.rb", format!("def handler(req)\n  {{ body: {body} }}\nend\n").as_bytes())]),
        }
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Makes a module for each language out of functions that take one.
macro_rules! per_language {
    ($($name:ident)*) => {
        mod node { $(#[test] fn $name() { super::$name($crate::harness::Lang::Node) })* }
        mod python { $(#[test] fn $name() { super::$name($crate::harness::Lang::Python) })* }
        mod ruby {
            $(#[test]
            fn $name() {
                let lang = $crate::harness::Lang::Ruby;
                if lang.is_here(concat!(module_path!(), "::", stringify!($name))) {
                    super::$name(lang);
                }
            })*
        }
    };
}
pub(crate) use per_language;

/// What only the workers for Node.js and Python do.
macro_rules! node_and_python {
    ($($name:ident)*) => {
        mod node { $(#[test] fn $name() { super::$name($crate::harness::Lang::Node) })* }
        mod python { $(#[test] fn $name() { super::$name($crate::harness::Lang::Python) })* }
    };
}
pub(crate) use node_and_python;

// ── What this machine cannot do ──────────────────────────────────────────────────────────────────────────────────────

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says aloud, past the test runner's capture, that something was not tested, and why.
pub fn skip(what: &str, why: &str) {
    let line = format!("SKIPPED {what}: {why}");
    let _ = writeln!(std::io::stderr(), "{line}");
    lock(&SKIPPED).push(line);
}

/// Everything that was skipped until now.
pub fn skipped() -> Vec<String> {
    lock(&SKIPPED).clone()
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The programs of boto3 and the AWS CLI, where `scripts/clients.sh` put them, or below what `AWS_CLIENTS` says. `None`, said
/// aloud: they are not here.
pub fn aws_clients(what: &str) -> Option<PathBuf> {
    let home = std::env::var_os("AWS_CLIENTS").map_or_else(|| root().join("target/clients"), PathBuf::from);
    let bin = home.join("bin");
    if bin.join("aws").exists() {
        return Some(bin);
    }
    skip(what, "boto3 and the AWS CLI are not installed: run scripts/clients.sh");
    None
}

/// The folder below `target/clients` where `scripts/clients/<part>.sh` puts things, if this file of it is there. `None`, said aloud:
/// it is not.
pub fn installed(what: &str, part: &str, file: &str) -> Option<PathBuf> {
    let home = root().join("target/clients").join(part);
    if home.join(file).exists() {
        return Some(home);
    }
    skip(what, &format!("it is not installed: run scripts/clients.sh {part}"));
    None
}

// ── Archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A zip with these files.
pub fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, data) in files {
        writer.start_file(*name, options).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A zip of a folder's content.
pub fn zip_of_dir(dir: &Path) -> Vec<u8> {
    fn walk(dir: &Path, prefix: &str, into: &mut Vec<(String, Vec<u8>)>) {
        let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
        entries.sort_by_key(|e| e.file_name());
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), into);
            } else {
                into.push((name, fs::read(entry.path()).unwrap()));
            }
        }
    }
    let mut files = Vec::new();
    walk(dir, "", &mut files);
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), d.as_slice())).collect();
    zip_of(&borrowed)
}

// ── Small things ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// A generator of pseudo-random numbers that a seed makes again (xorshift64*).
pub struct Random(u64);

impl Random {
    /// From the variable `SEED`, else from the clock. The seed is said aloud by whoever fails.
    pub fn seed() -> u64 {
        let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
        given.unwrap_or_else(|| {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1
        })
    }
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }
}

/// Runs the job in this many threads and gives back what each returned.
pub fn parallel<T: Send>(threads: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let job = &job;
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|i| scope.spawn(move || job(i))).collect();
        all.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    })
}

/// Compares with a file of `tests/golden`; `UPDATE_GOLDEN=1` writes it.
#[track_caller]
pub fn golden(name: &str, text: &str) {
    let path = root().join("tests/golden").join(name);
    let text = format!("{}\n", text.trim_end());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let wanted =
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert_eq!(text, wanted, "{} differs; if that is meant, UPDATE_GOLDEN=1 writes it anew", path.display());
}

/// Base64 with padding, for the few bytes that tests put into JSON.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |all, b| all << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            out.push(if i <= group.len() { ALPHABET[(bits >> (18 - 6 * i)) as usize & 63] as char } else { '=' });
        }
    }
    out
}
