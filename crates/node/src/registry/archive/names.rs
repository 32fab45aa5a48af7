//! Which paths an archive may make, and the plan of the tree that it becomes.
//!
//! A name is taken as it is or refused: it is never cleaned, cut or renamed, because two readers clean differently. The one
//! change is to a whole archive: a single folder around everything is left out when the program is plainly inside of it.
//! Nothing here touches a disk.

use std::collections::{BTreeSet, HashMap};

use offshoot_model::{Error, Limits};

use super::structure::{Entry, Kind};
use super::{Wrapping, bad, shown};
use crate::registry::detect;

const MAX_SEGMENT: usize = 255;
const MAX_PATH: usize = 1024;
const MAX_DEPTH: usize = 64;

/// One thing to make. `entry` is its place in the archive's directory; a directory that is only implied has none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub path: String,
    pub kind: Kind,
    pub entry: Option<usize>,
}

/// What the archive becomes: paths in order, parents before children.
#[derive(Debug)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    /// The folder around everything that was left out.
    pub stripped: Option<String>,
}

/// Judges all names together and orders them.
pub(super) fn plan(entries: &[Entry], limits: &Limits, wrapping: Wrapping) -> Result<Plan, Error> {
    let mut nodes = Nodes { by_path: HashMap::new(), by_fold: HashMap::new(), most: limits.archive_entries };
    for (i, entry) in entries.iter().enumerate() {
        let path = check_name(&entry.name)?;
        nodes.add(path, entry.kind, i)?;
    }
    let mut steps: Vec<Step> =
        nodes.by_path.into_iter().map(|(path, (kind, entry))| Step { path, kind, entry }).collect();
    steps.sort_by(|a, b| a.path.cmp(&b.path));
    if steps.iter().all(|s| s.kind == Kind::Dir) {
        return Err(bad("the archive has no files"));
    }
    let stripped = if wrapping == Wrapping::Strip { folder_to_strip(&steps) } else { None };
    if let Some(folder) = &stripped {
        let prefix = format!("{folder}/");
        steps = steps
            .into_iter()
            .filter_map(|s| Some(Step { path: s.path.strip_prefix(&prefix)?.to_owned(), ..s }))
            .collect();
    }
    Ok(Plan { steps, stripped })
}

/// A name as a path relative to the tree, or why it cannot be one.
fn check_name(raw: &[u8]) -> Result<String, Error> {
    let illegal = |why: &str| Err(bad(format!("illegal file path: {} {why}", shown(raw))));
    let Ok(text) = std::str::from_utf8(raw) else { return illegal("is not UTF-8") };
    if text.is_empty() {
        return illegal("is empty");
    }
    if text.chars().any(char::is_control) {
        return illegal("has a control character");
    }
    if text.contains('\\') {
        return illegal("has a backslash: make the zip with a tool that writes /");
    }
    let path = text.strip_suffix('/').unwrap_or(text);
    let drive = path.as_bytes().get(1) == Some(&b':') && path.as_bytes()[0].is_ascii_alphabetic();
    if path.starts_with('/') || path.is_empty() || drive {
        return illegal("is absolute");
    }
    if path.split('/').any(|s| matches!(s, "" | "." | "..")) {
        return illegal("has an empty segment, . or ..");
    }
    if path.len() > MAX_PATH || path.split('/').any(|s| s.len() > MAX_SEGMENT) || path.split('/').count() > MAX_DEPTH {
        return illegal(&format!(
            "is too long: {MAX_SEGMENT} bytes per segment, {MAX_PATH} in all, {MAX_DEPTH} segments"
        ));
    }
    Ok(path.to_owned())
}

/// Everything that the archive makes, implied directories included.
struct Nodes {
    by_path: HashMap<String, (Kind, Option<usize>)>,
    /// By lower-case path: names that are one file to a reader that folds case.
    by_fold: HashMap<String, (String, Kind)>,
    most: u64,
}

impl Nodes {
    fn add(&mut self, path: String, kind: Kind, entry: usize) -> Result<(), Error> {
        self.imply_parents(&path)?;
        let twice = || bad(format!("'{}' is in it twice", path.escape_debug()));
        match self.by_path.get(&path) {
            None => self.insert(path, kind, Some(entry)),
            Some((Kind::Dir, None)) if kind == Kind::Dir => {
                self.by_path.insert(path, (kind, Some(entry)));
                Ok(())
            }
            Some(_) => Err(twice()),
        }
    }

    /// Adds the directories above a path. Stops at the first that is known: what is above it was added with it.
    fn imply_parents(&mut self, path: &str) -> Result<(), Error> {
        let mut at = path;
        while let Some((parent, _)) = at.rsplit_once('/') {
            match self.by_path.get(parent) {
                Some((Kind::Dir, _)) => return Ok(()),
                Some(_) => {
                    return Err(bad(format!("'{}' is a file or link and a directory too", parent.escape_debug())));
                }
                None => self.insert(parent.to_owned(), Kind::Dir, None)?,
            }
            at = parent;
        }
        Ok(())
    }

    /// Implied directories count like entries: deep names must not make more of a disk than the limit says.
    fn insert(&mut self, path: String, kind: Kind, entry: Option<usize>) -> Result<(), Error> {
        if self.by_path.len() as u64 >= self.most {
            return Err(bad(format!("more than {} files and directories", self.most)));
        }
        let fold = path.to_lowercase();
        if let Some((twin, twin_kind)) = self.by_fold.get(&fold)
            && !(kind == Kind::Dir && *twin_kind == Kind::Dir)
        {
            return Err(bad(format!(
                "'{}' and '{}' differ only in case, so it unpacks differently on other machines",
                twin.escape_debug(),
                path.escape_debug()
            )));
        }
        self.by_fold.insert(fold, (path.clone(), kind));
        self.by_path.insert(path, (kind, entry));
        Ok(())
    }
}

/// The single folder that people get when they zip a folder instead of its content, if leaving it out is plainly right: it
/// holds something that could be the handler's file, and it is not itself a Python package. What macOS adds beside it
/// (`__MACOSX`, `.DS_Store`) does not count and is left out with it.
fn folder_to_strip(steps: &[Step]) -> Option<String> {
    let litter = |root: &str| matches!(root, "__MACOSX" | ".DS_Store");
    let roots: BTreeSet<&str> = steps.iter().filter_map(|s| s.path.split('/').next()).filter(|r| !litter(r)).collect();
    let folder = roots.first().filter(|_| roots.len() == 1)?;
    let inside = |name: &str| steps.iter().any(|s| s.kind != Kind::Dir && s.path == format!("{folder}/{name}"));
    let is_dir = steps.iter().any(|s| s.kind == Kind::Dir && s.path == **folder);
    let wanted = detect::candidate_files().any(|name| inside(&name)) || inside("package.json");
    (is_dir && wanted && !inside("__init__.py")).then(|| (*folder).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_plain_and_bounded() {
        for good in
            ["a", "a/b.js", "a/", "node_modules/@scope/p/x.js", "é.txt", "...", "a b", "..a/b", &"x/".repeat(63)]
        {
            assert!(check_name(good.as_bytes()).is_ok(), "{good}");
        }
        let long = "x".repeat(256);
        let deep = "x/".repeat(64) + "y";
        let wide = vec!["y".repeat(200); 6].join("/");
        for bad in [
            "",
            "/",
            "//",
            "/etc/passwd",
            "../x",
            "a/../../b",
            "a/../b",
            "a/..",
            "..",
            ".",
            "./a",
            "a/./b",
            "a//b",
            "a//",
            "C:\\x",
            "C:/x",
            "c:x",
            "a\\b",
            "..\\x",
            "\\\\host\\x",
            "a\0b",
            "a\nb",
            "a\x1b[2J",
            &long,
            &deep,
            &wide,
        ] {
            assert!(check_name(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check_name(b"\xff\xfe").is_err());
        assert!(check_name(b"\xc0\xaf..").is_err());
    }
}
