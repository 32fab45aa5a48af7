//! The language table: which runtimes this machine has, where, and which one a runtime's name means here.
//!
//! Executables are found once, in the background, by asking each candidate for its version; answers are remembered in a cache
//! file, so that a later start asks nobody. This module never installs, never runs a function, reads no environment variable
//! (the caller passes `PATH` and the home directory) and never judges a program by its name alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use offshoot_model::{Error, ErrorKind, Language, RuntimeName};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Where to look, and what to do when the asked version is not there.
#[derive(Debug, Clone, Default)]
pub struct RuntimeOptions {
    /// Executables, or directories of executables, that come before all others.
    pub extra: Vec<PathBuf>,
    /// The directories of `PATH`, in order.
    pub path_dirs: Vec<PathBuf>,
    /// The home directory, where version managers keep their installs.
    pub home: Option<PathBuf>,
    /// Where answers are remembered between starts.
    pub cache_file: Option<PathBuf>,
    /// Whether the nearest present version of the language stands in for a missing one.
    pub allow_nearest: bool,
    /// Whether functions are accepted that this machine cannot run.
    pub accept_unrunnable: bool,
}

/// One runtime of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its name.
    pub name: RuntimeName,
    /// Its whole version, `20.20.2`.
    pub version: String,
    /// The program, without links in its path.
    pub executable: PathBuf,
    /// The directory that holds all of it, to be shown in a box; `None` when it lies under `/usr`, which every box shows.
    pub prefix: Option<PathBuf>,
}

/// What a runtime's name means on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRuntime {
    /// The name that was asked for, and that a function's configuration keeps.
    pub asked: RuntimeName,
    /// What runs.
    pub actual: Installed,
    /// Whether they are the same version.
    pub exact: bool,
}

/// Which language versions this machine has. Every method but `start`, `ready` and `is_ready` waits until discovery is done:
/// asynchronous callers await `ready` first, after which nothing waits.
#[derive(Debug)]
pub struct RuntimeTable {
    allow_nearest: bool,
    accept_unrunnable: bool,
    found: OnceLock<Discovery>,
    done: watch::Sender<bool>,
}

impl RuntimeTable {
    /// Starts discovery in the background and returns at once.
    pub fn start(options: RuntimeOptions) -> Arc<RuntimeTable> {
        let table = Arc::new(RuntimeTable::empty(options.allow_nearest, options.accept_unrunnable));
        let (here, again) = (Arc::clone(&table), options.clone());
        let thread = std::thread::Builder::new().name("find-runtimes".into());
        let work = move || {
            // Whoever waits must be answered, whatever happens here.
            let found = std::panic::catch_unwind(|| Discovery::run(&options)).unwrap_or_default();
            here.finish(found);
        };
        if thread.spawn(work).is_err() {
            table.finish(Discovery::run(&again));
        }
        table
    }

    /// Discovers before it returns.
    pub fn discover(options: RuntimeOptions) -> RuntimeTable {
        let table = RuntimeTable::empty(options.allow_nearest, options.accept_unrunnable);
        table.finish(Discovery::run(&options));
        table
    }

    /// A table of exactly these runtimes, for tests and simulations.
    pub fn of(installed: Vec<Installed>, allow_nearest: bool) -> Arc<RuntimeTable> {
        let table = RuntimeTable::empty(allow_nearest, false);
        table.finish(Discovery { installed, rejected: Vec::new() });
        Arc::new(table)
    }

    /// Blocks until discovery is done.
    pub fn wait(&self) {
        self.found.wait();
    }

    /// Completes when discovery is done.
    pub async fn ready(&self) {
        // The sender lives in `self`, so this cannot end otherwise.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    /// Whether discovery is done.
    pub fn is_ready(&self) -> bool {
        self.found.get().is_some()
    }

    /// What is there, by name: one install of each.
    pub fn installed(&self) -> Vec<Installed> {
        self.found.wait().installed.clone()
    }

    /// Programs that were looked at and cannot be used, each with its reason.
    pub fn rejected(&self) -> Vec<(PathBuf, String)> {
        self.found.wait().rejected.clone()
    }

    /// The newest runtime of a language.
    pub fn newest(&self, language: Language) -> Option<Installed> {
        if language == Language::Provided {
            return Some(provided(RuntimeName::BOOTSTRAP));
        }
        self.of_language(language).max_by_key(|i| i.name).cloned()
    }

    /// What runs when a function asks for this runtime; the error says how to get it and what is there.
    pub fn resolve(&self, asked: RuntimeName) -> Result<ResolvedRuntime, Error> {
        if asked.language == Language::Provided {
            return Ok(ResolvedRuntime { asked, actual: provided(asked), exact: true });
        }
        let text = asked.to_string();
        if let Some(hint) = RuntimeName::as_custom(&text).filter(|_| !asked.language.can_run()) {
            return Err(Error::new(ErrorKind::RuntimeMissing, format!("this server has no runtime {text}: {hint}")));
        }
        let distance = |i: &&Installed| {
            let (has, wants) = (version_number(i.name), version_number(asked));
            (has.abs_diff(wants), has < wants) // of two equally near ones, the newer
        };
        match self.of_language(asked.language).min_by_key(distance) {
            Some(near) if near.name == asked => Ok(ResolvedRuntime { asked, actual: near.clone(), exact: true }),
            Some(near) if self.allow_nearest => Ok(ResolvedRuntime { asked, actual: near.clone(), exact: false }),
            _ => Err(self.missing(&text, &install_line(asked))),
        }
    }

    /// Whether a function of this runtime may be kept: it runs here, or the operator lets in what does not.
    pub fn accepts(&self, asked: RuntimeName) -> Result<(), Error> {
        self.resolve(asked).map(drop).or_else(|e| if self.accept_unrunnable { Ok(()) } else { Err(e) })
    }

    /// The error for a language of which nothing is there.
    pub fn none_of(&self, language: Language) -> Error {
        let install = match language {
            Language::Node => install_line(RuntimeName { language, major: NODE.end, minor: 0 }),
            Language::Python => install_line(RuntimeName { language, major: 3, minor: PYTHON.end }),
            // Any version will do, and every distribution has one.
            Language::Ruby => "apt-get install ruby".to_owned(),
            Language::Provided | Language::Java | Language::Dotnet => install_line(RuntimeName::BOOTSTRAP),
        };
        self.missing(language.title(), &install)
    }

    fn missing(&self, what: &str, install: &str) -> Error {
        let names: Vec<String> = self.found.wait().installed.iter().map(|i| i.name.to_string()).collect();
        let here =
            if names.is_empty() { "nothing else is here".to_owned() } else { format!("here are {}", names.join(", ")) };
        let message =
            format!("{what} is not on this machine: install it with `{install}` and restart Offshoot ({here})");
        Error::new(ErrorKind::RuntimeMissing, message)
    }

    fn of_language(&self, language: Language) -> impl Iterator<Item = &Installed> {
        self.found.wait().installed.iter().filter(move |i| i.name.language == language)
    }

    fn empty(allow_nearest: bool, accept_unrunnable: bool) -> RuntimeTable {
        RuntimeTable { allow_nearest, accept_unrunnable, found: OnceLock::new(), done: watch::Sender::new(false) }
    }

    fn finish(&self, found: Discovery) {
        let _ = self.found.set(found); // the first answer stands
        self.done.send_replace(true);
    }
}

/// A custom runtime is on every machine: it comes with the function.
fn provided(name: RuntimeName) -> Installed {
    Installed { name, version: name.to_string(), executable: "/var/task/bootstrap".into(), prefix: None }
}

/// Versions that the workers are made for and tested with: Node.js majors, Python 3 and Ruby 3 minors.
const NODE: Range = Range { start: 18, end: 24 };
const PYTHON: Range = Range { start: 9, end: 14 };
const RUBY: Range = Range { start: 1, end: 4 };

struct Range {
    start: u16,
    end: u16,
}

fn version_number(name: RuntimeName) -> u32 {
    u32::from(name.major) * 1000 + u32::from(name.minor)
}

/// The line that installs a runtime where this module looks for it.
fn install_line(name: RuntimeName) -> String {
    match name.language {
        Language::Node => format!("nvm install {}", name.major),
        Language::Python => format!("uv python install {}.{}", name.major, name.minor),
        Language::Ruby => format!("mise install ruby@{}.{}", name.major, name.minor),
        Language::Provided | Language::Java | Language::Dotnet => "offshoot deploy".to_owned(),
    }
}

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many are asked at once.
const AT_ONCE: usize = 4;

/// What discovery found.
#[derive(Debug, Default)]
struct Discovery {
    installed: Vec<Installed>,
    rejected: Vec<(PathBuf, String)>,
}

impl Discovery {
    fn run(options: &RuntimeOptions) -> Discovery {
        let candidates = candidates(options);
        let known = Cache::read(options.cache_file.as_deref());
        let answers = ask_all(&candidates, &known);
        let cache = Cache::of(&candidates, &answers);
        if let Some(file) = options.cache_file.as_deref().filter(|_| cache != known)
            && let Err(e) = cache.write(file)
        {
            tracing::warn!(error = %e, "what is known of the runtimes cannot be remembered: the next start asks again");
        }
        let mut found = Discovery::default();
        let mut by_name = BTreeMap::new();
        for (candidate, answer) in candidates.into_iter().zip(answers) {
            match answer {
                Answer::Runtime(installed) => {
                    by_name.entry(installed.name).or_insert(installed);
                }
                Answer::Unfit(why) | Answer::Silent(why) => found.rejected.push((candidate.path, why)),
            }
        }
        found.installed = by_name.into_values().collect();
        found
    }
}

/// A program that may be a runtime, without links in its path.
#[derive(Debug, Clone)]
struct Candidate {
    path: PathBuf,
    language: Language,
    /// Changes when the file does.
    stamp: Stamp,
}

/// A program's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// It is one.
    Runtime(Installed),
    /// It is not one that can be used.
    Unfit(String),
    /// It did not answer; asked again at the next start.
    Silent(String),
}

/// All candidates in the order of preference, each program once.
fn candidates(options: &RuntimeOptions) -> Vec<Candidate> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    let mut add = |path: &Path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let language = match name {
            _ if name.starts_with("node") => Language::Node,
            _ if name.starts_with("ruby") => Language::Ruby,
            _ => Language::Python,
        };
        let Ok(path) = path.canonicalize() else { return };
        // A version manager's shims only point at installs that are looked at anyway.
        if path.parent().is_some_and(|dir| dir.ends_with("shims")) {
            return;
        }
        let Ok(about) = path.metadata() else { return };
        if about.is_file() && about.mode() & 0o111 != 0 && seen.insert(path.clone()) {
            list.push(Candidate { path, language, stamp: Stamp::of(&about) });
        }
    };
    for extra in &options.extra {
        if extra.is_dir() { in_dir(extra, &mut add) } else { add(extra) }
    }
    let system = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    for dir in options.path_dirs.iter().chain(&system) {
        in_dir(dir, &mut add);
    }
    for dir in managed_dirs(options.home.as_deref()) {
        in_dir(&dir, &mut add);
    }
    list
}

/// Offers every name that a runtime goes by in one directory.
fn in_dir(dir: &Path, add: &mut impl FnMut(&Path)) {
    for name in ["node", "nodejs", "python3", "ruby"] {
        add(&dir.join(name));
    }
    for minor in 6..=PYTHON.end + 2 {
        add(&dir.join(format!("python3.{minor}")));
    }
    for minor in 0..=RUBY.end {
        add(&dir.join(format!("ruby3.{minor}")));
    }
}

/// The directories in which version managers put programs; of one manager, the newest version first.
fn managed_dirs(home: Option<&Path>) -> Vec<PathBuf> {
    const UNDER_HOME: &[&str] = &[
        ".nvm/versions/node/*/bin",
        ".pyenv/versions/*/bin",
        ".local/share/fnm/node-versions/*/installation/bin",
        ".local/share/mise/installs/node/*/bin",
        ".local/share/mise/installs/python/*/bin",
        ".local/share/uv/python/*/bin",
        ".asdf/installs/nodejs/*/bin",
        ".asdf/installs/python/*/bin",
        ".volta/tools/image/node/*/bin",
        ".rbenv/versions/*/bin",
        ".rubies/*/bin",
        ".local/share/mise/installs/ruby/*/bin",
        ".asdf/installs/ruby/*/bin",
    ];
    let mut dirs = Vec::new();
    for pattern in home
        .into_iter()
        .flat_map(|home| UNDER_HOME.iter().map(move |p| home.join(p)))
        .chain([PathBuf::from("/opt/*/bin"), PathBuf::from("/opt/rubies/*/bin")])
    {
        let pattern = pattern.to_string_lossy();
        let Some((before, after)) = pattern.split_once("/*/") else { continue };
        let mut versions: Vec<PathBuf> =
            fs::read_dir(before).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path())).collect();
        versions.sort_by_key(|v| std::cmp::Reverse(numbers(v)));
        dirs.extend(versions.into_iter().map(|v| v.join(after)));
    }
    dirs
}

/// The numbers in a directory's name, so that 20.10.0 comes after 20.9.1.
fn numbers(path: &Path) -> Vec<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Every candidate's answer, in their order; what is in the cache is not asked.
fn ask_all(candidates: &[Candidate], known: &Cache) -> Vec<Answer> {
    let mut answers: Vec<Option<Answer>> = candidates.iter().map(|c| known.answer(c)).collect();
    let mut open: Vec<(&Candidate, &mut Option<Answer>)> =
        candidates.iter().zip(&mut answers).filter(|(_, a)| a.is_none()).collect();
    for batch in open.chunks_mut(AT_ONCE) {
        std::thread::scope(|scope| {
            for (candidate, answer) in batch {
                scope.spawn(|| **answer = Some(ask(candidate)));
            }
        });
    }
    answers.into_iter().map(|a| a.unwrap_or_else(|| Answer::Silent("was not asked".into()))).collect()
}

/// Asks one program what it is.
fn ask(candidate: &Candidate) -> Answer {
    match is_elf(&candidate.path) {
        Ok(true) => {}
        Ok(false) => return Answer::Unfit("is a script or shim, not the program itself".into()),
        Err(e) => return Answer::Silent(format!("cannot be read: {e}")),
    }
    let asked = match candidate.language {
        Language::Node => {
            output(Command::new(&candidate.path).arg("--version")).map(|text| judge_node(&candidate.path, &text))
        }
        Language::Python => output(Command::new(&candidate.path).args(["-I", "-S", "-c", PYTHON_QUESTION]))
            .map(|text| judge_python(&text)),
        Language::Ruby => output(Command::new(&candidate.path).args(["--disable=gems,rubyopt", "-e", RUBY_QUESTION]))
            .map(|text| judge_ruby(&text)),
        // Nobody looks for these.
        Language::Provided | Language::Java | Language::Dotnet => {
            return Answer::Unfit("a custom runtime comes with its function".into());
        }
    };
    match asked {
        Ok(Ok(installed)) => Answer::Runtime(installed),
        Ok(Err(why)) => Answer::Unfit(why),
        Err(why) => Answer::Silent(why),
    }
}

fn is_elf(path: &Path) -> std::io::Result<bool> {
    let mut magic = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut magic)?;
    Ok(magic == b"\x7fELF")
}

/// A virtual environment's Python may be a copy: what runs is the one that it was made from.
const PYTHON_QUESTION: &str = "import sys
print(sys.implementation.name, '.'.join(map(str, sys.version_info[:3])), 't' in getattr(sys, 'abiflags', ''))
print(sys.base_prefix)
print(getattr(sys, '_base_executable', '') or sys.executable)";

/// Ruby looks for its library where it was built to lie, so that is where it has to be shown in a box.
const RUBY_QUESTION: &str = "require 'rbconfig'
puts RUBY_ENGINE + ' ' + RUBY_VERSION, RbConfig::CONFIG['prefix'], RbConfig.ruby";

/// Runs a program that should answer at once, with nothing of this process's environment.
fn output(command: &mut Command) -> Result<String, String> {
    let command = command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("does not start: {e}"))?;
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not say its version in {} s", PATIENCE.as_secs()));
            }
        }
    };
    if !status.success() {
        return Err(format!("failed when asked for its version: {status}"));
    }
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // A child of the child may hold the pipe open; what is in it already is enough.
        stdout.take(4096).read_to_end(&mut text).map_err(|e| format!("cannot be heard: {e}"))?;
    }
    String::from_utf8(text).map_err(|_| "answers in no known encoding".into())
}

fn judge_node(path: &Path, text: &str) -> Result<Installed, String> {
    let version = text.trim().strip_prefix('v').ok_or("does not answer as Node.js does")?;
    let [major, _, _] = parts(version).ok_or("does not answer as Node.js does")?;
    if !(NODE.start..=NODE.end).contains(&major) {
        return Err(format!("is Node.js {version}: {} to {} are supported", NODE.start, NODE.end));
    }
    let name = RuntimeName { language: Language::Node, major, minor: 0 };
    let prefix = path.parent().map(|bin| bin.parent().filter(|up| up.parent().is_some()).unwrap_or(bin));
    Ok(Installed {
        name,
        version: version.to_owned(),
        executable: path.to_owned(),
        prefix: prefix.and_then(outside_usr),
    })
}

fn judge_python(text: &str) -> Result<Installed, String> {
    let odd = "does not answer as Python does";
    let mut lines = text.lines();
    let (first, prefix, program) = (lines.next().ok_or(odd)?, lines.next().ok_or(odd)?, lines.next().ok_or(odd)?);
    let mut words = first.split(' ');
    let (kind, version, free_threaded) = (words.next().ok_or(odd)?, words.next().ok_or(odd)?, words.next().ok_or(odd)?);
    if kind != "cpython" {
        return Err(format!("is {kind}: only CPython is supported"));
    }
    if free_threaded == "True" {
        return Err(format!("is the free-threaded build of Python {version}: only the usual one is supported"));
    }
    let [major, minor, _] = parts(version).ok_or(odd)?;
    if major != 3 || !(PYTHON.start..=PYTHON.end).contains(&minor) {
        return Err(format!("is Python {version}: 3.{} to 3.{} are supported", PYTHON.start, PYTHON.end));
    }
    let name = RuntimeName { language: Language::Python, major, minor };
    let executable =
        Path::new(program).canonicalize().map_err(|e| format!("names a program that is not there: {e}"))?;
    let prefix = Path::new(prefix).canonicalize().map_err(|e| format!("names a prefix that is not there: {e}"))?;
    Ok(Installed { name, version: version.to_owned(), executable, prefix: outside_usr(&prefix) })
}

fn judge_ruby(text: &str) -> Result<Installed, String> {
    let odd = "does not answer as Ruby does";
    let mut lines = text.lines();
    let (first, prefix, program) = (lines.next().ok_or(odd)?, lines.next().ok_or(odd)?, lines.next().ok_or(odd)?);
    let (kind, version) = first.split_once(' ').ok_or(odd)?;
    if kind != "ruby" {
        return Err(format!("is {kind}: only CRuby is supported"));
    }
    let [major, minor, _] = parts(version).ok_or(odd)?;
    if major != 3 || !(RUBY.start..=RUBY.end).contains(&minor) {
        return Err(format!("is Ruby {version}: 3.{} to 3.{} are supported", RUBY.start, RUBY.end));
    }
    let name = RuntimeName { language: Language::Ruby, major, minor };
    let executable =
        Path::new(program).canonicalize().map_err(|e| format!("names a program that is not there: {e}"))?;
    let prefix = Path::new(prefix).canonicalize().map_err(|e| format!("names a prefix that is not there: {e}"))?;
    if !executable.starts_with(&prefix) {
        return Err(format!("lies outside of its own prefix, {}", prefix.display()));
    }
    Ok(Installed { name, version: version.to_owned(), executable, prefix: outside_usr(&prefix) })
}

/// `20.20.2` as numbers; what follows a `-` is left out.
fn parts(version: &str) -> Option<[u16; 3]> {
    let plain = version.split('-').next()?;
    let numbers: Option<Vec<u16>> = plain.split('.').map(|n| n.parse().ok()).collect();
    numbers?.try_into().ok()
}

fn outside_usr(prefix: &Path) -> Option<PathBuf> {
    (!prefix.starts_with("/usr")).then(|| prefix.to_owned())
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    mtime_ns: i128,
    size: u64,
    inode: u64,
}

impl Stamp {
    fn of(about: &fs::Metadata) -> Stamp {
        let mtime_ns = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
        Stamp { mtime_ns, size: about.size(), inode: about.ino() }
    }
}

/// Answers of earlier starts.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cache {
    /// Changes with the questions, so that old answers are not taken for answers to new ones.
    format: u32,
    answers: HashMap<PathBuf, (Stamp, Answer)>,
}

/// Changes with the questions and the supported range.
const CACHE_FORMAT: u32 = 1;

impl Cache {
    /// A cache that cannot be read is empty.
    fn read(file: Option<&Path>) -> Cache {
        let read = file.and_then(|f| fs::read(f).ok()).and_then(|bytes| serde_json::from_slice::<Cache>(&bytes).ok());
        read.filter(|c| c.format == CACHE_FORMAT).unwrap_or(Cache { format: CACHE_FORMAT, answers: HashMap::new() })
    }

    fn of(candidates: &[Candidate], answers: &[Answer]) -> Cache {
        let kept = candidates.iter().zip(answers).filter(|(_, a)| !matches!(a, Answer::Silent(_)));
        Cache { format: CACHE_FORMAT, answers: kept.map(|(c, a)| (c.path.clone(), (c.stamp, a.clone()))).collect() }
    }

    fn answer(&self, candidate: &Candidate) -> Option<Answer> {
        let (stamp, answer) = self.answers.get(&candidate.path)?;
        let there = match answer {
            Answer::Runtime(i) => {
                i.name.language == candidate.language && (i.executable == candidate.path || i.executable.is_file())
            }
            _ => true,
        };
        (*stamp == candidate.stamp && there).then(|| answer.clone())
    }

    /// Replaces the file as a whole. It is only a memory, so it is not synced.
    fn write(&self, file: &Path) -> std::io::Result<()> {
        let draft = file.with_extension("new");
        let _ = fs::remove_file(&draft);
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        serde_json::to_writer(&mut out, self)?;
        fs::rename(&draft, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn name(text: &str) -> RuntimeName {
        RuntimeName::parse(text).unwrap()
    }

    fn table(names: &[&str], nearest: bool) -> Arc<RuntimeTable> {
        let entry =
            |n: &&str| Installed { name: name(n), version: String::new(), executable: PathBuf::new(), prefix: None };
        RuntimeTable::of(names.iter().map(entry).collect(), nearest)
    }

    #[test]
    fn the_asked_version_or_a_sentence() {
        let t = table(&["nodejs20.x", "nodejs24.x", "python3.11"], false);
        assert!(t.resolve(name("nodejs20.x")).unwrap().exact);
        let error = t.resolve(name("nodejs22.x")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::RuntimeMissing);
        assert_eq!(
            error.message,
            "nodejs22.x is not on this machine: install it with `nvm install 22` and restart Offshoot (here are nodejs20.x, nodejs24.x, python3.11)"
        );
        assert_eq!(t.newest(Language::Node).unwrap().name, name("nodejs24.x"));
        assert!(table(&[], false).none_of(Language::Python).message.contains("Python is not on this machine"));
    }

    #[test]
    fn the_nearest_version_stands_in_when_allowed() {
        let t = table(&["nodejs20.x", "nodejs24.x", "python3.9"], true);
        for (asked, actual) in [
            ("nodejs18.x", "nodejs20.x"),
            ("nodejs22.x", "nodejs24.x"),
            ("nodejs21.x", "nodejs20.x"),
            ("python3.13", "python3.9"),
        ] {
            let resolved = t.resolve(name(asked)).unwrap();
            assert_eq!((resolved.asked, resolved.actual.name, resolved.exact), (name(asked), name(actual), false));
        }
        assert!(table(&["nodejs20.x"], true).resolve(name("python3.11")).is_err());
    }

    #[test]
    fn answers_are_judged() {
        let node = |text| judge_node(Path::new("/opt/n/bin/node"), text);
        assert_eq!(node("v20.20.2\n").unwrap().prefix, Some(PathBuf::from("/opt/n")));
        assert_eq!(judge_node(Path::new("/usr/local/bin/node"), "v22.1.0").unwrap().prefix, None);
        assert_eq!(judge_node(Path::new("/opt/node"), "v22.1.0").unwrap().prefix, Some(PathBuf::from("/opt")));
        for bad in ["v16.20.0", "v26.0.0", "20.1.1", "v20", "", "vx.y.z"] {
            assert!(node(bad).is_err(), "{bad}");
        }
        let python = |first: &str| judge_python(&format!("{first}\n/\n/proc/self/exe\n"));
        assert_eq!(python("cpython 3.13.0 False").unwrap().name, name("python3.13"));
        for bad in
            ["cpython 3.13.0 True", "pypy 3.11.1 False", "cpython 3.8.1 False", "cpython 3.15.0 False", "cpython", ""]
        {
            assert!(python(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rubies_are_judged_by_their_answers() {
        let ruby = |first: &str| judge_ruby(&format!("{first}\n/\n/proc/self/exe\n"));
        assert_eq!(ruby("ruby 3.1.2").unwrap().name, name("ruby3.1"));
        assert_eq!(ruby("ruby 3.4.7").unwrap().prefix, Some(PathBuf::from("/")));
        for bad in ["ruby 2.7.8", "ruby 3.5.0", "ruby 4.0.0", "jruby 3.1.4", "truffleruby 3.3.7", "ruby", ""] {
            assert!(ruby(bad).is_err(), "{bad}");
        }
        assert!(judge_ruby("ruby 3.1.2\n/usr/share\n/proc/self/exe\n").unwrap_err().contains("outside"));
        assert!(table(&[], false).none_of(Language::Ruby).message.contains("install it with `apt-get install ruby`"));
        let missing = table(&["ruby3.1"], false).resolve(name("ruby3.3")).unwrap_err();
        assert!(missing.message.contains("`mise install ruby@3.3`") && missing.message.contains("here are ruby3.1"));
    }

    #[test]
    fn newest_managed_version_comes_first() {
        let home = tempfile::tempdir().unwrap();
        for v in ["v20.9.1", "v20.10.0", "v8.0.0"] {
            fs::create_dir_all(home.path().join(".nvm/versions/node").join(v)).unwrap();
        }
        let dirs: Vec<String> = managed_dirs(Some(home.path()))
            .iter()
            .filter(|d| d.starts_with(home.path()))
            .map(|d| d.to_string_lossy().into_owned())
            .collect();
        assert!(dirs[0].contains("v20.10.0") && dirs[1].contains("v20.9.1") && dirs[2].contains("v8.0.0"), "{dirs:?}");
    }

    #[test]
    fn scripts_and_strangers_are_rejected_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node"), "#!/bin/sh\necho v20.1.1\n").unwrap();
        fs::set_permissions(dir.path().join("node"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy("/bin/true", dir.path().join("python3")).unwrap();
        let found = Discovery::run(&RuntimeOptions { extra: vec![dir.path().to_owned()], ..RuntimeOptions::default() });
        let why = |n: &str| {
            found
                .rejected
                .iter()
                .find(|(p, _)| p.ends_with(n) && p.starts_with(dir.path().canonicalize().unwrap()))
                .unwrap()
                .1
                .clone()
        };
        assert!(why("node").contains("shim"), "{}", why("node"));
        assert!(why("python3").contains("does not answer as Python"), "{}", why("python3"));
    }

    #[test]
    fn a_cached_answer_is_not_asked_again_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("node");
        fs::copy("/bin/true", &program).unwrap();
        let cache_file = dir.path().join("runtimes.json");
        let options = RuntimeOptions {
            extra: vec![program.clone()],
            cache_file: Some(cache_file.clone()),
            ..RuntimeOptions::default()
        };
        let candidate = candidates(&options).remove(0);
        let answer = Answer::Runtime(judge_node(&candidate.path, "v19.0.0").unwrap());
        Cache::of(std::slice::from_ref(&candidate), &[answer]).write(&cache_file).unwrap();
        let has_19 = |t: &RuntimeTable| t.installed().iter().any(|i| i.name == name("nodejs19.x"));
        assert!(has_19(&RuntimeTable::discover(options.clone())));
        fs::write(&program, "changed").unwrap();
        assert!(!has_19(&RuntimeTable::discover(options.clone())));
        fs::write(&cache_file, "{ not json").unwrap();
        assert!(!has_19(&RuntimeTable::discover(options)));
    }

    #[tokio::test]
    async fn start_returns_at_once_and_ready_follows() {
        let table = RuntimeTable::start(RuntimeOptions::default());
        table.ready().await;
        assert!(table.is_ready());
        table.wait();
    }
}
