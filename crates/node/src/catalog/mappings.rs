//! Event source mappings: which queue or stream feeds which function. They are kept, checked and answered here; `sources` polls
//! what `all_mappings` says.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use offshoot_model::FunctionName;
use serde_json::{Map, Value, json};

use super::functions::check_tags;
use super::types::Mapping;
use super::{Catalog, Document, Fault, MAPPING, Rule, document, fault, now_ms, random_uuid};
use crate::sources::{Filter, missing};

/// Most mappings of a server.
const MAX_MAPPINGS: usize = 10_000;
/// How long a change is shown as under way where nobody works the mappings, in milliseconds.
const SETTLE_MS: u64 = 1_000;

/// A mapping with its id.
#[derive(Debug, Clone)]
pub struct MappingView {
    /// Its id.
    pub uuid: String,
    /// What it is.
    pub mapping: Mapping,
    /// Whether its last change has been taken over by now.
    pub settled: bool,
    /// What its last poll or call came to (`LastProcessingResult`).
    pub result: Option<String>,
}

/// What kind of source an ARN names, with AWS's default batch size and whether it is a stream.
fn source_kind(arn: &str) -> Option<(&'static str, u32, bool)> {
    match arn.split(':').nth(2)? {
        "sqs" => Some(("sqs", 10, false)),
        "kinesis" => Some(("kinesis", 100, true)),
        "dynamodb" => Some(("dynamodb", 100, true)),
        "kafka" => Some(("kafka", 100, false)),
        "mq" => Some(("mq", 100, false)),
        "rds" => Some(("docdb", 100, false)),
        _ => None,
    }
}

impl Catalog {
    /// Makes a mapping from AWS's members. `function` is the ARN as it is answered.
    pub async fn create_mapping(
        self: &Arc<Self>,
        name: &FunctionName,
        function_arn: String,
        members: Map<String, Value>,
        tags: BTreeMap<String, String>,
    ) -> Result<MappingView, Fault> {
        // What is wrong with the request is said before its source is asked.
        complete(members.clone(), "")?;
        if self.registry.resolve(name).is_none() {
            return Err(fault(Rule::Invalid, "Function does not exist"));
        }
        let source = members.get("EventSourceArn").and_then(Value::as_str).unwrap_or_default();
        if let Some(message) = missing(self.board.remote(), source).await {
            return Err(fault(Rule::Invalid, message));
        }
        let (this, name) = (Arc::clone(self), name.clone());
        let done = self.registry.blocking(move |_| Ok(this.create_mapping_now(&name, function_arn, members, tags)));
        done.await?
    }

    fn create_mapping_now(
        &self,
        name: &FunctionName,
        function_arn: String,
        members: Map<String, Value>,
        tags: BTreeMap<String, String>,
    ) -> Result<MappingView, Fault> {
        check_tags(&tags)?;
        let uuid = random_uuid()?;
        let settings = complete(members, &uuid)?;
        if self.registry.resolve(name).is_none() {
            return Err(fault(Rule::Invalid, "Function does not exist"));
        }
        let shelf = &self.registry.shelf;
        let _turn = shelf.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = shelf.mappings.read().unwrap_or_else(PoisonError::into_inner).clone();
        if all.len() >= MAX_MAPPINGS {
            return Err(fault(Rule::Conflict, format!("a server keeps at most {MAX_MAPPINGS} event source mappings")));
        }
        if let Some((twin, _)) =
            all.iter().find(|(_, m)| m.function_arn == function_arn && same_source(&m.settings, &settings))
        {
            return Err(fault(Rule::Conflict, duplicate(&settings, name.as_str(), &function_arn, twin)));
        }
        let enabled = settings.get("Enabled").and_then(Value::as_bool).unwrap_or(true);
        let mut settings = settings;
        settings.remove("Enabled");
        let (function, modified_ms, change) = (name.to_string(), now_ms(), "Creating".to_owned());
        let mapping = Mapping { function_arn, function, enabled, modified_ms, change, settings, tags };
        self.put_mapping(&uuid, &mapping)?;
        Ok(MappingView { uuid, mapping, settled: false, result: None })
    }

    fn put_mapping(&self, uuid: &str, mapping: &Mapping) -> Result<(), Fault> {
        self.registry.store.write(&[document(MAPPING, uuid.to_owned(), mapping)?])?;
        let mut all = self.registry.shelf.mappings.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(uuid.to_owned(), Arc::new(mapping.clone()));
        drop(all);
        self.board.ring();
        Ok(())
    }

    /// A mapping as it is now.
    pub fn mapping(&self, uuid: &str) -> Result<MappingView, Fault> {
        let all = self.registry.shelf.mappings.read().unwrap_or_else(PoisonError::into_inner);
        let absent = || fault(Rule::NotFound, "The resource you requested does not exist.");
        let mapping = Mapping::clone(all.get(uuid).ok_or_else(absent)?);
        drop(all);
        Ok(self.seen(uuid, mapping))
    }

    /// A mapping with what is known of its work.
    fn seen(&self, uuid: &str, mapping: Mapping) -> MappingView {
        let status = self.board.status(uuid).unwrap_or_default();
        let settled = match self.board.attended() {
            true => status.in_force_ms == mapping.modified_ms,
            false => now_ms().saturating_sub(mapping.modified_ms) >= SETTLE_MS,
        };
        MappingView { uuid: uuid.to_owned(), mapping, settled, result: status.result }
    }

    /// All mappings by id.
    pub fn all_mappings(&self) -> HashMap<String, Arc<Mapping>> {
        let all = self.registry.shelf.mappings.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(uuid, mapping)| (uuid.clone(), Arc::clone(mapping))).collect()
    }

    /// Changes members of a mapping.
    pub async fn update_mapping(
        self: &Arc<Self>,
        uuid: &str,
        function: Option<(FunctionName, String)>,
        members: Map<String, Value>,
    ) -> Result<MappingView, Fault> {
        let (this, uuid) = (Arc::clone(self), uuid.to_owned());
        let done = self.registry.blocking(move |_| {
            let _turn = this.registry.shelf.changing.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(this.update_mapping_now(&uuid, function, members))
        });
        done.await?
    }

    fn update_mapping_now(
        &self,
        uuid: &str,
        function: Option<(FunctionName, String)>,
        members: Map<String, Value>,
    ) -> Result<MappingView, Fault> {
        let mut mapping = self.mapping(uuid)?.mapping;
        if let Some((name, arn)) = function {
            if self.registry.resolve(&name).is_none() {
                return Err(fault(Rule::Invalid, "Function does not exist"));
            }
            (mapping.function, mapping.function_arn) = (name.to_string(), arn);
        }
        let mut settings = mapping.settings.clone();
        settings.extend(members);
        let before = mapping.enabled;
        mapping.enabled = settings.remove("Enabled").and_then(|v| v.as_bool()).unwrap_or(before);
        mapping.change = match (before, mapping.enabled) {
            (true, false) => "Disabling",
            (false, true) => "Enabling",
            _ => "Updating",
        }
        .to_owned();
        mapping.settings = complete(settings, uuid)?;
        mapping.modified_ms = now_ms();
        self.put_mapping(uuid, &mapping)?;
        Ok(MappingView { settled: false, ..self.seen(uuid, mapping) })
    }

    /// Removes a mapping, and answers what it was.
    pub async fn delete_mapping(self: &Arc<Self>, uuid: &str) -> Result<MappingView, Fault> {
        let (this, uuid) = (Arc::clone(self), uuid.to_owned());
        let done = self.registry.blocking(move |_| {
            let shelf = &this.registry.shelf;
            let _turn = shelf.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let view = match this.mapping(&uuid) {
                Ok(view) => view,
                Err(absent) => return Ok(Err(absent)),
            };
            this.registry.store.write(&[Document { kind: MAPPING, key: uuid.clone(), text: None }])?;
            shelf.mappings.write().unwrap_or_else(PoisonError::into_inner).remove(&uuid);
            this.board.ring();
            Ok(Ok(view))
        });
        done.await?
    }

    /// At most `limit` mappings after this id that satisfy `wanted`.
    pub fn list_mappings(
        &self,
        after: Option<&String>,
        limit: usize,
        wanted: impl Fn(&Mapping) -> bool,
    ) -> Vec<MappingView> {
        let all = self.registry.shelf.mappings.read().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let found = all.range::<String, _>((from, std::ops::Bound::Unbounded)).filter(|(_, m)| wanted(m)).take(limit);
        found.map(|(uuid, m)| self.seen(uuid, Mapping::clone(m))).collect()
    }

    /// Adds and removes tags of a mapping.
    pub async fn tag_mapping(
        self: &Arc<Self>,
        uuid: &str,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    ) -> Result<(), Fault> {
        let (this, uuid) = (Arc::clone(self), uuid.to_owned());
        let done = self.registry.blocking(move |_| {
            let _turn = this.registry.shelf.changing.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(this.mapping(&uuid).and_then(|view| {
                let mut mapping = view.mapping;
                mapping.tags.extend(add);
                mapping.tags.retain(|key, _| !remove.contains(key));
                check_tags(&mapping.tags)?;
                this.put_mapping(&uuid, &mapping)
            }))
        });
        done.await?
    }
}

fn same_source(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    // One server that is the same is enough (recorded from AWS): servers of one cluster lead to each other.
    let (ours, theirs) = (servers(a), servers(b));
    let cluster = ours.iter().any(|server| theirs.contains(server)) || ours == theirs;
    cluster && ["EventSourceArn", "Topics"].iter().all(|key| a.get(*key) == b.get(*key))
}

/// The bootstrap servers of a cluster of one's own.
fn servers(settings: &Map<String, Value>) -> Vec<&str> {
    let servers =
        settings.get("SelfManagedEventSource").and_then(|s| s.get("Endpoints")?.get("KAFKA_BOOTSTRAP_SERVERS"));
    servers.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn duplicate(settings: &Map<String, Value>, function: &str, function_arn: &str, uuid: &str) -> String {
    match settings.get("EventSourceArn").and_then(Value::as_str) {
        Some(arn) if matches!(source_kind(arn), Some(("sqs", ..))) => format!(
            "An event source mapping with SQS arn (\" {arn} \") and function (\" {function} \") already exists. Please update or delete the existing mapping with UUID {uuid}"
        ),
        Some(arn) => format!(
            "The event source arn (\" {arn} \") and function (\" {function} \") provided mapping already exists. Please update or delete the existing mapping with UUID {uuid}"
        ),
        None => {
            let topics = settings.get("Topics").and_then(Value::as_array).into_iter().flatten();
            let topics: Vec<&str> = topics.filter_map(Value::as_str).collect();
            format!(
                "An event source mapping with event source (\"{}\"), function (\"{function_arn}\"), topics (\"{}\") already exists. Please update or delete the existing mapping with UUID {uuid}",
                servers(settings).join(","),
                topics.join(",")
            )
        }
    }
}

/// Checks a mapping's members, and adds AWS's defaults.
fn complete(mut members: Map<String, Value>, uuid: &str) -> Result<Map<String, Value>, Fault> {
    let invalid = |message: String| Err(fault(Rule::Invalid, message));
    let arn = members.get("EventSourceArn").and_then(Value::as_str).map(str::to_owned);
    let managed = members.get("SelfManagedEventSource").is_some_and(|v| !v.is_null());
    let (kind, batch, stream) = match (&arn, managed) {
        (Some(arn), false) => match source_kind(arn) {
            Some(kind) => kind,
            None => return invalid("Unrecognized event source.".to_owned()),
        },
        (None, true) => ("self-managed-kafka", 100, false),
        _ => return invalid("Unrecognized event source.".to_owned()),
    };
    if kind == "self-managed-kafka" {
        if members.get("SourceAccessConfigurations").is_none_or(Value::is_null) {
            return invalid("Required 'sourceAccessConfigurations' parameter is missing.".to_owned());
        }
        // The only source that begins somewhere by itself (recorded from AWS).
        members.entry("StartingPosition").or_insert_with(|| json!("TRIM_HORIZON"));
    }
    let needs_position = stream || kind.ends_with("kafka");
    let position = members.get("StartingPosition").and_then(Value::as_str).map(str::to_owned);
    match (&position, needs_position) {
        (None, true) => {
            let message = "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null.";
            return invalid(message.to_owned());
        }
        (Some(p), _) if p == "AT_TIMESTAMP" && kind == "dynamodb" => {
            return invalid(format!("Unsupported starting position for arn type: {}", arn.unwrap_or_default()));
        }
        (Some(p), _) if p == "AT_TIMESTAMP" && !members.contains_key("StartingPositionTimestamp") => {
            return invalid("StartingPosition AT_TIMESTAMP needs a StartingPositionTimestamp.".to_owned());
        }
        _ => {}
    }
    let success = members.get("DestinationConfig").and_then(|d| d.get("OnSuccess"));
    if success.is_some_and(|s| s.get("Destination").is_some_and(|d| d.as_str().is_some_and(|d| !d.is_empty()))) {
        return invalid("Unsupported DestinationConfig parameter for given event source mapping type.".to_owned());
    }
    if Filter::parse(members.get("FilterCriteria")).is_none() {
        return invalid("Invalid filter pattern definition.".to_owned());
    }
    if members.get("TumblingWindowInSeconds").and_then(Value::as_i64).is_some_and(|s| s > 0) {
        return Err(fault(Rule::Unsupported, "TumblingWindowInSeconds is not supported by this server: use 0"));
    }
    let mut or = |key: &str, value: Value| {
        if members.get(key).is_none_or(Value::is_null) {
            members.insert(key.to_owned(), value);
        }
    };
    or("BatchSize", json!(batch));
    if kind == "sqs" || stream {
        or("MaximumBatchingWindowInSeconds", json!(0));
        or("FunctionResponseTypes", json!([]));
    }
    if stream {
        or("BisectBatchOnFunctionError", json!(false));
        or("DestinationConfig", json!({"OnFailure": {}}));
        or("MaximumRecordAgeInSeconds", json!(-1));
        or("MaximumRetryAttempts", json!(-1));
        or("ParallelizationFactor", json!(1));
        or("TumblingWindowInSeconds", json!(0));
    }
    if kind == "self-managed-kafka" {
        or("SelfManagedKafkaEventSourceConfig", json!({ "ConsumerGroupId": uuid }));
    }
    if kind == "kafka" {
        or("AmazonManagedKafkaEventSourceConfig", json!({ "ConsumerGroupId": uuid }));
    }
    check_ranges(&members, kind)?;
    Ok(members)
}

fn check_ranges(members: &Map<String, Value>, kind: &str) -> Result<(), Fault> {
    let number = |key: &str| members.get(key).and_then(Value::as_i64);
    let most = if matches!(kind, "sqs" | "kinesis" | "dynamodb" | "kafka" | "self-managed-kafka" | "mq") {
        10_000
    } else {
        1000
    };
    for (key, low, high) in [
        ("BatchSize", 1, most),
        ("MaximumBatchingWindowInSeconds", 0, 300),
        ("ParallelizationFactor", 1, 10),
        ("MaximumRecordAgeInSeconds", -1, 604_800),
        ("MaximumRetryAttempts", -1, 10_000),
        ("TumblingWindowInSeconds", 0, 900),
    ] {
        if let Some(value) = number(key).filter(|v| !(low..=high).contains(v)) {
            return Err(fault(Rule::Invalid, format!("{key} is {value}: it must be from {low} to {high}")));
        }
    }
    let scaling = members.get("ScalingConfig").and_then(|c| c.get("MaximumConcurrency")).and_then(Value::as_i64);
    if let Some(value) = scaling.filter(|v| !(2..=1000).contains(v)) {
        let message = format!("ScalingConfig.MaximumConcurrency is {value}: it must be from 2 to 1000");
        return Err(fault(Rule::Invalid, message));
    }
    if kind == "sqs" && number("BatchSize") > Some(10) && number("MaximumBatchingWindowInSeconds") < Some(1) {
        let message = "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10";
        return Err(fault(Rule::Invalid, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(members: Value) -> Result<Map<String, Value>, Fault> {
        let Value::Object(members) = members else { panic!("an object") };
        complete(members, "u-u-i-d")
    }
    fn refusal(members: Value) -> String {
        match made(members) {
            Err(Fault::Rule(_, message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_depend_on_the_source() {
        let sqs = made(json!({"EventSourceArn": "arn:aws:sqs:us-east-1:0:q"})).unwrap();
        assert_eq!((&sqs["BatchSize"], sqs.get("ParallelizationFactor")), (&json!(10), None));
        let stream = json!({"EventSourceArn": "arn:aws:kinesis:us-east-1:0:stream/s", "StartingPosition": "LATEST"});
        let stream = made(stream).unwrap();
        assert_eq!((&stream["BatchSize"], &stream["MaximumRetryAttempts"]), (&json!(100), &json!(-1)));
    }

    #[test]
    fn clusters_of_ones_own_are_told_apart_by_servers_and_topics() {
        let cluster = |servers: Value, topic: &str| {
            json!({
                "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": servers}}, "Topics": [topic],
                "SourceAccessConfigurations": [{"Type": "BASIC_AUTH", "URI": "arn:aws:secretsmanager:us-east-1:0:secret:s"}],
            })
        };
        let one = made(cluster(json!(["k:1"]), "t")).unwrap();
        assert_eq!((&one["StartingPosition"], &one["BatchSize"]), (&json!("TRIM_HORIZON"), &json!(100)));
        let two = made(cluster(json!(["k:1", "k:2"]), "t")).unwrap();
        assert!(same_source(&one, &two));
        for other in [cluster(json!(["k:2"]), "t"), cluster(json!(["k:1"]), "u")] {
            assert!(!same_source(&one, &made(other).unwrap()));
        }
        let said = duplicate(&two, "f", "arn:aws:lambda:us-east-1:0:function:f", "u-1");
        assert!(
            said.starts_with(r#"An event source mapping with event source ("k:1,k:2"), function ("arn:aws:lambda:us-east-1:0:function:f"), topics ("t") already exists."#),
            "{said}"
        );
        let mut open = cluster(json!(["k:1"]), "t");
        open["SourceAccessConfigurations"] = Value::Null;
        assert_eq!(refusal(open), "Required 'sourceAccessConfigurations' parameter is missing.");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(refusal(json!({})), "Unrecognized event source.");
        assert_eq!(refusal(json!({"EventSourceArn": "arn:aws:s3:::b"})), "Unrecognized event source.");
        assert!(refusal(json!({"EventSourceArn": "arn:aws:kinesis:r:0:stream/s"})).contains("startingPosition"));
        let sqs = |more: Value| {
            let mut members = json!({"EventSourceArn": "arn:aws:sqs:us-east-1:0:q"});
            for (k, v) in more.as_object().unwrap() {
                members[k] = v.clone();
            }
            refusal(members)
        };
        assert!(sqs(json!({"BatchSize": 11})).contains("batch window"));
        assert!(sqs(json!({"BatchSize": 10_001})).contains("from 1 to 10000"));
        for pattern in ["", "[]", "{\"a\":1}", "{\"a\":[]}", "x"] {
            let message = sqs(json!({"FilterCriteria": {"Filters": [{"Pattern": pattern}]}}));
            assert_eq!(message, "Invalid filter pattern definition.");
        }
    }
}
