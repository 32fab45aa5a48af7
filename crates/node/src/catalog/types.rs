//! What the catalogue keeps besides a function's configuration, as it is stored. Members are spelled as AWS spells them, so
//! that what is stored, what is answered and what AWS documents are one vocabulary.
//!
//! Only data: no rule, no disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use offshoot_model::{CodeDigest, FunctionConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::durable::DurableConfig;
use crate::registry::Version;

/// What only AWS's dialect says of a function; versioned with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fields {
    /// The execution role. Nothing is looked up: this server gives no credentials.
    pub role: String,
    /// For people.
    pub description: String,
    /// Layers, in the order in which they are laid over each other.
    pub layers: Vec<LayerUse>,
    /// `PassThrough` or `Active`.
    pub tracing: String,
    /// `Text` or `JSON`, and where logs go.
    pub logging: Logging,
    /// Whether published versions are started from a snapshot.
    pub snap_start: bool,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// Where events go that were given up.
    pub dead_letter: Option<String>,
    /// The network that it is said to be in.
    pub vpc: Option<Vpc>,
    /// SHA-256 of the uploaded archive in hexadecimal, where it is not the code's own address.
    pub code_sha256: Option<CodeDigest>,
    /// An environment was given, perhaps an empty one.
    pub environment: bool,
    /// Set: calls of the function are durable executions. Chosen when the function is made, and for good.
    pub durable: Option<DurableConfig>,
}

impl Default for Fields {
    fn default() -> Self {
        Fields {
            role: String::new(),
            description: String::new(),
            layers: Vec::new(),
            tracing: "PassThrough".to_owned(),
            logging: Logging::default(),
            snap_start: false,
            architecture: own_architecture().to_owned(),
            dead_letter: None,
            vpc: None,
            code_sha256: None,
            environment: false,
            durable: None,
        }
    }
}

/// This machine's architecture, as AWS spells it.
pub fn own_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }
}

/// `VpcConfig`: kept and shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Vpc {
    /// Subnets.
    pub subnet_ids: Vec<String>,
    /// Security groups.
    pub security_group_ids: Vec<String>,
    /// The network that the subnets are in; empty without them.
    pub vpc_id: String,
    /// Whether IPv6 may be used in subnets that have both.
    pub ipv6_allowed_for_dual_stack: bool,
}

/// `LoggingConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Logging {
    /// `Text` or `JSON`.
    pub log_format: String,
    /// Level of the function's own lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_log_level: Option<String>,
    /// Level of the platform's lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_log_level: Option<String>,
    /// `None` is `/aws/lambda/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_group: Option<String>,
}

impl Default for Logging {
    fn default() -> Self {
        Logging { log_format: "Text".to_owned(), application_log_level: None, system_log_level: None, log_group: None }
    }
}

/// A layer version in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LayerUse {
    /// The layer version.
    pub arn: String,
    /// Bytes of its archive.
    pub code_size: u64,
    /// Its tree. Kept as long as a version uses it, also when the layer version is deleted.
    pub code: CodeDigest,
}

/// Everything about one function that is not a version: one stored document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionDoc {
    /// When the function was made: tells it from a later one of the same name.
    pub created_ms: u64,
    /// The fields of `$LATEST`.
    pub fields: Fields,
    /// The merged layers of `$LATEST`.
    pub opt: Option<CodeDigest>,
    /// Changes of the function that make no new revision of its configuration.
    pub generation: u64,
    /// The highest version number that was given out.
    pub last_version: u64,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Resource policies by qualifier; the function's own has the key `""`.
    pub policies: BTreeMap<String, Policy>,
    /// Aliases by name.
    pub aliases: BTreeMap<String, Alias>,
    /// URLs by qualifier; the function's own has the key `""`.
    pub urls: BTreeMap<String, UrlConfig>,
    /// Asynchronous invocation by qualifier; the function's own has the key `$LATEST`.
    pub event_invoke: BTreeMap<String, EventInvoke>,
    /// Provisioned concurrency by version number or alias.
    pub provisioned: BTreeMap<String, Provisioned>,
    /// `Allow` or `Terminate`.
    pub recursive_loop: Option<String>,
    /// The code signing configuration that its code must satisfy, by its id.
    pub signing: Option<String>,
    /// Runtime management by qualifier (`$LATEST` or a number).
    pub runtime_management: BTreeMap<String, RuntimeManagement>,
}

/// A resource policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Its statements, as AWS writes them.
    pub statements: Vec<Value>,
    /// How often it was changed.
    pub generation: u64,
    /// The function's generation when it was changed last: later ones leave its revision alone.
    #[serde(default)]
    pub since: Option<u64>,
}

/// A name for a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Alias {
    /// `$LATEST` or a number.
    pub function_version: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Another version and its share of the calls, 0 to 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// How often it was changed.
    #[serde(default)]
    pub generation: u64,
    /// When it was made, ms since 1970.
    #[serde(default)]
    pub created_ms: u64,
}

/// A function's URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UrlConfig {
    /// 32 characters, the host's first label.
    pub id: String,
    /// `NONE` or `AWS_IAM`.
    pub auth_type: String,
    /// Cross-origin rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// `BUFFERED` or `RESPONSE_STREAM`; as it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoke_mode: Option<String>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
}

/// Cross-origin rules of a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
#[serde(default)]
pub struct Cors {
    /// Whether cookies and credentials may be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// Request headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Origins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// Response headers that a page may read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// Seconds that a browser may remember the answer, at most 86400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
}

/// How asynchronous invocations are treated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EventInvoke {
    /// 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_retry_attempts: Option<u32>,
    /// Seconds, 60 to 21600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_event_age_in_seconds: Option<u32>,
    /// Where results go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_config: Option<Destinations>,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
}

/// Where results go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Destinations {
    /// After success.
    pub on_success: Destination,
    /// After the last failure.
    pub on_failure: Destination,
}

/// One destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Destination {
    /// An ARN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// Provisioned concurrency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// Instances that should be ready.
    pub requested: u32,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
}

/// When the runtime is updated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RuntimeManagement {
    /// `Auto`, `Manual` or `FunctionUpdate`.
    pub update_runtime_on: String,
    /// For `Manual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_version_arn: Option<String>,
}

/// A code signing configuration, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SigningConfig {
    /// For people.
    pub description: String,
    /// ARNs of signing profile versions.
    pub publishers: Vec<String>,
    /// `Warn` or `Enforce`.
    pub policy: String,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
}

/// A published version as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishedDoc {
    /// Its configuration.
    pub config: FunctionConfig,
    /// Its code.
    pub code: CodeDigest,
    /// Bytes of its archive.
    pub code_bytes: u64,
    /// Its merged layers.
    pub opt: Option<CodeDigest>,
    /// Its fields.
    pub fields: Fields,
    /// The revision of `$LATEST` that it was made from.
    pub revision: u64,
    /// When that was made, ms since 1970.
    pub updated_ms: u64,
    /// When it was published, ms since 1970.
    pub created_ms: u64,
    /// SHA-256 digests compare by code, the rest by this: the fields of `$LATEST` at that time.
    pub of_fields: Fields,
}

/// A published version in memory.
#[derive(Debug)]
pub struct Published {
    /// What runs.
    pub version: Arc<Version>,
    /// As it is stored.
    pub doc: PublishedDoc,
}

/// One function's part of the catalogue in memory. Changed by replacing it.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// As it is stored.
    pub doc: FunctionDoc,
    /// Published versions by number.
    pub published: BTreeMap<u64, Arc<Published>>,
}

/// One version of a layer, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LayerVersion {
    /// For people.
    pub description: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Its tree.
    pub code: CodeDigest,
    /// SHA-256 of the archive.
    pub sha256: CodeDigest,
    /// Bytes of the archive.
    pub code_size: u64,
    /// Runtimes that it says it is for; an empty list is something else than none.
    pub compatible_runtimes: Option<Vec<String>>,
    /// Architectures that it says it is for.
    pub compatible_architectures: Option<Vec<String>>,
    /// A licence.
    pub license_info: Option<String>,
    /// Who may use it.
    pub policy: Policy,
}

/// A layer, as it is stored: deleted versions leave a gap, and their number is not given again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Layer {
    /// The highest number that was given out.
    pub last_version: u64,
    /// Its versions.
    pub versions: BTreeMap<u64, LayerVersion>,
}

/// An event source mapping, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mapping {
    /// The function's ARN with the qualifier that was given.
    pub function_arn: String,
    /// The name in it.
    pub function: String,
    /// Whether it is to be polled.
    pub enabled: bool,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
    /// AWS's word for the last change while it is taken over: `Creating`, `Updating`, `Enabling` or `Disabling`.
    #[serde(default)]
    pub change: String,
    /// The members that AWS answers besides, with their defaults.
    pub settings: serde_json::Map<String, Value>,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}
