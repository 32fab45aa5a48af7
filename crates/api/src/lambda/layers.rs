//! Layers.

use http::Method;
use offshoot_node::catalog::types::LayerVersion;
use offshoot_node::catalog::{LayerContent, NewLayer, RUNTIMES, policy as rules};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::functions::ARCHITECTURES;
use super::policy::PermissionShape;
use super::shapes::{answer, bytes_of, stamp, with_marker};
use super::upload;
use super::{Ask, cut, location, names, no_content, parse, s3, wrong_method};
use crate::Backend;
use crate::reply::Reply;
use crate::text;

/// Most layers or versions in one answer (AWS: 50).
const PAGE: usize = 50;
/// Every name that AWS's model has ever had for a runtime: what a layer may say that it is for (recorded from AWS, in its order).
const EVERY_RUNTIME: &[&str] = &[
    "ruby3.5",
    "ruby2.6",
    "dotnetcore1.0",
    "python3.7",
    "nodejs8.10",
    "nasa",
    "ruby2.7",
    "python2.7-greengrass",
    "dotnetcore2.0",
    "python3.8",
    "java21",
    "dotnet6",
    "dotnetcore2.1",
    "python3.9",
    "java11",
    "nodejs6.10",
    "provided",
    "dotnetcore3.1",
    "dotnet8",
    "java25",
    "java17",
    "nodejs",
    "nodejs4.3",
    "java8.al2",
    "go1.x",
    "dotnet10",
    "nodejs20.x",
    "go1.9",
    "byol",
    "nodejs10.x",
    "provided.al2023",
    "nodejs22.x",
    "python3.10",
    "java8",
    "nodejs12.x",
    "python3.11",
    "nodejs24.x",
    "nodejs8.x",
    "python3.12",
    "nodejs14.x",
    "nodejs8.9",
    "nodejs26.x",
    "python3.13",
    "python3.14",
    "nodejs16.x",
    "python3.15",
    "provided.al2",
    "nodejs4.3-edge",
    "nodejs18.x",
    "ruby3.2",
    "python3.4",
    "ruby3.3",
    "ruby3.4",
    "ruby2.5",
    "python3.6",
    "python2.7",
];
/// Longest request that brings a layer, in bytes.
const MAX_REQUEST: u64 = 70_167_211;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ContentShape {
    s3_bucket: Option<String>,
    s3_key: Option<String>,
    s3_object_version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PublishShape {
    description: String,
    content: Option<ContentShape>,
    compatible_runtimes: Option<Vec<String>>,
    compatible_architectures: Option<Vec<String>>,
    license_info: Option<String>,
}

/// Everything under `/layers`; `parts` follow it.
pub(super) async fn route<B: Backend>(ask: Ask<'_, B>, method: &Method, parts: &[&str]) -> Result<Reply, AwsError> {
    match (parts, method) {
        ([], &Method::GET) if ask.param("find") == Some("LayerVersion") => by_arn(ask),
        ([], &Method::GET) => list(ask),
        ([layer, "versions"], &Method::POST) => publish(ask, layer).await,
        ([layer, "versions"], &Method::GET) => list_versions(ask, layer),
        ([layer, "versions", number], &Method::GET) => {
            let (name, number) = version(&ask, layer, number)?;
            get(&ask, &name, number)
        }
        ([layer, "versions", number], &Method::DELETE) => {
            let (name, number) = version(&ask, layer, number)?;
            ask.catalog().delete_layer_version(&name, number).await?;
            Ok(no_content())
        }
        ([layer, "versions", number, "policy"], &Method::GET) => {
            let (name, number) = version(&ask, layer, number)?;
            let (statements, revision) = ask.catalog().layer_policy(&name, number)?;
            Ok(answer(200, &json!({"Policy": rules::document_of(&statements), "RevisionId": revision})))
        }
        ([layer, "versions", number, "policy"], &Method::POST) => add_permission(ask, layer, number).await,
        ([layer, "versions", number, "policy", sid], &Method::DELETE) => {
            let (name, number) = version(&ask, layer, number)?;
            let known = ask.param("RevisionId").map(str::to_owned);
            ask.catalog().remove_layer_permission(&name, number, (*sid).to_owned(), known).await?;
            Ok(no_content())
        }
        _ => wrong_method(),
    }
}

fn version<B: Backend>(ask: &Ask<'_, B>, layer: &str, number: &str) -> Result<(String, u64), AwsError> {
    let name = names::layer(layer, ask.place())?;
    match number.parse::<i64>() {
        Ok(number) if number >= 1 => Ok((name, number.unsigned_abs())),
        Ok(_) => Err(AwsError::invalid("Layer Version Cannot be less than 1")),
        Err(_) => Err(AwsError::new(400, "SerializationException", "a version is a number")),
    }
}

async fn publish<B: Backend>(mut ask: Ask<'_, B>, layer: &str) -> Result<Reply, AwsError> {
    let name = names::layer(layer, ask.place())?;
    let zipped = ask.call.backend().limits().zipped_bytes;
    let upload = upload::read(&mut ask.call, MAX_REQUEST.max(zipped / 3 * 4 + (1 << 18)), zipped).await?;
    let shape: PublishShape = parse(&upload.document)?;
    let content = shape.content.ok_or_else(|| AwsError::absent("content"))?;
    let archive = match (upload.archive, &content.s3_bucket, &content.s3_key) {
        (Some(archive), None, None) => archive,
        (None, Some(bucket), Some(key)) => s3::fetch(&ask, bucket, key, content.s3_object_version.as_deref()).await?,
        _ => return Err(AwsError::invalid("Uploaded file must be a non-empty zip")),
    };
    check_compatible(shape.compatible_runtimes.as_deref(), shape.compatible_architectures.as_deref())?;
    let new = NewLayer {
        name,
        description: shape.description,
        archive: archive.0.clone(),
        compatible_runtimes: shape.compatible_runtimes,
        compatible_architectures: shape.compatible_architectures,
        license_info: shape.license_info,
    };
    let made = ask.catalog().publish_layer(new).await?;
    drop(archive);
    Ok(answer(201, &whole(&ask, &made)?))
}

/// What a layer says that it is for has to be a name of AWS's.
fn check_compatible(runtimes: Option<&[String]>, architectures: Option<&[String]>) -> Result<(), AwsError> {
    let shown = |list: Option<&[String]>| format!("[{}]", list.unwrap_or_default().join(", "));
    let known = format!("Member must satisfy enum value set: [{}]", RUNTIMES.join(", "));
    let odd =
        |list: Option<&[String]>, set: &[&str]| list.is_some_and(|l| l.iter().any(|v| !set.contains(&v.as_str())));
    let (these, those) = (shown(runtimes), shown(architectures));
    let mut broken = Vec::new();
    if runtimes.is_some_and(|r| r.len() > 15) {
        broken.push((these.as_str(), "compatibleRuntimes", "Member must have length less than or equal to 15"));
    }
    if odd(runtimes, EVERY_RUNTIME) {
        broken.push((these.as_str(), "compatibleRuntimes", known.as_str()));
    }
    if odd(architectures, &["x86_64", "arm64"]) {
        broken.push((those.as_str(), "compatibleArchitectures", ARCHITECTURES));
    }
    if broken.is_empty() { Ok(()) } else { Err(AwsError::constraints(&broken)) }
}

fn get<B: Backend>(ask: &Ask<'_, B>, name: &str, number: u64) -> Result<Reply, AwsError> {
    let version = ask.catalog().layer_version(name, number)?;
    Ok(answer(200, &whole(ask, &LayerContent { name: name.to_owned(), number, version })?))
}

fn by_arn<B: Backend>(ask: Ask<'_, B>) -> Result<Reply, AwsError> {
    let arn = ask.param("Arn").ok_or_else(|| AwsError::absent("arn"))?.to_owned();
    let pattern = r"Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+)";
    let parts = arn.rsplit_once(':').filter(|(stem, number)| {
        stem.split(':').count() == 7 && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    });
    let (stem, number) = parts.ok_or_else(|| AwsError::constraint(&arn, "arn", pattern))?;
    let (name, number) = version(&ask, stem, number)?;
    get(&ask, &name, number)
}

fn filter<B: Backend>(ask: &Ask<'_, B>) -> Result<impl Fn(&LayerVersion) -> bool + use<B>, AwsError> {
    let runtime = ask.param("CompatibleRuntime").map(str::to_owned);
    let architecture = ask.param("CompatibleArchitecture").map(str::to_owned);
    if let Some(a) = architecture.as_deref().filter(|a| !matches!(*a, "x86_64" | "arm64")) {
        let set = "Member must satisfy enum value set: [x86_64, arm64]";
        return Err(AwsError::constraint(a, "compatibleArchitecture", set));
    }
    if let Some(r) = runtime.as_deref().filter(|r| !EVERY_RUNTIME.contains(r)) {
        let set = format!("Member must satisfy enum value set: [{}]", EVERY_RUNTIME.join(", "));
        return Err(AwsError::constraint(r, "compatibleRuntime", &set));
    }
    let says = |list: &Option<Vec<String>>, wanted: &Option<String>| {
        wanted.as_ref().is_none_or(|w| list.as_ref().is_some_and(|l| l.contains(w)))
    };
    Ok(move |v: &LayerVersion| {
        says(&v.compatible_runtimes, &runtime) && says(&v.compatible_architectures, &architecture)
    })
}

fn list<B: Backend>(ask: Ask<'_, B>) -> Result<Reply, AwsError> {
    let limit = ask.max_items(PAGE)?;
    let found = ask.catalog().list_layers(ask.marker().as_ref(), limit + 1, filter(&ask)?);
    let (found, next) = cut(found, limit, |l: &LayerContent| l.name.clone());
    let all: Vec<Value> = found
        .iter()
        .map(|l| {
            let newest = summary(&ask, l);
            json!({"LayerName": l.name, "LayerArn": layer_arn(&ask, &l.name), "LatestMatchingVersion": newest})
        })
        .collect();
    Ok(answer(200, &with_marker(json!({ "Layers": all }), next)))
}

fn list_versions<B: Backend>(ask: Ask<'_, B>, layer: &str) -> Result<Reply, AwsError> {
    let name = names::layer(layer, ask.place())?;
    let limit = ask.max_items(PAGE)?;
    let bad = |_| AwsError::invalid("Invalid Marker");
    let below = ask.marker().map(|m| m.parse()).transpose().map_err(bad)?;
    let found = ask.catalog().list_layer_versions(&name, below, limit + 1, filter(&ask)?);
    let (found, next) = cut(found, limit, |l: &LayerContent| l.number.to_string());
    let all: Vec<Value> = found.iter().map(|l| summary(&ask, l)).collect();
    Ok(answer(200, &with_marker(json!({ "LayerVersions": all }), next)))
}

async fn add_permission<B: Backend>(mut ask: Ask<'_, B>, layer: &str, number: &str) -> Result<Reply, AwsError> {
    let (name, number) = version(&ask, layer, number)?;
    let known = ask.param("RevisionId").map(str::to_owned);
    let shape: PermissionShape = ask.document().await?;
    let sid = shape.sid()?;
    let action = shape.action.ok_or_else(|| AwsError::absent("action"))?;
    if action != "lambda:GetLayerVersion" {
        let pattern = "Member must satisfy regular expression pattern: lambda:GetLayerVersion";
        return Err(AwsError::constraint(&action, "action", pattern));
    }
    let principal = shape.principal.ok_or_else(|| AwsError::absent("principal"))?;
    let permission = rules::Permission {
        sid,
        action,
        principal,
        organisation: shape.organization_id,
        ..rules::Permission::default()
    };
    let arn = ask.catalog().layer_version_arn(&name, number);
    let statement = rules::statement(&permission, &arn)?;
    let (made, revision) = ask.catalog().add_layer_permission(&name, number, statement, known).await?;
    Ok(answer(201, &json!({"Statement": made.to_string(), "RevisionId": revision})))
}

fn layer_arn<B: Backend>(ask: &Ask<'_, B>, name: &str) -> String {
    ask.place().lambda(&format!("layer:{name}"))
}

fn summary<B: Backend>(ask: &Ask<'_, B>, layer: &LayerContent) -> Value {
    let version = &layer.version;
    let mut out = json!({
        "LayerVersionArn": ask.catalog().layer_version_arn(&layer.name, layer.number),
        "Version": layer.number,
        "Description": version.description,
        "CreatedDate": stamp(version.created_ms),
    });
    if let Some(runtimes) = &version.compatible_runtimes {
        out["CompatibleRuntimes"] = json!(runtimes);
    }
    if let Some(architectures) = &version.compatible_architectures {
        out["CompatibleArchitectures"] = json!(architectures);
    }
    if let Some(license) = &version.license_info {
        out["LicenseInfo"] = json!(license);
    }
    out
}

fn whole<B: Backend>(ask: &Ask<'_, B>, layer: &LayerContent) -> Result<Value, AwsError> {
    let version = &layer.version;
    let mut content = json!({
        "CodeSha256": text::base64(&bytes_of(version.sha256.as_str())),
        "CodeSize": version.code_size,
    });
    if let Some(link) = location::of(ask, &version.code)? {
        content["Location"] = json!(link);
    }
    let mut out = summary(ask, layer);
    out["LayerArn"] = json!(layer_arn(ask, &layer.name));
    out["Content"] = content;
    Ok(out)
}
