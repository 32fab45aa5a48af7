//! Published versions: publish, list.

use http::Method;
use offshoot_node::catalog::View;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::shapes::{self, answer, with_marker};
use super::{Ask, cut, wrong_method};
use crate::Backend;
use crate::reply::Reply;

/// Most versions in one answer (AWS: 50).
const PAGE: usize = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PublishShape {
    code_sha256: Option<String>,
    description: Option<String>,
    revision_id: Option<String>,
    publish_to: Option<String>,
}

/// `/functions/{name}/versions`.
pub(super) async fn route<B: Backend>(ask: Ask<'_, B>, method: &Method, segment: &str) -> Result<Reply, AwsError> {
    match *method {
        Method::POST => publish(ask, segment).await,
        Method::GET => list(ask, segment),
        _ => wrong_method(),
    }
}

async fn publish<B: Backend>(mut ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let shape: PublishShape = ask.document().await?;
    if shape.publish_to.is_some() {
        return Err(AwsError::unsupported("PublishTo"));
    }
    let sha = shape.code_sha256.filter(|s| !s.is_empty());
    let view = ask.catalog().publish(&name, shape.description, sha, shape.revision_id).await?;
    Ok(answer(201, &shapes::configuration(&view, ask.place(), None)))
}

fn list<B: Backend>(ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let limit = ask.max_items(PAGE)?;
    let bad = |_| AwsError::invalid("Invalid Marker");
    let after = ask.marker().map(|m| m.parse::<u64>()).transpose().map_err(bad)?;
    let found = ask.catalog().list_versions(&name, after, limit + 1)?;
    let (views, next) = cut(found, limit, |v: &View| v.version.number.unwrap_or(0).to_string());
    let shown: Vec<Value> = views.iter().map(|v| shapes::listed(v, ask.place(), Some(&v.version.label()))).collect();
    Ok(answer(200, &with_marker(json!({ "Versions": shown }), next)))
}
