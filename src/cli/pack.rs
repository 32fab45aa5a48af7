//! Makes the archive that is deployed: from a directory, from one file, or as it is.
//!
//! The same files give the same bytes, whoever packs them and when: sorted names, one fixed time, modes 644 or 755.
//! What is left out, and why, is always counted and can be listed. It never runs a build and never writes to disk.
//!
//! Which files of a directory are packed:
//!
//! * never: version control, `.offshoot`, `__pycache__`, virtual environments, `.DS_Store`, `function.toml`, ignore files,
//!   and `.env` files (secrets belong in the environment: `--env-file .env`);
//! * with `.offshootignore` files: what they say, and nothing else; a `!pattern` brings anything back;
//! * without: what `.gitignore` files below PATH say, but dependencies (`node_modules`, `vendor`, `site-packages`,
//!   `python`) and whatever the handler names are packed whole, since they are usually ignored and always needed.

use std::io::{Cursor, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use offshoot_model::Limits;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::error::CliError;
use super::units::show_bytes;

const NEVER: &[&str] = &[
    ".git",
    ".hg",
    ".svn",
    ".jj",
    ".offshoot",
    "__pycache__",
    ".venv",
    "venv",
    ".DS_Store",
    "function.toml",
    ".gitignore",
    ".offshootignore",
];
const DEPENDENCIES: &[&str] = &["node_modules", "vendor", "site-packages", "python"];
/// The module names that runtimes load when a deployment names no handler.
const USUAL_HANDLERS: &[&str] = &["index", "lambda_function"];
/// An archive, ready to be sent.
#[derive(Debug)]
pub struct Package {
    /// The zip.
    pub bytes: Bytes,
    /// How many files it holds; `None` when it was a zip already.
    pub files: Option<usize>,
    /// What was left out of it, and why.
    pub left_out: Vec<(String, &'static str)>,
    /// The handler, where one file was packed and so names it.
    pub handler: Option<String>,
}

/// A file to pack.
struct Found {
    name: String,
    path: PathBuf,
    size: u64,
    executable: bool,
}

/// Packs what lies at `path`. `handler` is the deployment's, when it names one.
pub fn pack(path: &Path, handler: Option<&str>, limits: &Limits) -> Result<Package, CliError> {
    let about = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    if about.is_dir() {
        return pack_directory(path, handler, limits);
    }
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("zip")) {
        return take_zip(path, about.len(), limits);
    }
    let name = utf8(path.file_name().map(Path::new).unwrap_or(path))?;
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or(&name);
    let handler = Some(format!("{stem}.handler"));
    let executable = about.permissions().mode() & 0o100 != 0;
    let found = vec![Found { name: name.clone(), path: path.to_owned(), size: about.len(), executable }];
    Ok(Package { bytes: zip_files(found, limits)?, files: Some(1), left_out: Vec::new(), handler })
}

/// The name that a function gets from the path it is deployed from.
pub fn name_of(path: &Path) -> Option<String> {
    let full = path.canonicalize().ok()?;
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    name.and_then(|n| n.to_str()).map(str::to_owned)
}

fn take_zip(path: &Path, size: u64, limits: &Limits) -> Result<Package, CliError> {
    let mut file = std::fs::File::open(path).map_err(|e| unreadable(path, &e))?;
    if size > limits.zipped_bytes {
        return Err(too_large("archive", size, limits.zipped_bytes, contents(&file)));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.read_to_end(&mut bytes).map_err(|e| unreadable(path, &e))?;
    if !bytes.starts_with(b"PK") {
        return Err(CliError::config(format!("{} is not a zip archive, in spite of its name", path.display()))
            .hint("give the directory itself, and it is packed for you: offshoot deploy DIR"));
    }
    Ok(Package { bytes: bytes.into(), files: None, left_out: Vec::new(), handler: None })
}

fn contents(file: &std::fs::File) -> Vec<(String, u64)> {
    let Ok(mut archive) = zip::ZipArchive::new(file) else { return Vec::new() };
    let count = archive.len().min(100_000);
    let entry = |i| archive.by_index_raw(i).ok().map(|e| (e.name().to_owned(), e.compressed_size()));
    (0..count).filter_map(entry).collect()
}

fn pack_directory(root: &Path, handler: Option<&str>, limits: &Limits) -> Result<Package, CliError> {
    let own_rules = root.join(".offshootignore").is_file();
    let mut walk = Walk {
        root,
        ignore_file: if own_rules { ".offshootignore" } else { ".gitignore" },
        own_rules,
        needed: handler.and_then(|h| h.rsplit_once('.')).map_or(USUAL_HANDLERS.to_vec(), |(file, _)| vec![file]),
        rules: Vec::new(),
        inside: Vec::new(),
        found: Vec::new(),
        left_out: Vec::new(),
    };
    walk.directory(root, false)?;
    let (mut found, mut left_out) = (walk.found, walk.left_out);
    if found.is_empty() {
        return Err(CliError::config(format!("{} has no files to deploy", root.display()))
            .maybe_hint((!left_out.is_empty()).then(|| format!("{} were left out: -v lists them", left_out.len()))));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    left_out.sort();
    let files = Some(found.len());
    Ok(Package { bytes: zip_files(found, limits)?, files, left_out, handler: None })
}

/// A walk through a directory, with the ignore rules from the root down to where it is.
struct Walk<'a> {
    root: &'a Path,
    ignore_file: &'static str,
    own_rules: bool,
    needed: Vec<&'a str>,
    rules: Vec<Gitignore>,
    /// The directories above, by device and inode: a link back to one of them is a loop.
    inside: Vec<(u64, u64)>,
    found: Vec<Found>,
    left_out: Vec<(String, &'static str)>,
}

impl Walk<'_> {
    /// `whole`: a directory that git's rules do not reach into.
    fn directory(&mut self, dir: &Path, whole: bool) -> Result<(), CliError> {
        let about = std::fs::metadata(dir).map_err(|e| unreadable(dir, &e))?;
        let identity = (about.dev(), about.ino());
        if self.inside.contains(&identity) {
            return Err(CliError::config(format!("the link {} leads back to a directory above it", dir.display()))
                .hint("remove it, or name it in .offshootignore"));
        }
        self.inside.push(identity);
        self.rules.push(self.rules_of(dir)?);
        for entry in std::fs::read_dir(dir).map_err(|e| unreadable(dir, &e))? {
            let path = entry.map_err(|e| unreadable(dir, &e))?.path();
            self.entry(&path, whole)?;
        }
        self.rules.pop();
        self.inside.pop();
        Ok(())
    }

    fn entry(&mut self, path: &Path, whole: bool) -> Result<(), CliError> {
        let name = utf8(path.strip_prefix(self.root).unwrap_or(path))?;
        let Ok(about) = std::fs::metadata(path) else {
            self.left_out.push((name, "a link to nothing"));
            return Ok(());
        };
        let enter_whole = match self.verdict(path, &name, about.is_dir(), whole) {
            Ok(whole) => whole,
            Err(why) => {
                self.left_out.push((name, why));
                return Ok(());
            }
        };
        if about.is_dir() {
            return self.directory(path, enter_whole);
        }
        if !about.is_file() {
            self.left_out.push((name, "neither a file nor a directory"));
            return Ok(());
        }
        let executable = about.permissions().mode() & 0o100 != 0;
        self.found.push(Found { name, path: path.to_owned(), size: about.len(), executable });
        Ok(())
    }

    /// Whether an entry is packed: `Ok(whole)` or why it is not.
    fn verdict(&self, path: &Path, name: &str, is_dir: bool, whole: bool) -> Result<bool, &'static str> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let ruling = if whole { None } else { self.ruling(path, is_dir) };
        if self.own_rules && ruling == Some(false) {
            return Ok(whole);
        }
        if NEVER.contains(&last) {
            return Err("never packed");
        }
        if last == ".env" || last.starts_with(".env.") {
            return Err("may hold secrets: give it with --env-file");
        }
        let dependency = !self.own_rules && is_dir && DEPENDENCIES.contains(&last);
        match ruling {
            Some(true) if self.own_rules => Err("in .offshootignore"),
            Some(true) if !dependency && !self.needs(name, is_dir) => Err("in .gitignore"),
            Some(true) => Ok(true),
            _ => Ok(whole || dependency),
        }
    }

    /// What the nearest rule says: ignore (`true`), keep (`false`), or nothing.
    fn ruling(&self, path: &Path, is_dir: bool) -> Option<bool> {
        self.rules.iter().rev().find_map(|rules| match rules.matched(path, is_dir) {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        })
    }

    /// Whether the handler's file is this one, or lies below this directory.
    fn needs(&self, name: &str, is_dir: bool) -> bool {
        let below = |file: &str| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        let is = |file: &str| name.rsplit_once('.').is_some_and(|(stem, _)| stem == file);
        self.needed.iter().any(|file| if is_dir { below(file) } else { is(file) })
    }

    fn rules_of(&self, dir: &Path) -> Result<Gitignore, CliError> {
        let file = dir.join(self.ignore_file);
        if !file.is_file() {
            return Ok(Gitignore::empty());
        }
        let mut builder = GitignoreBuilder::new(dir);
        let wrong = |e: ignore::Error| CliError::config(format!("{}: {e}", file.display()));
        builder.add(&file).map_or(Ok(()), |e| Err(wrong(e)))?;
        builder.build().map_err(wrong)
    }
}

fn zip_files(found: Vec<Found>, limits: &Limits) -> Result<Bytes, CliError> {
    let sizes = || found.iter().map(|f| (f.name.clone(), f.size)).collect();
    let total = found.iter().map(|f| f.size).sum();
    if total > limits.unzipped_bytes {
        return Err(too_large("unpacked code", total, limits.unzipped_bytes, sizes()));
    }
    if found.len() as u64 > limits.archive_entries {
        return Err(CliError::config(format!(
            "{} files are more than the {} that one archive may hold",
            found.len(),
            limits.archive_entries
        ))
        .hint("leave some out with an .offshootignore file"));
    }
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for file in &found {
        let content = std::fs::read(&file.path).map_err(|e| unreadable(&file.path, &e))?;
        let mode = if file.executable { 0o755 } else { 0o644 };
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let options = options.last_modified_time(DateTime::default()).unix_permissions(mode);
        let failed = |e: &dyn std::fmt::Display| CliError::config(format!("cannot pack {}: {e}", file.path.display()));
        zip.start_file(file.name.as_str(), options).map_err(|e| failed(&e))?;
        zip.write_all(&content).map_err(|e| failed(&e))?;
    }
    let bytes = zip.finish().map_err(|e| CliError::config(format!("cannot pack: {e}")))?.into_inner();
    if bytes.len() as u64 > limits.zipped_bytes {
        return Err(too_large("archive", bytes.len() as u64, limits.zipped_bytes, sizes()));
    }
    Ok(bytes.into())
}

fn too_large(what: &str, size: u64, limit: u64, mut files: Vec<(String, u64)>) -> CliError {
    files.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let rows: Vec<String> =
        files.iter().take(10).map(|(name, size)| format!("\n  {:>9}  {name}", show_bytes(*size))).collect();
    let largest = if rows.is_empty() { String::new() } else { format!("; the largest files are:{}", rows.concat()) };
    let setting = if what == "archive" { "OFFSHOOT_LIMITS_ZIPPED_BYTES" } else { "OFFSHOOT_LIMITS_UNZIPPED_BYTES" };
    let message = format!(
        "the {what} has {} ({size} bytes), and at most {} ({limit} bytes) are allowed{largest}",
        show_bytes(size),
        show_bytes(limit)
    );
    CliError::new(super::error::Exit::Config, "too-large", message).hint(format!(
        "leave files out with an .offshootignore file; if the server accepts more, set {setting} here too"
    ))
}

fn utf8(path: &Path) -> Result<String, CliError> {
    let wrong = || {
        CliError::config(format!("the file name {} is not UTF-8", path.display()))
            .hint("rename it, or name it in .offshootignore")
    };
    path.to_str().map(str::to_owned).ok_or_else(wrong)
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    let what =
        if error.kind() == std::io::ErrorKind::NotFound { "it does not exist".to_owned() } else { error.to_string() };
    CliError::config(format!("cannot read {}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(tempfile::TempDir);
    impl Dir {
        fn of(files: &[(&str, &str)]) -> Self {
            let dir = Dir(tempfile::tempdir().unwrap());
            for (name, text) in files {
                let path = dir.0.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            dir
        }
        fn packed(&self, handler: Option<&str>) -> Package {
            pack(self.0.path(), handler, &Limits::default()).unwrap()
        }
        fn names(&self, handler: Option<&str>) -> Vec<String> {
            names(&self.packed(handler))
        }
    }
    fn names(package: &Package) -> Vec<String> {
        let mut archive = zip::ZipArchive::new(Cursor::new(package.bytes.to_vec())).unwrap();
        (0..archive.len()).map(|i| archive.by_index(i).unwrap().name().to_owned()).collect()
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let files = [("b.js", "b"), ("index.js", "x"), ("a/z.js", "z"), ("a.js", "a")];
        let first = Dir::of(&files);
        let second = Dir::of(&files.iter().rev().copied().collect::<Vec<_>>());
        let path = second.0.path().join("index.js");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(first.packed(None).bytes, second.packed(None).bytes);
        assert_eq!(first.names(None), ["a.js", "a/z.js", "b.js", "index.js"]);
    }

    #[test]
    fn executables_stay_executable() {
        let dir = Dir::of(&[("bootstrap", "#!"), ("index.js", "")]);
        std::fs::set_permissions(dir.0.path().join("bootstrap"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut archive = zip::ZipArchive::new(Cursor::new(dir.packed(None).bytes.to_vec())).unwrap();
        assert_eq!(archive.by_name("bootstrap").unwrap().unix_mode(), Some(0o100_755));
        assert_eq!(archive.by_name("index.js").unwrap().unix_mode(), Some(0o100_644));
    }

    #[test]
    fn gitignore_applies_but_not_to_dependencies_nor_to_the_handler() {
        let dir = Dir::of(&[
            (".gitignore", "node_modules/\n*.log\ndist\nbuild/\nsecret.js\n"),
            ("index.js", ""),
            ("debug.log", ""),
            ("build/x.js", ""),
            ("node_modules/a/index.js", ""),
            ("node_modules/a/dist/b.log", ""),
            ("node_modules/a/.git/HEAD", ""),
            ("dist/app.js", ""),
            ("dist/other.log", ""),
            ("secret.js", ""),
            ("sub/.gitignore", "*.tmp\n!keep.log\n"),
            ("sub/x.tmp", ""),
            ("sub/keep.log", ""),
        ]);
        let dependencies = ["node_modules/a/dist/b.log", "node_modules/a/index.js", "sub/keep.log"];
        assert_eq!(dir.names(None), [&["index.js"], &dependencies[..]].concat());
        assert_eq!(
            dir.names(Some("dist/app.main")),
            [&["dist/app.js", "dist/other.log", "index.js"], &dependencies[..]].concat()
        );
        assert_eq!(
            dir.names(Some("secret.handler")),
            [&["index.js"], &dependencies[..2], &["secret.js"], &dependencies[2..]].concat()
        );
        let left = dir.packed(None).left_out;
        assert!(
            left.contains(&("debug.log".into(), "in .gitignore")) && left.contains(&("dist".into(), "in .gitignore"))
        );
    }

    #[test]
    fn offshootignore_is_the_only_source() {
        let dir = Dir::of(&[
            (".offshootignore", "node_modules\n*.md\n!.env\n"),
            (".gitignore", "*.js\n"),
            ("index.js", ""),
            ("README.md", ""),
            (".env", "A=1"),
            ("node_modules/a.js", ""),
            (".git/HEAD", ""),
        ]);
        assert_eq!(dir.names(None), [".env", "index.js"]);
    }

    #[test]
    fn some_things_are_never_packed() {
        let dir = Dir::of(&[
            (".git/HEAD", ""),
            (".venv/x.py", ""),
            ("__pycache__/a.pyc", ""),
            (".env", "A=1"),
            (".env.prod", ""),
            (".environment", ""),
            ("function.toml", ""),
            ("app.py", ""),
        ]);
        assert_eq!(dir.names(None), [".environment", "app.py"]);
        assert!(dir.packed(None).left_out.iter().any(|(name, why)| name == ".env" && why.contains("--env-file")));
    }

    #[test]
    fn links_are_followed_and_loops_found() {
        let dir = Dir::of(&[("real/a.js", "a")]);
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, dir.0.path().join(name)).unwrap();
        link("real", "linked");
        link("nowhere", "dangling");
        assert_eq!(dir.names(None), ["linked/a.js", "real/a.js"]);
        assert_eq!(dir.packed(None).left_out, [("dangling".to_owned(), "a link to nothing")]);
        link(".", "loop");
        assert!(pack(dir.0.path(), None, &Limits::default()).unwrap_err().message.contains("loop leads back"));
    }

    #[test]
    fn one_file_names_its_handler() {
        let dir = Dir::of(&[("foo.py", "def handler(e, c): return e")]);
        let package = pack(&dir.0.path().join("foo.py"), None, &Limits::default()).unwrap();
        assert_eq!((names(&package), package.handler.as_deref()), (vec!["foo.py".to_owned()], Some("foo.handler")));
        assert_eq!(name_of(&dir.0.path().join("foo.py")).as_deref(), Some("foo"));
    }

    #[test]
    fn too_large_names_the_largest_files() {
        let dir = Dir::of(&[("big.bin", &"x".repeat(3000)), ("small.js", "x")]);
        let limits = Limits { unzipped_bytes: 2000, ..Limits::default() };
        let error = pack(dir.0.path(), None, &limits).unwrap_err();
        assert!(
            error.message.contains("2.9 kB  big.bin\n") && error.message.contains("1 B  small.js"),
            "{}",
            error.message
        );
        let limits = Limits { zipped_bytes: 20, ..Limits::default() };
        assert_eq!(pack(dir.0.path(), None, &limits).unwrap_err().kind, "too-large");
        std::fs::write(dir.0.path().join("f.zip"), dir.packed(None).bytes).unwrap();
        assert!(pack(&dir.0.path().join("f.zip"), None, &limits).unwrap_err().message.contains("big.bin"));
    }

    #[test]
    fn what_cannot_be_packed_is_said() {
        let dir = Dir::of(&[("fake.zip", "hello"), ("empty/.git/x", "")]);
        let error = |name: &str| pack(&dir.0.path().join(name), None, &Limits::default()).unwrap_err();
        assert!(error("fake.zip").message.contains("not a zip"));
        assert!(error("empty").message.contains("no files"));
        assert!(error("missing").message.contains("does not exist"));
    }
}
