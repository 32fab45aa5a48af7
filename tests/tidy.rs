//! Holds the import table of ARCHITECTURE.md: which crate may use which, what may not be named where, and that every
//! error kind has its page. It reads files and runs nothing.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The crates that a manifest names under `[dependencies]`.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    section.lines().filter(|l| !l.starts_with('#')).map(name).filter(|n| !n.is_empty()).collect()
}

#[test]
fn each_floor_looks_only_down() {
    let table: &[(&str, &[&str], &[&str])] = &[
        // (crate, floors it may use, libraries it may not use)
        ("model", &[], &["tokio", "hyper", "http", "rusqlite", "rustix", "libc", "toml", "clap"]),
        ("jail", &[], &["tokio", "hyper", "http", "rusqlite", "clap", "tracing"]),
        ("sandbox", &["offshoot-model"], &["hyper", "http", "rusqlite", "toml", "clap", "libc"]),
        ("node", &["offshoot-model", "offshoot-sandbox"], &["toml", "clap", "libc"]),
        ("api", &["offshoot-model", "offshoot-node"], &["rusqlite", "toml", "clap", "libc", "rustix"]),
    ];
    for (name, floors, forbidden) in table {
        let has = dependencies(&root().join(format!("crates/{name}/Cargo.toml")));
        assert!(!has.is_empty(), "{name}: no dependencies were read");
        for ours in has.iter().filter(|d| d.starts_with("offshoot-")) {
            assert!(floors.contains(&ours.as_str()), "crates/{name} may not use {ours}: it looks up, or sideways");
        }
        for library in *forbidden {
            assert!(!has.contains(*library), "crates/{name} may not use {library}");
        }
    }
}

/// The node speaks HTTP to the programs in its boxes, and to nobody else.
#[test]
fn the_node_speaks_http_in_one_place() {
    for file in sources(&root().join("crates/node/src")) {
        let here = file.strip_prefix(root().join("crates/node/src")).unwrap();
        if !here.starts_with("runtime_api") {
            let text = fs::read_to_string(&file).unwrap();
            let speaks = ["hyper::", "use http::", "hyper_util::", "http_body_util::"].iter().any(|u| text.contains(u));
            assert!(!speaks, "{} speaks HTTP: only the Runtime API does", file.display());
        }
    }
}

#[test]
fn unsafe_code_lives_in_the_jail() {
    for dir in ["src", "crates/model/src", "crates/sandbox/src", "crates/node/src", "crates/api/src"] {
        for file in sources(&root().join(dir)) {
            let text = fs::read_to_string(&file).unwrap();
            let block = text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains("unsafe {"));
            assert!(!block, "{} has unsafe code: it belongs into crates/jail", file.display());
        }
    }
}

#[test]
fn only_the_configuration_reads_the_environment() {
    let below = ["crates/model/src", "crates/sandbox/src", "crates/node/src", "crates/api/src"];
    for dir in below {
        for file in sources(&root().join(dir)) {
            let text = fs::read_to_string(&file).unwrap();
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!product.contains("env::var"), "{} reads the environment", file.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for dir in ["src", "crates", "tests", "benches"] {
        for file in sources(&root().join(dir)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("//!"), "{} does not open with what it is for", file.display());
        }
    }
}

/// Kinds that only the API knows: they are said before a node is asked, or after it has answered.
const AT_THE_DOOR: &[&str] = &[
    "no-route",
    "unauthorized",
    "method-not-allowed",
    "too-slow",
    "uri-too-long",
    "misdirected",
    "cross-site",
    "bad-reply",
];

#[test]
fn every_error_kind_has_its_page() {
    for kind in offshoot_model::ErrorKind::ALL {
        let page = root().join(format!("docs/errors/{}.md", kind.code()));
        let text = fs::read_to_string(&page).unwrap_or_default();
        assert!(text.contains(kind.code()), "docs/errors/{}.md is missing", kind.code());
    }
    let api: String = sources(&root().join("crates/api/src")).iter().map(|f| fs::read_to_string(f).unwrap()).collect();
    let list = fs::read_to_string(root().join("docs/errors/README.md")).unwrap();
    for code in AT_THE_DOOR {
        assert!(api.contains(&format!("\"{code}\"")), "nobody says {code} any more");
        let text = fs::read_to_string(root().join(format!("docs/errors/{code}.md"))).unwrap_or_default();
        assert!(text.contains(code) && list.contains(&format!("({code}.md)")), "docs/errors/{code}.md is missing");
    }
    let pages = fs::read_dir(root().join("docs/errors")).unwrap().count();
    let kinds = offshoot_model::ErrorKind::ALL.len() + AT_THE_DOOR.len();
    assert_eq!(pages, kinds + 1, "a page for each kind, and the list");
}
