//! Shards as Kinesis and DynamoDB streams have them: which there are, where a read begins, and what a read brings. It differs between the
//! two in names and limits, and in nothing else that matters here.

use std::time::Duration;

use serde_json::{Value, json};

use super::events::{self, Record};
use super::store::Position;
use super::{Job, PATIENCE, RemoteError, Service};

/// Records of one read, at most.
const KINESIS_PAGE: usize = 10_000;
const DYNAMODB_PAGE: usize = 1000;
/// Shards of a stream that are followed, at most.
const MAX_SHARDS: usize = 10_000;
/// Pages of a list of shards that are read: a server may say without end that there are more.
const MAX_PAGES: usize = 1000;
/// A read may bring several megabytes.
const READ: Duration = Duration::from_secs(30);

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shard {
    pub id: String,
    /// The shards that it was made of: they are read first.
    pub parents: Vec<String>,
    /// Nothing more is written to it.
    pub closed: bool,
}

/// What a read brought.
#[derive(Debug)]
pub(super) struct Page {
    /// The records, as they go into an event, and whether the function's filter takes them.
    pub records: Vec<(Record, bool)>,
    /// What the next read begins with; `None`: the shard is at its end.
    pub next: Option<String>,
    /// There is nothing behind it now.
    pub at_tip: bool,
}

/// All shards of the stream.
pub(super) async fn list(job: &Job) -> Result<Vec<Shard>, RemoteError> {
    let source = job.source();
    let (mut found, mut from) = (Vec::new(), None::<Value>);
    for _ in 0..MAX_PAGES {
        let (answer, next) = match source.service {
            Service::DynamoDbStreams => {
                let mut input = json!({ "StreamArn": source.arn });
                if let Some(from) = from.take() {
                    input["ExclusiveStartShardId"] = from;
                }
                let mut answer = job.call("DescribeStream", input, PATIENCE).await?;
                let description = answer["StreamDescription"].take();
                let next = description.get("LastEvaluatedShardId").cloned();
                (description, next)
            }
            _ => {
                let input = match from.take() {
                    Some(token) => json!({ "NextToken": token }),
                    None => json!({ "StreamName": source.name }),
                };
                let answer = job.call("ListShards", input, PATIENCE).await?;
                let next = answer.get("NextToken").cloned();
                (answer, next)
            }
        };
        found.extend(answer.get("Shards").and_then(Value::as_array).into_iter().flatten().filter_map(shard));
        from = next.filter(|n| n.as_str().is_some_and(|n| !n.is_empty()));
        if from.is_none() || found.len() >= MAX_SHARDS || job.stopping() {
            break;
        }
    }
    Ok(found)
}

fn shard(value: &Value) -> Option<Shard> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
    let range = value.get("SequenceNumberRange");
    Some(Shard {
        id: text("ShardId")?,
        parents: ["ParentShardId", "AdjacentParentShardId"].into_iter().filter_map(text).collect(),
        closed: range.and_then(|r| r.get("EndingSequenceNumber")).is_some_and(Value::is_string),
    })
}

/// What a read from this position begins with. `fresh`: from what comes next, instead of a moment that has just been.
pub(super) async fn iterator(job: &Job, shard: &str, position: &Position, fresh: bool) -> Result<String, RemoteError> {
    let source = job.source();
    let of_table = source.service == Service::DynamoDbStreams;
    let mut input = match of_table {
        true => json!({"StreamArn": source.arn, "ShardId": shard}),
        false => json!({"StreamName": source.name, "ShardId": shard}),
    };
    let kind = match position {
        Position::After(sequence) => {
            input[if of_table { "SequenceNumber" } else { "StartingSequenceNumber" }] = json!(sequence);
            "AFTER_SEQUENCE_NUMBER"
        }
        Position::Since(_) if fresh => "LATEST",
        // Streams of tables know no moments: the older records are passed over when they are read.
        Position::Since(moment) if !of_table => {
            input["Timestamp"] = json!(*moment as f64 / 1000.0);
            "AT_TIMESTAMP"
        }
        _ => "TRIM_HORIZON",
    };
    input["ShardIteratorType"] = json!(kind);
    let answer = job.call("GetShardIterator", input, PATIENCE).await?;
    let found = answer.get("ShardIterator").and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| RemoteError { code: None, message: "its answer has no iterator".to_owned() })
}

/// Reads on.
pub(super) async fn read(job: &Job, shard: &str, iterator: &str, wanted: usize) -> Result<Page, RemoteError> {
    let source = job.source();
    let of_table = source.service == Service::DynamoDbStreams;
    let most = wanted.min(if of_table { DYNAMODB_PAGE } else { KINESIS_PAGE });
    let answer = job.call("GetRecords", json!({"ShardIterator": iterator, "Limit": most}), READ).await?;
    let odd = |what: &str| RemoteError { code: None, message: format!("its answer has {what}") };
    // An answer without the list is not an empty page: it would end the shard.
    let given = answer.get("Records").and_then(Value::as_array).ok_or_else(|| odd("no records"))?;
    if given.len() > most {
        return Err(odd("more records than were asked for"));
    }
    let role = job.core.parts.catalog.role_of(&job.plan.function);
    let records = given.iter().map(|record| {
        if of_table {
            let made = events::dynamodb(record, &source.arn, &source.region);
            let inner = &record["dynamodb"];
            let passes = job.plan.filter.passes(&made);
            let id = inner["SequenceNumber"].as_str().unwrap_or_default().to_owned();
            let arrived_ms = events::moment(inner.get("ApproximateCreationDateTime"));
            let key = inner.get("Keys").map(Value::to_string).unwrap_or_default();
            (Record { id, text: made.to_string(), arrived_ms, key }, passes)
        } else {
            let made = events::kinesis(record, shard, &source.arn, &source.region, &role);
            let passes = job.plan.filter.is_empty() || job.plan.filter.passes(&events::kinesis_seen(&made));
            let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
            let arrived_ms = events::moment(record.get("ApproximateArrivalTimestamp"));
            let (id, key) = (text("SequenceNumber"), text("PartitionKey"));
            (Record { id, text: made.to_string(), arrived_ms, key }, passes)
        }
    });
    Ok(Page {
        records: records.collect(),
        next: answer.get("NextShardIterator").and_then(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned),
        at_tip: given.is_empty() && answer.get("MillisBehindLatest").and_then(Value::as_u64).unwrap_or(0) == 0,
    })
}
