//! The shapes of AWS's answers that several operations share.

use http::StatusCode;
use offshoot_model::{Place, RuntimeName};
use offshoot_node::catalog::{Progress, View};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::reply::{self, Reply};
use crate::text;

/// An answer with a document.
pub(super) fn answer(status: u16, body: &Value) -> Reply {
    reply::json(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), body)
}

/// A function's time: RFC 3339 with a numeric zone.
pub(super) fn stamp(ms: u64) -> String {
    text::rfc3339(ms).replace('Z', "+0000")
}

/// Other times: seconds since 1970, with the milliseconds.
pub(super) fn epoch(ms: u64) -> Value {
    json!(ms as f64 / 1000.0)
}

/// `FunctionConfiguration`. `qualifier` is the one that the ARN shows.
pub(super) fn configuration(view: &View, place: &Place, qualifier: Option<&str>) -> Value {
    let (version, fields) = (&view.version, &view.fields);
    let config = &version.config;
    let name = config.name.as_str();
    let label = version.label();
    let shown = qualifier.or(version.number.map(|_| label.as_str()));
    let mut out = json!({
        "FunctionName": name,
        "FunctionArn": place.function(name, shown),
        "Runtime": config.runtime.to_string(),
        "Role": role(fields, place),
        "Handler": config.handler,
        "CodeSize": version.code_bytes,
        "Description": fields.description,
        "Timeout": config.timeout.0.div_ceil(1000),
        "MemorySize": config.memory.0,
        "LastModified": stamp(version.updated_ms),
        "CodeSha256": text::base64(&bytes_of(view.code_sha256.as_str())),
        "Version": label,
        "TracingConfig": {"Mode": fields.tracing},
        "RevisionId": view.revision_id,
        "PackageType": "Zip",
        "Architectures": [fields.architecture],
        "EphemeralStorage": {"Size": config.tmp.0},
        "SnapStart": snap_start(view),
        "RuntimeVersionConfig": {"RuntimeVersionArn": runtime_version(config.runtime, place)},
        "LoggingConfig": logging(view),
    });
    if let Value::Object(map) = &mut out {
        more(map, view);
    }
    out
}

/// The same in a list, where AWS leaves out what it would have to look up.
pub(super) fn listed(view: &View, place: &Place, qualifier: Option<&str>) -> Value {
    let mut out = configuration(view, place, qualifier);
    if let Value::Object(map) = &mut out {
        for member in [
            "State",
            "StateReason",
            "StateReasonCode",
            "LastUpdateStatus",
            "LastUpdateStatusReason",
            "LastUpdateStatusReasonCode",
            "RuntimeVersionConfig",
        ] {
            map.remove(member);
        }
    }
    out
}

fn role(fields: &offshoot_node::catalog::types::Fields, place: &Place) -> String {
    match fields.role.as_str() {
        // Deployed by another dialect, which knows no roles.
        "" => format!("arn:aws:iam::{}:role/offshoot", place.account),
        role => role.to_owned(),
    }
}

fn more(map: &mut Map<String, Value>, view: &View) {
    let mut put = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
    let (config, fields) = (&view.version.config, &view.fields);
    if fields.environment || !config.env.is_empty() {
        put("Environment", json!({"Variables": config.env}));
    }
    if !fields.layers.is_empty() {
        let layers: Vec<Value> = fields.layers.iter().map(|l| json!({"Arn": l.arn, "CodeSize": l.code_size})).collect();
        put("Layers", Value::Array(layers));
    }
    if let Some(vpc) = &fields.vpc {
        put("VpcConfig", json!(vpc));
    }
    if let Some(durable) = &fields.durable {
        put("DurableConfig", json!(durable));
    }
    if let Some(target) = &fields.dead_letter {
        put("DeadLetterConfig", json!({ "TargetArn": target }));
    }
    match &view.progress {
        Some(Progress::Creating(_)) => {
            put("State", json!("Pending"));
            put("StateReason", json!("The function is being created."));
            put("StateReasonCode", json!("Creating"));
        }
        Some(Progress::Updating(_)) => {
            put("State", json!("Active"));
            put("LastUpdateStatus", json!("InProgress"));
            put("LastUpdateStatusReason", json!("The function is being created."));
            put("LastUpdateStatusReasonCode", json!("Creating"));
        }
        Some(Progress::Failed(_, why)) => {
            put("State", json!("Active"));
            put("LastUpdateStatus", json!("Failed"));
            put("LastUpdateStatusReason", json!(why));
            put("LastUpdateStatusReasonCode", json!("FunctionError"));
        }
        None => {
            put("State", json!("Active"));
            put("LastUpdateStatus", json!("Successful"));
        }
    }
}

fn snap_start(view: &View) -> Value {
    let on = view.fields.snap_start;
    let optimised = on && view.version.number.is_some();
    json!({
        "ApplyOn": if on { "PublishedVersions" } else { "None" },
        "OptimizationStatus": if optimised { "On" } else { "Off" },
    })
}

fn logging(view: &View) -> Value {
    let logging = &view.fields.logging;
    let group = logging.log_group.clone().unwrap_or_else(|| format!("/aws/lambda/{}", view.version.config.name));
    let mut out = json!({"LogFormat": logging.log_format, "LogGroup": group});
    if let Some(level) = &logging.application_log_level {
        out["ApplicationLogLevel"] = json!(level);
    }
    if let Some(level) = &logging.system_log_level {
        out["SystemLogLevel"] = json!(level);
    }
    out
}

/// A name for the runtime in AWS's form: the same for the same runtime, and meaning nothing else.
pub(super) fn runtime_version(runtime: RuntimeName, place: &Place) -> String {
    let digest: String = Sha256::digest(runtime.to_string()).iter().map(|b| format!("{b:02x}")).collect();
    format!("arn:aws:lambda:{}::runtime:{digest}", place.region)
}

/// The bytes of a hexadecimal text.
pub(super) fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).unwrap_or(0) as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | pair.get(1).map_or(0, |b| digit(*b))).collect()
}

/// Puts `NextMarker` into an answer, if there is more.
pub(super) fn with_marker(mut body: Value, next: Option<String>) -> Value {
    if let Some(next) = next {
        body["NextMarker"] = json!(next);
    }
    body
}
