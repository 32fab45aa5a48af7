//! What a stored mapping asks for, read once into numbers and names.
//!
//! It looks nothing up: whether the function or the source is there shows when it is used.

use std::time::Duration;

use offshoot_model::FunctionName;
use serde_json::{Map, Value};

use super::batch::Rules;
use super::events;
use super::filter::Filter;
use super::remote::Service;
use crate::catalog::types::Mapping;
use crate::queue::Target;

/// Calls of one SQS mapping that run at once when it says nothing (`ScalingConfig.MaximumConcurrency`).
const QUEUE_CONCURRENCY: u32 = 10;

/// A source that this server polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Which protocol it speaks.
    pub service: Service,
    /// Its ARN.
    pub arn: String,
    /// The region in it.
    pub region: String,
    /// The account in it.
    pub account: String,
    /// The queue's or the stream's name; of a DynamoDB stream, all that follows the account.
    pub name: String,
}

impl Source {
    /// Reads an ARN. `None`: of a service that is not polled here.
    pub fn parse(arn: &str) -> Option<Source> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let [_, _, service, region, account, rest] = parts[..] else { return None };
        let (service, name) = match service {
            "sqs" => (Service::Sqs, rest),
            "kinesis" => (Service::Kinesis, rest.strip_prefix("stream/")?),
            "dynamodb" => (Service::DynamoDbStreams, rest),
            _ => return None,
        };
        let own = |text: &str| text.to_owned();
        Some(Source { service, arn: own(arn), region: own(region), account: own(account), name: own(name) })
    }
}

/// Where the first read of a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record.
    TrimHorizon,
    /// With what comes from now on.
    Latest,
    /// With what came at this moment, milliseconds since 1970, or later.
    At(u64),
}

/// A mapping, ready to be worked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its id.
    pub uuid: String,
    /// Whom it calls.
    pub function: FunctionName,
    /// Which version.
    pub qualifier: Option<String>,
    /// The function's ARN as it was given.
    pub function_arn: String,
    /// What is polled.
    pub source: Source,
    /// Records of one call, at most.
    pub batch: usize,
    /// How long records are gathered for one call.
    pub window: Duration,
    /// Which records are for the function.
    pub filter: Filter,
    /// The function's answers tell of single records.
    pub reports: bool,
    /// Calls at once, of a queue.
    pub concurrency: u32,
    /// Calls at once for one shard.
    pub lanes: usize,
    /// What follows failures, of a stream.
    pub rules: Rules,
    /// The greatest age of a stream's record; `None`: any.
    pub max_age: Option<Duration>,
    /// Where records of given-up batches go.
    pub on_failure: Option<Target>,
    /// Where a stream is read from first.
    pub start: Start,
}

impl Plan {
    /// Reads a mapping. `None`: its source is not one that is polled here.
    pub fn read(uuid: &str, mapping: &Mapping) -> Option<Plan> {
        let settings = &mapping.settings;
        let source = Source::parse(settings.get("EventSourceArn")?.as_str()?)?;
        let number = |key: &str| settings.get(key).and_then(Value::as_i64);
        let within = |key: &str, low: u64, high: u64| number(key).map_or(low, |n| (n.max(0) as u64).clamp(low, high));
        let limit = |key: &str| number(key).and_then(|n| u32::try_from(n).ok());
        let of = |outer: &str, inner: &str| settings.get(outer).and_then(|v| v.get(inner));
        let concurrency = of("ScalingConfig", "MaximumConcurrency").and_then(Value::as_u64);
        let destination = of("DestinationConfig", "OnFailure").and_then(|v| v.get("Destination")?.as_str());
        let reports = settings.get("FunctionResponseTypes").and_then(Value::as_array);
        Some(Plan {
            uuid: uuid.to_owned(),
            function: FunctionName::parse(&mapping.function).ok()?,
            qualifier: mapping.function_arn.splitn(8, ':').nth(7).map(str::to_owned),
            function_arn: mapping.function_arn.clone(),
            source,
            batch: within("BatchSize", 1, 10_000) as usize,
            window: Duration::from_secs(within("MaximumBatchingWindowInSeconds", 0, 300)),
            filter: Filter::parse(settings.get("FilterCriteria"))?,
            reports: reports.is_some_and(|all| all.iter().any(|t| t == "ReportBatchItemFailures")),
            concurrency: concurrency.map_or(QUEUE_CONCURRENCY, |n| n.clamp(1, 1000) as u32),
            lanes: within("ParallelizationFactor", 1, 10) as usize,
            rules: Rules {
                bisect: settings.get("BisectBatchOnFunctionError").and_then(Value::as_bool).unwrap_or(false),
                retries: limit("MaximumRetryAttempts"),
            },
            max_age: limit("MaximumRecordAgeInSeconds").map(|s| Duration::from_secs(u64::from(s))),
            on_failure: destination.and_then(|d| Target::parse(d).ok()),
            start: start(settings),
        })
    }
}

fn start(settings: &Map<String, Value>) -> Start {
    match settings.get("StartingPosition").and_then(Value::as_str) {
        Some("LATEST") => Start::Latest,
        Some("AT_TIMESTAMP") => Start::At(events::moment(settings.get("StartingPositionTimestamp"))),
        _ => Start::TrimHorizon,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mapping(settings: Value) -> Mapping {
        let Value::Object(settings) = settings else { panic!("an object") };
        let (function, arn) = ("f".to_owned(), "arn:aws:lambda:us-east-1:000000000000:function:f:live".to_owned());
        Mapping {
            function_arn: arn,
            function,
            enabled: true,
            modified_ms: 0,
            settings,
            tags: Default::default(),
            change: String::new(),
        }
    }

    #[test]
    fn a_plan_is_what_the_mapping_says() {
        let plan = Plan::read(
            "u",
            &mapping(json!({
                "EventSourceArn": "arn:aws:kinesis:eu-west-1:1:stream/s", "BatchSize": 7, "MaximumRetryAttempts": -1, "ParallelizationFactor": 3,
                "MaximumRecordAgeInSeconds": 60, "BisectBatchOnFunctionError": true, "StartingPosition": "AT_TIMESTAMP",
                "StartingPositionTimestamp": 1.5, "FunctionResponseTypes": ["ReportBatchItemFailures"],
                "DestinationConfig": {"OnFailure": {"Destination": "arn:aws:sqs:eu-west-1:1:dead"}},
            })),
        );
        let plan = plan.unwrap();
        assert_eq!((plan.source.service, plan.source.name.as_str()), (Service::Kinesis, "s"));
        assert_eq!((plan.batch, plan.lanes, plan.reports, plan.qualifier.as_deref()), (7, 3, true, Some("live")));
        assert_eq!((plan.rules, plan.start), (Rules { bisect: true, retries: None }, Start::At(1500)));
        assert_eq!(plan.max_age, Some(Duration::from_secs(60)));
        assert!(matches!(plan.on_failure, Some(Target::Sqs(..))));
    }

    #[test]
    fn what_is_not_polled_has_no_plan() {
        for arn in ["arn:aws:kafka:r:1:cluster/c", "arn:aws:kinesis:r:1:consumer/c", "x"] {
            assert!(Plan::read("u", &mapping(json!({"EventSourceArn": arn}))).is_none(), "{arn}");
        }
    }
}
