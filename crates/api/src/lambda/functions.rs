//! Functions: create, get, update, delete, list.

use std::collections::BTreeMap;

use http::Method;
use offshoot_model::FunctionName;
use offshoot_node::catalog::types::Vpc;
use offshoot_node::catalog::{Code, DurablePatch, NewFunction, Patch, View};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::shapes::{self, answer, with_marker};
use super::upload::{self, Spool, Upload};
use super::{Ask, cut, location, names, no_content, parse, s3, wrong_method};
use crate::Backend;
use crate::reply::Reply;

/// Longest request that brings code, in bytes (recorded from AWS).
const MAX_REQUEST: u64 = 70_167_211;
/// The constraint on a list of architectures.
pub(super) const ARCHITECTURES: &str =
    "Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]";
/// The constraint on each of a function's layers.
const LAYERS: &str = r"Member must satisfy constraint: [Member must have length less than or equal to 2048, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+), Member must not be null]";
/// Most functions in one answer (AWS: 50).
const PAGE: usize = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Variables {
    variables: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CodeShape {
    zip_file: Option<String>,
    s3_bucket: Option<String>,
    s3_key: Option<String>,
    s3_object_version: Option<String>,
    image_uri: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct TracingShape {
    mode: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StorageShape {
    size: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SnapStartShape {
    apply_on: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DeadLetterShape {
    target_arn: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct LoggingShape {
    log_format: Option<String>,
    application_log_level: Option<String>,
    system_log_level: Option<String>,
    log_group: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DurableShape {
    execution_timeout: Option<i64>,
    retention_period_in_days: Option<i64>,
    #[serde(rename = "KMSKeyArn")]
    kms_key_arn: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct VpcShape {
    subnet_ids: Vec<String>,
    security_group_ids: Vec<String>,
    ipv6_allowed_for_dual_stack: bool,
}

/// The members that creating and changing have in common.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigShape {
    runtime: Option<String>,
    role: Option<String>,
    handler: Option<String>,
    description: Option<String>,
    timeout: Option<i64>,
    memory_size: Option<i64>,
    environment: Option<Variables>,
    layers: Option<Vec<String>>,
    tracing_config: Option<TracingShape>,
    ephemeral_storage: Option<StorageShape>,
    snap_start: Option<SnapStartShape>,
    dead_letter_config: Option<DeadLetterShape>,
    logging_config: Option<LoggingShape>,
    vpc_config: Option<VpcShape>,
    file_system_configs: Option<Vec<Value>>,
    image_config: Option<Value>,
    #[serde(rename = "KMSKeyArn")]
    kms_key_arn: Option<String>,
    durable_config: Option<DurableShape>,
    capacity_provider_config: Option<Value>,
    tenancy_config: Option<Value>,
    revision_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateShape {
    function_name: Option<String>,
    code: Option<CodeShape>,
    publish: bool,
    package_type: Option<String>,
    architectures: Option<Vec<String>>,
    tags: BTreeMap<String, String>,
    code_signing_config_arn: Option<String>,
    #[serde(flatten)]
    config: ConfigShape,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UpdateCodeShape {
    publish: bool,
    dry_run: bool,
    architectures: Option<Vec<String>>,
    revision_id: Option<String>,
    #[serde(flatten)]
    code: CodeShape,
}

/// `/functions` and `/functions/{name}`.
pub(super) async fn route<B: Backend>(ask: Ask<'_, B>, method: &Method, parts: &[&str]) -> Result<Reply, AwsError> {
    match (parts.get(2), method) {
        (None, &Method::POST) => create(ask).await,
        (None, &Method::GET) => list(ask),
        (Some(name), &Method::GET) => get(ask, name),
        (Some(name), &Method::DELETE) => delete(ask, name).await,
        _ => wrong_method(),
    }
}

/// A body with an archive. One that is too long is refused in the operation's name.
async fn receive<B: Backend>(ask: &mut Ask<'_, B>, operation: &str) -> Result<Upload, AwsError> {
    let zipped = ask.call.backend().limits().zipped_bytes;
    let limit = MAX_REQUEST.max(zipped / 3 * 4 + (1 << 18));
    let announced =
        ask.call.parts.headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit) {
        let message = format!("Request must be smaller than {limit} bytes for the {operation} operation");
        return Err(AwsError::new(413, "RequestEntityTooLargeException", message).closing());
    }
    upload::read(&mut ask.call, limit, zipped).await
}

async fn create<B: Backend>(mut ask: Ask<'_, B>) -> Result<Reply, AwsError> {
    let upload = receive(&mut ask, "CreateFunction").await?;
    let shape: CreateShape = parse(&upload.document)?;
    let text = shape.function_name.as_deref().ok_or_else(|| AwsError::absent("functionName"))?;
    let name = names::new_function(text, ask.place())?;
    let role = shape.config.role.as_deref().ok_or_else(|| AwsError::absent("role"))?;
    check_role(role)?;
    let code = shape.code.as_ref().ok_or_else(|| AwsError::absent("code"))?;
    if shape.package_type.as_deref() == Some("Image") || code.image_uri.is_some() {
        return Err(AwsError::unsupported("PackageType Image (container images)"));
    }
    let signing = shape.code_signing_config_arn.as_deref().filter(|a| !a.is_empty());
    let signing = signing.map(|arn| names::signing(arn, ask.place())).transpose()?.map(str::to_owned);
    let architecture = architecture(shape.architectures.as_deref())?;
    let archive = archive(&ask, code, upload.archive).await?;
    let patch = patch(shape.config)?;
    let code = Code { archive: archive.0.clone(), architecture };
    let new = NewFunction { name, patch, code, tags: shape.tags, publish: shape.publish, signing };
    let view = ask.catalog().create(new).await?;
    drop(archive); // until here the file is read
    let mut body = shapes::configuration(&view, ask.place(), None);
    // Also when a version was published: only its number is shown (recorded from AWS).
    body["FunctionArn"] = json!(ask.place().function(view.version.config.name.as_str(), None));
    Ok(answer(201, &body))
}

/// Replaces a function's code.
pub(super) async fn update_code<B: Backend>(mut ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let upload = receive(&mut ask, "UpdateFunctionCode").await?;
    let shape: UpdateCodeShape = parse(&upload.document)?;
    if shape.code.image_uri.is_some() {
        return Err(AwsError::invalid("Please don't provide ImageUri when updating a function with packageType Zip."));
    }
    let architecture = architecture(shape.architectures.as_deref())?;
    let archive = archive(&ask, &shape.code, upload.archive).await?;
    let code = Code { archive: archive.0.clone(), architecture };
    let view = ask.catalog().update_code(&name, code, shape.publish, shape.dry_run, shape.revision_id).await?;
    drop(archive);
    Ok(answer(200, &shapes::configuration(&view, ask.place(), None)))
}

/// The archive, wherever the request says that it is.
async fn archive<B: Backend>(ask: &Ask<'_, B>, code: &CodeShape, uploaded: Option<Spool>) -> Result<Spool, AwsError> {
    match (uploaded, &code.s3_bucket, &code.s3_key) {
        (Some(archive), None, None) => Ok(archive),
        (None, None, None) if code.zip_file.is_some() => {
            Err(AwsError::invalid("Uploaded file must be a non-empty zip"))
        }
        (None, Some(bucket), Some(key)) => s3::fetch(ask, bucket, key, code.s3_object_version.as_deref()).await,
        (None, ..) => Err(AwsError::invalid("Please provide a source for function code.")),
        (Some(_), ..) => Err(AwsError::invalid("Please provide either ZipFile or S3Bucket and S3Key, not both.")),
    }
}

/// Changes a function's settings.
pub(super) async fn update_configuration<B: Backend>(mut ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let shape: ConfigShape = ask.document().await?;
    if let Some(role) = &shape.role {
        check_role(role)?;
    }
    let known = shape.revision_id.clone();
    let patch = patch(shape)?;
    let view = ask.catalog().update_configuration(&name, patch, known).await?;
    Ok(answer(200, &shapes::configuration(&view, ask.place(), None)))
}

fn get<B: Backend>(ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let (name, qualifier) = ask.function(segment)?;
    let view = ask.catalog().get(&name, qualifier.as_deref())?;
    let mut code = json!({"RepositoryType": "S3"});
    if let Some(link) = location::of(&ask, &view.version.code)? {
        code["Location"] = json!(link);
    }
    let mut body = json!({
        "Configuration": shapes::configuration(&view, ask.place(), qualifier.as_deref()),
        "Code": code,
    });
    if !view.tags.is_empty() {
        body["Tags"] = json!(view.tags);
    }
    if let Some(reserved) = view.reserved {
        body["Concurrency"] = json!({ "ReservedConcurrentExecutions": reserved });
    }
    Ok(answer(200, &body))
}

/// `GetFunctionConfiguration`.
pub(super) fn configuration<B: Backend>(ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let (name, qualifier) = ask.function(segment)?;
    let view = ask.catalog().get(&name, qualifier.as_deref())?;
    Ok(answer(200, &shapes::configuration(&view, ask.place(), qualifier.as_deref())))
}

async fn delete<B: Backend>(ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let (name, qualifier) = ask.function(segment)?;
    if qualifier.as_deref() == Some("$LATEST") {
        return Err(AwsError::invalid("$LATEST version cannot be deleted without deleting the function."));
    }
    let number = qualifier.as_deref().map(str::parse::<u64>).transpose().ok();
    // Also of a function that is not there; what begins like a version is not taken for an alias (recorded from AWS).
    if number.is_none() && !qualifier.as_deref().is_some_and(|q| q.starts_with('$')) {
        return Err(AwsError::invalid("Deletion of aliases is not currently supported."));
    }
    if ask.call.backend().get(&name).is_none() {
        return Err(ask.catalog().missing(&name, None).into());
    }
    match number {
        None => return Err(ask.catalog().missing(&name, qualifier.as_deref()).into()),
        Some(None) => ask.call.backend().delete(&name).await?,
        Some(Some(number)) => ask.catalog().delete_version(&name, number).await?,
    }
    Ok(no_content())
}

fn list<B: Backend>(ask: Ask<'_, B>) -> Result<Reply, AwsError> {
    let limit = ask.max_items(PAGE)?;
    let all = match ask.param("FunctionVersion") {
        None => false,
        Some("ALL") => true,
        Some(other) => {
            return Err(AwsError::constraint(other, "functionVersion", "Member must satisfy enum value set: [ALL]"));
        }
    };
    let bad = |_| AwsError::invalid("Invalid Marker");
    let marker = ask.marker();
    if all {
        return list_all(&ask, limit, marker);
    }
    let after = marker.map(|m| FunctionName::parse(&m)).transpose().map_err(bad)?;
    let found = ask.catalog().list(after.as_ref(), limit + 1);
    let (views, next) = cut(found, limit, |v: &View| v.version.config.name.to_string());
    let shown: Vec<Value> = views.iter().map(|v| shapes::listed(v, ask.place(), None)).collect();
    Ok(answer(200, &with_marker(json!({ "Functions": shown }), next)))
}

/// Every version of every function. The marker is `name:version`, of which 0 is `$LATEST`.
fn list_all<B: Backend>(ask: &Ask<'_, B>, limit: usize, marker: Option<String>) -> Result<Reply, AwsError> {
    let bad = || AwsError::invalid("Invalid Marker");
    let mut found: Vec<View> = Vec::new();
    let mut after = None;
    if let Some(marker) = marker {
        let (name, number) = marker.split_once(':').ok_or_else(bad)?;
        let name = FunctionName::parse(name).map_err(|_| bad())?;
        let number = number.parse().map_err(|_| bad())?;
        // The function may have gone since: then the next one begins.
        found = ask.catalog().list_versions(&name, Some(number), limit + 1).unwrap_or_default();
        after = Some(name);
    }
    while found.len() <= limit {
        let Some(next) = ask.catalog().list(after.as_ref(), 1).pop() else { break };
        let name = next.version.config.name.clone();
        found.extend(ask.catalog().list_versions(&name, None, limit + 1 - found.len()).unwrap_or_default());
        after = Some(name);
    }
    let place = |v: &View| format!("{}:{}", v.version.config.name, v.version.number.unwrap_or(0));
    let (views, next) = cut(found, limit, place);
    let shown: Vec<Value> = views.iter().map(|v| shapes::listed(v, ask.place(), Some(&v.version.label()))).collect();
    Ok(answer(200, &with_marker(json!({ "Functions": shown }), next)))
}

fn check_role(role: &str) -> Result<(), AwsError> {
    let parts: Vec<&str> = role.splitn(6, ':').collect();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&b);
    let good = match parts[..] {
        ["arn", partition, "iam", "", account, what] => {
            partition.starts_with("aws")
                && account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && what.strip_prefix("role").is_some_and(|rest| rest.len() > 1 && rest.bytes().all(plain))
        }
        _ => false,
    };
    if good {
        return Ok(());
    }
    let pattern = r"Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+";
    Err(AwsError::constraint(role, "role", pattern))
}

fn architecture(given: Option<&[String]>) -> Result<Option<String>, AwsError> {
    let Some(given) = given else { return Ok(None) };
    let shown = format!("[{}]", given.join(", "));
    match given {
        [one] if one == "x86_64" || one == "arm64" => {
            if one == offshoot_node::catalog::types::own_architecture() {
                return Ok(Some(one.clone()));
            }
            Err(AwsError::invalid(format!("Architecture {one} cannot run on this server.")))
        }
        [] => Ok(None),
        [_] => Err(AwsError::constraint(&shown, "architectures", ARCHITECTURES)),
        _ => Err(AwsError::constraint(&shown, "architectures", "Member must have length less than or equal to 1")),
    }
}

fn in_range(value: Option<i64>, member: &str, low: i64, high: i64) -> Result<Option<u32>, AwsError> {
    let Some(value) = value else { return Ok(None) };
    let shown = value.to_string();
    if value < low {
        let text = format!("Member must have value greater than or equal to {low}");
        return Err(AwsError::constraint(&shown, member, &text));
    }
    if value > high {
        let text = format!("Member must have value less than or equal to {high}");
        return Err(AwsError::constraint(&shown, member, &text));
    }
    Ok(u32::try_from(value).ok())
}

fn one_of(value: Option<&str>, member: &str, set: &[&str]) -> Result<(), AwsError> {
    match value {
        Some(v) if !set.contains(&v) => {
            let text = format!("Member must satisfy enum value set: [{}]", set.join(", "));
            Err(AwsError::constraint(v, member, &text))
        }
        _ => Ok(()),
    }
}

/// What a request sets. What this server does not do is refused rather than kept without effect.
fn patch(shape: ConfigShape) -> Result<Patch, AwsError> {
    let given = |v: &Option<Value>| v.as_ref().is_some_and(|v| !v.is_null() && *v != json!({}));
    let vpc = shape.vpc_config.map(vpc).transpose()?;
    if shape.file_system_configs.as_ref().is_some_and(|v| !v.is_empty()) {
        return Err(AwsError::unsupported("FileSystemConfigs"));
    }
    if shape.kms_key_arn.as_deref().is_some_and(|k| !k.is_empty()) {
        return Err(AwsError::unsupported("KMSKeyArn (encryption with a key of one's own)"));
    }
    for (name, value) in [
        ("ImageConfig", &shape.image_config),
        ("CapacityProviderConfig", &shape.capacity_provider_config),
        ("TenancyConfig", &shape.tenancy_config),
    ] {
        if given(value) {
            return Err(AwsError::unsupported(name));
        }
    }
    let tracing = shape.tracing_config.and_then(|t| t.mode);
    one_of(tracing.as_deref(), "tracingConfig.mode", &["Active", "PassThrough"])?;
    let snap_start = shape.snap_start.and_then(|s| s.apply_on);
    one_of(snap_start.as_deref(), "snapStart.applyOn", &["PublishedVersions", "None"])?;
    let logging = shape.logging_config.unwrap_or_default();
    one_of(logging.log_format.as_deref(), "loggingConfig.logFormat", &["JSON", "Text"])?;
    let levels = ["DEBUG", "ERROR", "FATAL", "INFO", "TRACE", "WARN"];
    one_of(logging.application_log_level.as_deref(), "loggingConfig.applicationLogLevel", &levels)?;
    one_of(logging.system_log_level.as_deref(), "loggingConfig.systemLogLevel", &["DEBUG", "INFO", "WARN"])?;
    let layer = |arn: &String| names::layer_version(arn).is_some();
    if let Some(layers) = shape.layers.as_ref().filter(|l| !l.iter().all(layer)) {
        return Err(AwsError::constraint(&format!("[{}]", layers.join(", ")), "layers", LAYERS));
    }
    if shape.description.as_ref().is_some_and(|d| d.chars().count() > 256) {
        let text = "Member must have length less than or equal to 256";
        return Err(AwsError::constraint(&shape.description.unwrap_or_default(), "description", text));
    }
    Ok(Patch {
        runtime: shape.runtime,
        handler: shape.handler,
        role: shape.role,
        description: shape.description,
        memory: in_range(shape.memory_size, "memorySize", 128, 32_768)?,
        timeout: in_range(shape.timeout, "timeout", 1, 5_400)?,
        env: shape.environment.map(|e| e.variables),
        tmp: in_range(shape.ephemeral_storage.and_then(|s| s.size), "ephemeralStorage.size", 512, 32_768)?,
        layers: shape.layers,
        tracing,
        log_format: logging.log_format,
        application_log_level: logging.application_log_level,
        system_log_level: logging.system_log_level,
        log_group: logging.log_group,
        snap_start: snap_start.map(|s| s == "PublishedVersions"),
        // An empty one leaves the target as it is; an empty target removes it (recorded from AWS).
        dead_letter: shape.dead_letter_config.and_then(|d| d.target_arn),
        vpc,
        durable: shape.durable_config.map(durable).transpose()?.flatten(),
    })
}

/// `VpcConfig`. Its ids have their form here; whether they are there is asked of who knows.
fn vpc(shape: VpcShape) -> Result<Vpc, AwsError> {
    for (ids, member, prefix, pattern, plain) in [
        (
            &shape.subnet_ids,
            "subnetIds",
            "subnet-",
            "subnet-[0-9a-z]*",
            (|b: u8| b.is_ascii_digit() || b.is_ascii_lowercase()) as fn(u8) -> bool,
        ),
        (&shape.security_group_ids, "securityGroupIds", "sg-", "sg-[0-9a-zA-Z]*", |b| b.is_ascii_alphanumeric()),
    ] {
        let good =
            |id: &String| id.len() <= 1024 && id.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(plain));
        if !ids.iter().all(good) {
            let text = format!(
                "Member must satisfy constraint: [Member must have length less than or equal to 1024, Member must have length greater than or equal to 0, Member must satisfy regular expression pattern: {pattern}]"
            );
            return Err(AwsError::constraint(&format!("[{}]", ids.join(", ")), &format!("vpcConfig.{member}"), &text));
        }
    }
    let VpcShape { subnet_ids, security_group_ids, ipv6_allowed_for_dual_stack } = shape;
    Ok(Vpc { subnet_ids, security_group_ids, ipv6_allowed_for_dual_stack, ..Vpc::default() })
}

/// `DurableConfig`; an empty one says nothing.
fn durable(shape: DurableShape) -> Result<Option<DurablePatch>, AwsError> {
    if shape.kms_key_arn.as_deref().is_some_and(|k| !k.is_empty()) {
        return Err(AwsError::unsupported("DurableConfig.KMSKeyArn (encryption with a key of one's own)"));
    }
    let timeout = in_range(shape.execution_timeout, "durableConfig.executionTimeout", 1, 31_622_400)?;
    let days = in_range(shape.retention_period_in_days, "durableConfig.retentionPeriodInDays", 1, 90)?;
    let patch = DurablePatch { execution_timeout: timeout.map(u64::from), retention_period_in_days: days };
    Ok(Some(patch).filter(|patch| *patch != DurablePatch::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(document: &str) -> Result<Patch, AwsError> {
        patch(parse::<ConfigShape>(document.as_bytes())?)
    }

    #[test]
    fn ranges_and_sets_are_those_of_the_model() {
        let good = of(r#"{"MemorySize":512,"Timeout":10,"EphemeralStorage":{"Size":1024},"SnapStart":{"ApplyOn":"PublishedVersions"},"VpcConfig":{"SubnetIds":[]},"KMSKeyArn":""}"#).unwrap();
        assert_eq!(
            (good.memory, good.timeout, good.tmp, good.snap_start),
            (Some(512), Some(10), Some(1024), Some(true))
        );
        for (document, said) in [
            (
                r#"{"MemorySize":127}"#,
                "'memorySize' failed to satisfy constraint: Member must have value greater than or equal to 128",
            ),
            (r#"{"Timeout":0}"#, "'timeout'"),
            (r#"{"Timeout":-1}"#, "'timeout'"),
            (r#"{"EphemeralStorage":{"Size":511}}"#, "'ephemeralStorage.size'"),
            (r#"{"TracingConfig":{"Mode":"x"}}"#, "enum value set: [Active, PassThrough]"),
            (r#"{"VpcConfig":{"SubnetIds":["net-1"]}}"#, "Value '[net-1]' at 'vpcConfig.subnetIds'"),
            (r#"{"VpcConfig":{"SecurityGroupIds":["sg-1","sg_2"]}}"#, "pattern: sg-[0-9a-zA-Z]*"),
            (r#"{"FileSystemConfigs":[{}]}"#, "FileSystemConfigs is not supported"),
            (r#"{"DurableConfig":{"ExecutionTimeout":0}}"#, "'durableConfig.executionTimeout'"),
            (r#"{"DurableConfig":{"RetentionPeriodInDays":91}}"#, "'durableConfig.retentionPeriodInDays'"),
            (r#"{"DurableConfig":{"ExecutionTimeout":1,"KMSKeyArn":"arn:aws:kms:x"}}"#, "KMSKeyArn"),
            (r#"{"MemorySize":"x"}"#, "SerializationException"),
        ] {
            let error = format!("{:?}", of(document).unwrap_err());
            assert!(error.contains(said), "{document}: {error}");
        }
    }

    #[test]
    fn roles_have_their_form() {
        for good in ["arn:aws:iam::000000000000:role/r", "arn:aws-cn:iam::123456789012:role/path/to/r_+=,.@-x"] {
            assert!(check_role(good).is_ok(), "{good}");
        }
        for bad in
            ["", "r1", "arn:aws:iam::0:role/r", "arn:aws:iam::000000000000:user/r", "arn:aws:iam::000000000000:role"]
        {
            assert!(check_role(bad).is_err(), "{bad}");
        }
    }
}
