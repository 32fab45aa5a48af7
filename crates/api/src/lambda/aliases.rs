//! Aliases.

use std::collections::BTreeMap;

use http::Method;
use offshoot_model::FunctionName;
use offshoot_node::catalog::types::Alias;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::shapes::{answer, with_marker};
use super::{Ask, cut, names, no_content, wrong_method};
use crate::Backend;
use crate::reply::Reply;

/// Most aliases in one answer (AWS: 50).
const PAGE: usize = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Routing {
    additional_version_weights: BTreeMap<String, f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct AliasShape {
    name: Option<String>,
    function_version: Option<String>,
    description: Option<String>,
    routing_config: Option<Routing>,
    revision_id: Option<String>,
}

fn weights(routing: &Option<Routing>) -> Result<Option<BTreeMap<String, f64>>, AwsError> {
    const MEMBER: &str = "routingConfig.additionalVersionWeights";
    let Some(routing) = routing else { return Ok(None) };
    let all = &routing.additional_version_weights;
    let shown: Vec<String> = all.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
    let shown = format!("{{{}}}", shown.join(", "));
    if all.keys().any(|k| k.is_empty() || k.len() > 18 || !k.bytes().all(|b| b.is_ascii_digit())) {
        let text = "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+]";
        return Err(AwsError::constraint(&shown, MEMBER, text));
    }
    if all.values().any(|v| !(0.0..=1.0).contains(v)) {
        let text = "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, Member must not be null]";
        return Err(AwsError::constraint(&shown, MEMBER, text));
    }
    Ok(Some(all.clone()))
}

/// `/functions/{name}/aliases`.
pub(super) async fn collection<B: Backend>(ask: Ask<'_, B>, method: &Method, segment: &str) -> Result<Reply, AwsError> {
    match *method {
        Method::POST => create(ask, segment).await,
        Method::GET => list(ask, segment),
        _ => wrong_method(),
    }
}

/// `/functions/{name}/aliases/{alias}`.
pub(super) async fn one<B: Backend>(
    ask: Ask<'_, B>,
    method: &Method,
    segment: &str,
    alias: &str,
) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let alias = names::alias(alias)?;
    match *method {
        Method::GET => {
            let (found, revision) = ask.catalog().alias(&name, &alias)?;
            Ok(answer(200, &shown(&ask, &name, &alias, &found, &revision)))
        }
        Method::PUT => update(ask, name, alias).await,
        Method::DELETE => {
            ask.catalog().delete_alias(&name, alias).await?;
            Ok(no_content())
        }
        _ => wrong_method(),
    }
}

async fn create<B: Backend>(mut ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let shape: AliasShape = ask.document().await?;
    let alias = names::alias(shape.name.as_deref().ok_or_else(|| AwsError::absent("name"))?)?;
    let version = shape.function_version.clone().ok_or_else(|| AwsError::absent("functionVersion"))?;
    let weights = weights(&shape.routing_config)?.unwrap_or_default();
    let description = shape.description.unwrap_or_default();
    let (made, revision) = ask.catalog().create_alias(&name, alias.clone(), version, description, weights).await?;
    Ok(answer(201, &shown(&ask, &name, &alias, &made, &revision)))
}

async fn update<B: Backend>(mut ask: Ask<'_, B>, name: FunctionName, alias: String) -> Result<Reply, AwsError> {
    let shape: AliasShape = ask.document().await?;
    let weights = weights(&shape.routing_config)?;
    let (version, description, known) = (shape.function_version, shape.description, shape.revision_id);
    let (made, revision) =
        ask.catalog().update_alias(&name, alias.clone(), version, description, weights, known).await?;
    Ok(answer(200, &shown(&ask, &name, &alias, &made, &revision)))
}

fn list<B: Backend>(ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let limit = ask.max_items(PAGE)?;
    let found = ask.catalog().list_aliases(&name, ask.param("FunctionVersion"), ask.marker().as_ref(), limit + 1)?;
    let (found, next) = cut(found, limit, |(alias, ..)| alias.clone());
    let all: Vec<Value> = found.iter().map(|(n, a, r)| shown(&ask, &name, n, a, r)).collect();
    Ok(answer(200, &with_marker(json!({ "Aliases": all }), next)))
}

fn shown<B: Backend>(ask: &Ask<'_, B>, name: &FunctionName, alias: &str, found: &Alias, revision: &str) -> Value {
    let mut out = json!({
        "AliasArn": ask.place().function(name.as_str(), Some(alias)),
        "Name": alias,
        "FunctionVersion": found.function_version,
        "Description": found.description,
        "RevisionId": revision,
    });
    if !found.weights.is_empty() {
        out["RoutingConfig"] = json!({ "AdditionalVersionWeights": found.weights });
    }
    out
}
