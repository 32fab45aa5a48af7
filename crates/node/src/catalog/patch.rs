//! What a request says of a function, laid over what was: plain values, durability, logging, environment. It looks nothing up and
//! writes nothing.

use std::collections::BTreeMap;

use offshoot_model::function::RESERVED_ENV;
use offshoot_model::{FunctionConfig, MiB, Millis};

use super::types::{Fields, Logging, Vpc};
use super::{Fault, Rule, fault};
use crate::durable::DurableConfig;

/// What a caller sets. `None` leaves it as it is, or takes AWS's default for a new function.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// AWS's name.
    pub runtime: Option<String>,
    /// `file.export`.
    pub handler: Option<String>,
    /// The role's ARN.
    pub role: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// MiB.
    pub memory: Option<u32>,
    /// Seconds.
    pub timeout: Option<u32>,
    /// The whole environment.
    pub env: Option<BTreeMap<String, String>>,
    /// Size of `/tmp`, MiB.
    pub tmp: Option<u32>,
    /// ARNs of layer versions.
    pub layers: Option<Vec<String>>,
    /// `PassThrough` or `Active`.
    pub tracing: Option<String>,
    /// The members that were given; the others stay.
    pub log_format: Option<String>,
    /// See `Logging`.
    pub application_log_level: Option<String>,
    /// See `Logging`.
    pub system_log_level: Option<String>,
    /// See `Logging`.
    pub log_group: Option<String>,
    /// Published versions start from a snapshot.
    pub snap_start: Option<bool>,
    /// An ARN; empty removes it.
    pub dead_letter: Option<String>,
    /// The network; without subnets and groups, none.
    pub vpc: Option<Vpc>,
    /// What makes it durable.
    pub durable: Option<DurablePatch>,
}

/// The members of a `DurableConfig` that were given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurablePatch {
    /// How long an execution may take, in seconds.
    pub execution_timeout: Option<u64>,
    /// How long it is kept after its end, in days.
    pub retention_period_in_days: Option<u32>,
}

/// Plain values over what was.
pub(super) fn over(patch: &Patch, mut config: FunctionConfig, mut fields: Fields) -> (FunctionConfig, Fields) {
    config.memory = patch.memory.map_or(config.memory, MiB);
    config.timeout = patch.timeout.map_or(config.timeout, |s| Millis(u64::from(s) * 1000));
    config.tmp = patch.tmp.map_or(config.tmp, MiB);
    if let Some(env) = &patch.env {
        config.env = env.clone();
        fields.environment = true;
    }
    fields.role = patch.role.clone().unwrap_or(fields.role);
    fields.description = patch.description.clone().unwrap_or(fields.description);
    fields.tracing = patch.tracing.clone().unwrap_or(fields.tracing);
    fields.snap_start = patch.snap_start.unwrap_or(fields.snap_start);
    if let Some(target) = &patch.dead_letter {
        fields.dead_letter = Some(target.clone()).filter(|t| !t.is_empty());
    }
    // A function that never had a network does not get an empty one.
    if let Some(vpc) = patch.vpc.as_ref().filter(|vpc| fields.vpc.is_some() || !vpc.subnet_ids.is_empty()) {
        fields.vpc = Some(vpc.clone());
    }
    fields.logging = logging(patch, fields.logging);
    (config, fields)
}

/// How long executions are kept that nobody said it of, in days.
const RETENTION_DAYS: u32 = 14;

pub(super) fn made_durable(given: DurablePatch) -> Result<DurableConfig, Fault> {
    let missing = || fault(Rule::Invalid, "DurableConfig needs an ExecutionTimeout, in seconds.");
    Ok(DurableConfig {
        execution_timeout: given.execution_timeout.ok_or_else(missing)?,
        retention_period_in_days: given.retention_period_in_days.unwrap_or(RETENTION_DAYS),
    })
}

/// A function is durable from its beginning or not at all (AWS).
pub(super) fn still_durable(
    before: Option<DurableConfig>,
    patch: Option<DurablePatch>,
) -> Result<Option<DurableConfig>, Fault> {
    match (before, patch) {
        (before, None) => Ok(before),
        (Some(before), Some(given)) => Ok(Some(DurableConfig {
            execution_timeout: given.execution_timeout.unwrap_or(before.execution_timeout),
            retention_period_in_days: given.retention_period_in_days.unwrap_or(before.retention_period_in_days),
        })),
        (None, Some(_)) => {
            let text =
                "You cannot add DurableConfig to an existing function: a function is made durable when it is created.";
            Err(fault(Rule::Invalid, text))
        }
    }
}

/// Levels exist for JSON only, and have defaults there (recorded from AWS).
fn logging(patch: &Patch, before: Logging) -> Logging {
    let log_format = patch.log_format.clone().unwrap_or(before.log_format);
    let json = log_format == "JSON";
    let level = |given: &Option<String>, was: Option<String>| {
        json.then(|| given.clone().or(was).unwrap_or_else(|| "INFO".to_owned()))
    };
    Logging {
        application_log_level: level(&patch.application_log_level, before.application_log_level),
        system_log_level: level(&patch.system_log_level, before.system_log_level),
        log_group: patch.log_group.clone().or(before.log_group),
        log_format,
    }
}

pub(super) fn check_env(env: &BTreeMap<String, String>, most: u64) -> Result<(), Fault> {
    let reserved: Vec<&str> = env.keys().map(String::as_str).filter(|k| RESERVED_ENV.contains(k)).collect();
    if !reserved.is_empty() {
        let message = format!(
            "Lambda was unable to configure your environment variables because the environment variables you have provided contains reserved keys that are currently not supported for modification. Reserved keys used in this request: {}",
            reserved.join(", ")
        );
        return Err(fault(Rule::Invalid, message));
    }
    let text = serde_json::to_string(env).unwrap_or_default();
    if text.len() as u64 > most {
        let message = format!(
            "Lambda was unable to configure your environment variables because the environment variables you have provided exceeded the {}KB limit. String measured: {text}",
            most / 1024
        );
        return Err(fault(Rule::Invalid, message));
    }
    Ok(())
}
