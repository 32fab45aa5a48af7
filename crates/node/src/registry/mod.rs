//! The control plane: what is deployed. Every verb is atomic and durable when it returns; reads never touch the disk.
//!
//! It never starts, stops or waits for an instance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use offshoot_model::{CodeDigest, Convention, Error, FunctionConfig, FunctionName, Limits, MiB, Millis, Network, RuntimeName};
use serde::Deserialize;

use crate::runtime::RuntimeTable;

/// What a deployment or a configuration change may set. `None` keeps what was, or takes the default for a new function.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Runtime name; without one, the newest present for the language that the code is written in.
    pub runtime: Option<RuntimeName>,
    /// `file.export`; without one, found from the files (`index.handler`, `lambda_function.lambda_handler`, …).
    pub handler: Option<String>,
    /// How the handler is called.
    pub convention: Option<Convention>,
    /// Memory limit in MiB.
    pub memory: Option<MiB>,
    /// Timeout in milliseconds.
    pub timeout: Option<Millis>,
    /// Environment, replaced as a whole.
    pub env: Option<BTreeMap<String, String>>,
    /// Network access.
    pub network: Option<Network>,
    /// CPU limit in cores.
    pub cpu: Option<f64>,
    /// Size of `/tmp` in MiB.
    pub tmp: Option<MiB>,
    /// Whether starts clone an initialised instance.
    pub snapshot: Option<bool>,
    /// Invocations that one instance serves at once.
    pub max_concurrency: Option<u32>,
    /// Invocations that the function runs at once; 0 removes the limit.
    pub concurrency: Option<u32>,
    /// Invocations per second; 0 = no limit.
    pub rate_limit: Option<u32>,
    /// How long an idle instance is kept, in milliseconds.
    pub keep_alive: Option<Millis>,
}

/// A deployment: an archive on disk, the function's name, and what to set.
#[derive(Debug)]
pub struct DeployRequest {
    /// The uploaded zip, spooled by the caller, who also removes it.
    pub archive: PathBuf,
    /// The function's name.
    pub name: FunctionName,
    /// What to set.
    pub settings: Settings,
}

/// One deployed version of one function. Immutable; a redeployment makes another.
#[derive(Debug)]
pub struct Version {
    /// Its configuration.
    pub config: FunctionConfig,
    /// Counts every change of the function: code or configuration. Never reused, not even after delete and deploy.
    pub revision: u64,
    /// Its code.
    pub code: CodeDigest,
    /// Size of the uploaded archive in bytes.
    pub code_bytes: u64,
    /// When the function was first deployed, milliseconds since 1970.
    pub created_ms: u64,
    /// When this version was made, milliseconds since 1970.
    pub updated_ms: u64,
    /// Counters, shared by all versions of one function.
    pub stats: Arc<Stats>,
}

/// Exact counters of one function; written to the store every second and at shutdown.
#[derive(Debug, Default)]
pub struct Stats {
    /// Invocations accepted.
    pub invocations: AtomicU64,
    /// When the last one was accepted, milliseconds since 1970; 0 = never.
    pub last_invoked_ms: AtomicU64,
}

/// The registry.
pub struct Registry {}
