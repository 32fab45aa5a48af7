//! Layers.

use http::Method;
use offshoot_node::catalog::types::LayerVersion;
use offshoot_node::catalog::{LayerContent, NewLayer, policy as rules};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::policy::PermissionShape;
use super::shapes::{answer, bytes_of, stamp, with_marker};
use super::upload;
use super::{Ask, cut, location, names, no_content, parse, s3, wrong_method};
use crate::Backend;
use crate::reply::Reply;
use crate::text;

/// Most layers or versions in one answer (AWS: 50).
const PAGE: usize = 50;
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
    compatible_runtimes: Vec<String>,
    compatible_architectures: Vec<String>,
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
    if shape.compatible_runtimes.len() > 15 {
        let shown = format!("[{}]", shape.compatible_runtimes.join(", "));
        let text = "Member must have length less than or equal to 15";
        return Err(AwsError::constraint(&shown, "compatibleRuntimes", text));
    }
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
    Ok(move |v: &LayerVersion| {
        runtime.as_ref().is_none_or(|r| v.compatible_runtimes.contains(r))
            && architecture.as_ref().is_none_or(|a| v.compatible_architectures.contains(a))
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
    if !version.compatible_runtimes.is_empty() {
        out["CompatibleRuntimes"] = json!(version.compatible_runtimes);
    }
    if !version.compatible_architectures.is_empty() {
        out["CompatibleArchitectures"] = json!(version.compatible_architectures);
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
