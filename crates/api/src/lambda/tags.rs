//! Tags of functions and event source mappings.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::error::AwsError;
use super::names::{self, Resource};
use super::shapes::answer;
use super::{Ask, no_content, wrong_method};
use crate::Backend;
use crate::reply::Reply;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct TagShape {
    tags: Option<BTreeMap<String, String>>,
}

/// `/tags/{arn}`.
pub(super) async fn route<B: Backend>(mut ask: Ask<'_, B>, method: &Method, arn: &str) -> Result<Reply, AwsError> {
    let resource = names::resource(arn, ask.place())?;
    if let Resource::Function(name, qualifier) = &resource {
        if qualifier.is_some() {
            return Err(AwsError::invalid(
                "Tags on function aliases and versions are not supported. Please specify a function ARN.",
            ));
        }
        if ask.call.backend().get(name).is_none() {
            return Err(ask.catalog().missing(name, None).into());
        }
    }
    if let Resource::Mapping(uuid) = &resource
        && ask.catalog().mapping(uuid).is_err()
    {
        return Err(AwsError::not_found(format!("Event source mapping not found: {arn}")));
    }
    match *method {
        Method::GET => {
            let tags = match &resource {
                Resource::Function(name, _) => ask.catalog().get(name, None)?.tags,
                Resource::Mapping(uuid) => ask.catalog().mapping(uuid)?.mapping.tags,
            };
            Ok(answer(200, &json!({ "Tags": tags })))
        }
        Method::POST => {
            let shape: TagShape = ask.document().await?;
            let tags = shape.tags.ok_or_else(|| AwsError::absent("tags"))?;
            if tags.is_empty() {
                return Err(AwsError::invalid("An error occurred and the request cannot be processed."));
            }
            change(&ask, &resource, tags, Vec::new()).await
        }
        Method::DELETE => {
            let keys = ask.params("tagKeys");
            if keys.is_empty() {
                return Err(AwsError::absent("tagKeys"));
            }
            change(&ask, &resource, BTreeMap::new(), keys).await
        }
        _ => wrong_method(),
    }
}

async fn change<B: Backend>(
    ask: &Ask<'_, B>,
    resource: &Resource,
    add: BTreeMap<String, String>,
    remove: Vec<String>,
) -> Result<Reply, AwsError> {
    match resource {
        Resource::Function(name, _) => ask.catalog().tag(name, add, remove).await?,
        Resource::Mapping(uuid) => ask.catalog().tag_mapping(uuid, add, remove).await?,
    }
    Ok(no_content())
}
