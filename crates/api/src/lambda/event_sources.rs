//! Event source mappings. Their members are passed on as they are, apart from those that name the function.

use std::collections::BTreeMap;

use http::Method;
use offshoot_model::FunctionName;
use offshoot_node::catalog::MappingView;
use offshoot_node::catalog::types::Mapping;
use serde_json::{Map, Value, json};

use super::error::AwsError;
use super::shapes::{answer, epoch, with_marker};
use super::{Ask, cut, names, wrong_method};
use crate::Backend;
use crate::reply::Reply;

/// Most mappings in one answer (AWS: 100).
const PAGE: usize = 100;
/// Members that a mapping may have, besides its function and its tags.
const MEMBERS: &[&str] = &[
    "EventSourceArn",
    "Enabled",
    "BatchSize",
    "FilterCriteria",
    "KMSKeyArn",
    "MetricsConfig",
    "LoggingConfig",
    "ScalingConfig",
    "MaximumBatchingWindowInSeconds",
    "ParallelizationFactor",
    "StartingPosition",
    "StartingPositionTimestamp",
    "DestinationConfig",
    "MaximumRecordAgeInSeconds",
    "BisectBatchOnFunctionError",
    "MaximumRetryAttempts",
    "TumblingWindowInSeconds",
    "Topics",
    "Queues",
    "SourceAccessConfigurations",
    "SelfManagedEventSource",
    "FunctionResponseTypes",
    "AmazonManagedKafkaEventSourceConfig",
    "SelfManagedKafkaEventSourceConfig",
    "DocumentDBEventSourceConfig",
    "ProvisionedPollerConfig",
];

/// `/event-source-mappings`.
pub(super) async fn collection<B: Backend>(ask: Ask<'_, B>, method: &Method) -> Result<Reply, AwsError> {
    match *method {
        Method::POST => create(ask).await,
        Method::GET => list(ask),
        _ => wrong_method(),
    }
}

/// `/event-source-mappings/{uuid}`.
pub(super) async fn one<B: Backend>(ask: Ask<'_, B>, method: &Method, uuid: &str) -> Result<Reply, AwsError> {
    match *method {
        Method::GET => {
            let view = ask.catalog().mapping(uuid)?;
            Ok(answer(200, &shown(&ask, &view, state_of(&view))))
        }
        Method::PUT => update(ask, uuid).await,
        Method::DELETE => {
            let view = ask.catalog().delete_mapping(uuid).await?;
            Ok(answer(202, &shown(&ask, &view, "Deleting")))
        }
        _ => wrong_method(),
    }
}

/// AWS's word for a mapping's state: that of its last change until the pollers have taken it over.
fn state_of(view: &MappingView) -> &str {
    match (view.settled, view.mapping.enabled, view.mapping.change.as_str()) {
        (true, true, _) => "Enabled",
        (true, false, _) => "Disabled",
        (false, _, "") => "Updating",
        (false, _, change) => change,
    }
}

/// The members of a request: those that are known, without the absent.
fn members(document: Map<String, Value>) -> Map<String, Value> {
    document.into_iter().filter(|(k, v)| MEMBERS.contains(&k.as_str()) && !v.is_null()).collect()
}

/// The function that a document names, and its ARN as it is answered.
fn function<B: Backend>(
    ask: &Ask<'_, B>,
    document: &Map<String, Value>,
) -> Result<Option<(FunctionName, String)>, AwsError> {
    let Some(text) = document.get("FunctionName").and_then(Value::as_str) else { return Ok(None) };
    let (name, qualifier) = names::function(text, None, ask.place())?;
    let arn = ask.place().function(name.as_str(), qualifier.as_deref());
    if let Some(qualifier) = qualifier.as_deref()
        && ask.call.backend().get(&name).is_some()
        && ask.catalog().resolve(&name, Some(qualifier), 0.0).is_err()
    {
        return Err(AwsError::invalid("Function does not exist"));
    }
    Ok(Some((name, arn)))
}

async fn create<B: Backend>(mut ask: Ask<'_, B>) -> Result<Reply, AwsError> {
    let document: Map<String, Value> = ask.document().await?;
    let (name, arn) = function(&ask, &document)?.ok_or_else(|| AwsError::absent("functionName"))?;
    let tags = match document.get("Tags") {
        Some(tags) => serde_json::from_value::<BTreeMap<String, String>>(tags.clone())
            .map_err(|e| AwsError::new(400, "SerializationException", e.to_string()))?,
        None => BTreeMap::new(),
    };
    if let Some(position) = document.get("StartingPosition").and_then(Value::as_str)
        && !matches!(position, "LATEST" | "TRIM_HORIZON" | "AT_TIMESTAMP")
    {
        let set = "Member must satisfy enum value set: [LATEST, AT_TIMESTAMP, TRIM_HORIZON]";
        return Err(AwsError::constraint(position, "startingPosition", set));
    }
    let view = ask.catalog().create_mapping(&name, arn, members(document), tags).await?;
    // A queue's mapping that is made disabled is so at once (recorded).
    let queue = !view.mapping.settings.contains_key("StartingPosition");
    let state = if queue && !view.mapping.enabled { "Disabled" } else { "Creating" };
    Ok(answer(202, &shown(&ask, &view, state)))
}

async fn update<B: Backend>(mut ask: Ask<'_, B>, uuid: &str) -> Result<Reply, AwsError> {
    let document: Map<String, Value> = ask.document().await?;
    ask.catalog().mapping(uuid)?;
    let function = function(&ask, &document)?;
    let mut members = members(document);
    for fixed in [
        "EventSourceArn",
        "StartingPosition",
        "StartingPositionTimestamp",
        "Topics",
        "Queues",
        "SelfManagedEventSource",
    ] {
        members.remove(fixed);
    }
    let view = ask.catalog().update_mapping(uuid, function, members).await?;
    Ok(answer(202, &shown(&ask, &view, state_of(&view))))
}

fn list<B: Backend>(ask: Ask<'_, B>) -> Result<Reply, AwsError> {
    let limit = ask.max_items(PAGE)?;
    let source = ask.param("EventSourceArn").map(str::to_owned);
    let function = ask.param("FunctionName").map(|text| names::function(text, None, ask.place())).transpose()?;
    let function = function.map(|(name, qualifier)| {
        (name.to_string(), ask.place().function(name.as_str(), qualifier.as_deref()), qualifier)
    });
    let wanted = |m: &Mapping| {
        let of_source =
            source.as_deref().is_none_or(|s| m.settings.get("EventSourceArn").and_then(Value::as_str) == Some(s));
        let of_function = function.as_ref().is_none_or(|(name, arn, qualifier)| match qualifier {
            Some(_) => m.function_arn == *arn,
            None => m.function == *name,
        });
        of_source && of_function
    };
    let found = ask.catalog().list_mappings(ask.marker().as_ref(), limit + 1, wanted);
    let (found, next) = cut(found, limit, |v: &MappingView| v.uuid.clone());
    let all: Vec<Value> = found.iter().map(|v| shown(&ask, v, state_of(v))).collect();
    Ok(answer(200, &with_marker(json!({ "EventSourceMappings": all }), next)))
}

fn shown<B: Backend>(ask: &Ask<'_, B>, view: &MappingView, state: &str) -> Value {
    let mut out = view.mapping.settings.clone();
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    put("UUID", json!(view.uuid));
    put("FunctionArn", json!(view.mapping.function_arn));
    put("EventSourceMappingArn", json!(ask.place().lambda(&format!("event-source-mapping:{}", view.uuid))));
    put("LastModified", epoch(view.mapping.modified_ms));
    put("State", json!(state));
    // Recorded from AWS: streams have another word for it than queues, and a result from the beginning; queues have none. What is wrong
    // is said of both.
    let of_stream = view.mapping.settings.contains_key("StartingPosition");
    let of_cluster = view.mapping.settings.contains_key("SelfManagedEventSource");
    put("StateTransitionReason", json!(if of_stream && !of_cluster { "User action" } else { "USER_INITIATED" }));
    match &view.result {
        Some(result) if of_stream || result.starts_with("PROBLEM") || result.starts_with("Nothing is polled") => {
            put("LastProcessingResult", json!(result));
        }
        None if of_stream => put("LastProcessingResult", json!("No records processed")),
        _ => {}
    }
    // A list of no filters is none.
    if out.get("FilterCriteria").is_some_and(|c| c.get("Filters").and_then(Value::as_array).is_none_or(Vec::is_empty)) {
        out.remove("FilterCriteria");
    }
    Value::Object(out)
}
