//! Builds the shared library that templates load (`crates/jail` as a C library) so that the binary can carry it: Cargo
//! cannot yet hand one crate's dynamic library to another as a file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What cargo tells every build script.
fn told(name: &str) -> PathBuf {
    match env::var_os(name) {
        Some(value) => PathBuf::from(value),
        None => panic!("cargo does not say {name}"),
    }
}

fn main() {
    let out = told("OUT_DIR");
    let here = told("CARGO_MANIFEST_DIR");
    let jail = here.join("../jail");
    for watched in ["src", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", jail.join(watched).display());
    }
    // A target directory of its own: the outer cargo holds the lock of the usual one.
    let target = out.join("jail");
    let mut cargo = Command::new(told("CARGO"));
    cargo
        .args([
            "rustc",
            "--release",
            "--lib",
            "--locked",
            "--features",
            "clone-lib",
            "--crate-type",
            "cdylib",
            "--manifest-path",
        ])
        .arg(jail.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // What the outer build was told is not meant for this one.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_FEATURE_") || name.to_string_lossy().starts_with("CARGO_PROFILE_")
        {
            cargo.env_remove(name);
        }
    }
    match cargo.status() {
        Ok(done) if done.success() => {}
        other => panic!("the shared library of crates/jail could not be built: {other:?}"),
    }
    copy(&target.join("release/liboffshoot_jail.so"), &out.join("libjail.so"));
}

fn copy(from: &Path, to: &Path) {
    if let Err(error) = fs::copy(from, to) {
        panic!("{} cannot be copied: {error}", from.display());
    }
}
