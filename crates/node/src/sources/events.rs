//! The events that functions get from queues and streams, in AWS's shapes, and what their answers say of single records.
//!
//! The shapes are those of <https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>, `with-kinesis.html` and `with-ddb.html`. It only
//! turns values into values.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// A record as it goes into an event.
#[derive(Debug, Clone)]
pub struct Record {
    /// The message's id, or the sequence number: what answers name it by.
    pub id: String,
    /// Its JSON.
    pub text: String,
    /// When it came to the stream, milliseconds since 1970; 0 = not told.
    pub arrived_ms: u64,
    /// What keeps it in order with others: a partition key.
    pub key: String,
}

/// An event of these records.
pub fn event<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    let mut out = String::from("{\"Records\":[");
    for (at, record) in records.enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&record.text);
    }
    out.push_str("]}");
    out
}

/// How many of these records fit into an event of this many bytes, at least one.
pub fn fitting<'a>(records: impl Iterator<Item = &'a Record>, most: usize) -> usize {
    let mut left = most.saturating_sub(16);
    let fit = records.take_while(|record| {
        let size = record.text.len() + 1;
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    });
    fit.count().max(1)
}

fn text_of(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A message that was received, as `Records` has it. Where a mapping waits for batches to fill (`windowed`), a message without
/// attributes has a digest of them that is null; where it does not, it has none (recorded from AWS, without exception).
pub fn sqs(message: &Value, arn: &str, region: &str, windowed: bool) -> Value {
    let attribute = |given: &Value| {
        let mut out = Map::new();
        for (from, to) in [("StringValue", "stringValue"), ("BinaryValue", "binaryValue")] {
            if let Some(value) = given.get(from) {
                out.insert(to.to_owned(), value.clone());
            }
        }
        out.insert("stringListValues".into(), json!([]));
        out.insert("binaryListValues".into(), json!([]));
        out.insert("dataType".into(), given.get("DataType").cloned().unwrap_or(Value::Null));
        Value::Object(out)
    };
    let given = message.get("MessageAttributes").and_then(Value::as_object);
    let attributes: Map<String, Value> = given.into_iter().flatten().map(|(k, v)| (k.clone(), attribute(v))).collect();
    let digest = message.get("MD5OfMessageAttributes").filter(|d| d.is_string());
    let mut record = json!({
        "messageId": text_of(message, "MessageId"),
        "receiptHandle": text_of(message, "ReceiptHandle"),
        "body": text_of(message, "Body"),
        "attributes": message.get("Attributes").cloned().unwrap_or_else(|| json!({})),
        "messageAttributes": attributes,
        "md5OfBody": text_of(message, "MD5OfBody"),
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": region,
    });
    if windowed || digest.is_some() {
        record["md5OfMessageAttributes"] = json!(digest);
    }
    record
}

/// A message as filter patterns see it: its body is read when it is JSON.
pub fn sqs_seen(record: &Value) -> Value {
    let mut seen = record.clone();
    let body = record.get("body").and_then(Value::as_str).unwrap_or_default();
    if let Ok(read) = serde_json::from_str::<Value>(body)
        && (read.is_object() || read.is_array())
    {
        seen["body"] = read;
    }
    seen
}

/// A record of a Kinesis stream.
pub fn kinesis(record: &Value, shard: &str, arn: &str, region: &str, role: &str) -> Value {
    let sequence = text_of(record, "SequenceNumber");
    let mut inner = json!({
        "kinesisSchemaVersion": "1.0",
        "partitionKey": text_of(record, "PartitionKey"),
        "sequenceNumber": sequence,
        "data": text_of(record, "Data"),
        "approximateArrivalTimestamp": record.get("ApproximateArrivalTimestamp").cloned().unwrap_or(Value::Null),
    });
    if let Some(kind) = record.get("EncryptionType").and_then(Value::as_str).filter(|k| *k != "NONE") {
        inner["encryptionType"] = json!(kind);
    }
    json!({
        "kinesis": inner,
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": format!("{shard}:{sequence}"),
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": role,
        "awsRegion": region,
        "eventSourceARN": arn,
    })
}

/// A Kinesis record as filter patterns see it: its own members, with its data decoded, and read when it is JSON.
pub fn kinesis_seen(record: &Value) -> Value {
    let mut seen = record.get("kinesis").cloned().unwrap_or_else(|| json!({}));
    let data = base64_decode(seen.get("data").and_then(Value::as_str).unwrap_or_default()).unwrap_or_default();
    seen["data"] = match serde_json::from_slice::<Value>(&data) {
        Ok(read) if read.is_object() || read.is_array() => read,
        _ => json!(String::from_utf8_lossy(&data)),
    };
    seen
}

/// A record of a DynamoDB stream: as it came, with its source.
pub fn dynamodb(record: &Value, arn: &str, region: &str) -> Value {
    let mut out = record.clone();
    out["eventSourceARN"] = json!(arn);
    out["eventSource"] = json!("aws:dynamodb");
    out["awsRegion"] = json!(region);
    // Functions in languages that tell whole numbers from others get what AWS gives them, also when a server leaves the fraction out.
    if let Some(seconds) = out.pointer_mut("/dynamodb/ApproximateCreationDateTime")
        && let Some(number) = seconds.as_f64()
    {
        *seconds = json!(number);
    }
    out
}

/// A moment as AWS's JSON has it, seconds since 1970, in milliseconds. Some servers write it as a text of that number.
pub fn moment(value: Option<&Value>) -> u64 {
    let seconds = value.and_then(|v| v.as_f64().or_else(|| v.as_str()?.parse().ok())).unwrap_or(0.0);
    (seconds.max(0.0) * 1000.0) as u64
}

/// What an answer says of the records of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// All are processed.
    Nothing,
    /// These are not, by their places in the batch.
    These(Vec<usize>),
    /// None is, since the answer is not one.
    Nonsense,
}

/// Reads `batchItemFailures` (`ReportBatchItemFailures`): an answer without it is a success, one that names something else than
/// records of the batch fails as a whole.
pub fn told(answer: &[u8], ids: &[&str]) -> Told {
    if answer.is_empty() {
        return Told::Nothing;
    }
    let answer: Value = match serde_json::from_slice(answer) {
        Ok(answer) => answer,
        Err(_) => return Told::Nonsense,
    };
    let failures = match &answer {
        Value::Null => return Told::Nothing,
        Value::Array(all) if all.is_empty() => return Told::Nothing,
        Value::Object(map) => match map.get("batchItemFailures") {
            None | Some(Value::Null) => return Told::Nothing,
            Some(Value::Array(failures)) => failures,
            Some(_) => return Told::Nonsense,
        },
        _ => return Told::Nonsense,
    };
    let places: HashMap<&str, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let place = |failure: &Value| places.get(failure.get("itemIdentifier")?.as_str()?).copied();
    match failures.iter().map(place).collect::<Option<Vec<_>>>() {
        None => Told::Nonsense,
        Some(found) if found.is_empty() => Told::Nothing,
        Some(mut found) => {
            found.sort_unstable();
            found.dedup();
            Told::These(found)
        }
    }
}

/// Base64 with or without padding.
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let value = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut bits = 0u32;
        for b in group {
            bits = bits << 6 | u32::from(value(*b)?);
        }
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        out.extend_from_slice(&bytes[1..group.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_awss_record() {
        let message = json!({
            "MessageId": "m", "ReceiptHandle": "r", "Body": "{\"a\": 1.50}", "MD5OfBody": "5", "MD5OfMessageAttributes": "7",
            "Attributes": {"SentTimestamp": "1", "MessageGroupId": "g"},
            "MessageAttributes": {"k": {"DataType": "Number", "StringValue": "3"}},
        });
        let record = sqs(&message, "arn:aws:sqs:eu-west-1:1:q", "eu-west-1", false);
        let plain = json!({"MessageId": "m", "Body": "x"});
        assert_eq!(sqs(&plain, "a", "r", true).get("md5OfMessageAttributes"), Some(&Value::Null));
        assert_eq!(sqs(&plain, "a", "r", false).get("md5OfMessageAttributes"), None);
        assert_eq!(
            record,
            json!({
                "messageId": "m", "receiptHandle": "r", "body": "{\"a\": 1.50}", "md5OfBody": "5", "md5OfMessageAttributes": "7",
                "attributes": {"SentTimestamp": "1", "MessageGroupId": "g"},
                "messageAttributes": {"k": {"dataType": "Number", "stringValue": "3", "stringListValues": [], "binaryListValues": []}},
                "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:eu-west-1:1:q", "awsRegion": "eu-west-1",
            })
        );
        assert_eq!(sqs_seen(&record)["body"]["a"], 1.5);
    }

    #[test]
    fn records_of_streams_have_awss_shape() {
        let given = json!({"SequenceNumber": "49", "PartitionKey": "p", "Data": "eyJhIjoxfQ==", "ApproximateArrivalTimestamp": 1.25});
        let record = kinesis(&given, "shardId-0", "arn", "us-east-1", "role");
        assert_eq!((&record["eventID"], &record["kinesis"]["data"]), (&json!("shardId-0:49"), &json!("eyJhIjoxfQ==")));
        assert!(record["kinesis"].get("encryptionType").is_none());
        assert_eq!(kinesis_seen(&record)["data"], json!({"a": 1}));
        assert_eq!(moment(Some(&json!(1.25))), 1250);
        let given =
            json!({"eventName": "INSERT", "dynamodb": {"Keys": {}, "ApproximateCreationDateTime": 1_700_000_000}});
        let record = dynamodb(&given, "arn", "us-east-1");
        assert_eq!(record["dynamodb"]["ApproximateCreationDateTime"].to_string(), "1700000000.0");
        assert_eq!((&record["eventName"], &record["eventSourceARN"]), (&json!("INSERT"), &json!("arn")));
    }

    #[test]
    fn answers_about_single_records() {
        let ids = ["a", "b", "c"];
        for good in ["", "null", "{}", "[]", r#"{"batchItemFailures":[]}"#, r#"{"batchItemFailures":null}"#] {
            assert_eq!(told(good.as_bytes(), &ids), Told::Nothing, "{good}");
        }
        for bad in [
            "x",
            "\"done\"",
            "1",
            r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#,
            r#"{"batchItemFailures":[{"item":"a"}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"z"}]}"#,
            r#"{"batchItemFailures":{}}"#,
        ] {
            assert_eq!(told(bad.as_bytes(), &ids), Told::Nonsense, "{bad}");
        }
        let some = r#"{"batchItemFailures":[{"itemIdentifier":"c"},{"itemIdentifier":"b"},{"itemIdentifier":"c"}]}"#;
        assert_eq!(told(some.as_bytes(), &ids), Told::These(vec![1, 2]));
    }

    #[test]
    fn events_are_cut_to_size() {
        let record = |n: usize| Record { id: n.to_string(), text: "x".repeat(100), arrived_ms: 0, key: String::new() };
        let all: Vec<Record> = (0..10).map(record).collect();
        assert_eq!(fitting(all.iter(), 320), 3);
        assert_eq!(fitting(all.iter(), 5), 1);
        assert_eq!(fitting(all.iter(), 1 << 20), 10);
        assert!(event(all[..3].iter()).len() <= 320);
    }

    #[test]
    fn base64_is_read() {
        for (text, bytes) in [("", &b""[..]), ("YQ==", b"a"), ("YWI=", b"ab"), ("YWJj", b"abc"), ("YWJjZA", b"abcd")] {
            assert_eq!(base64_decode(text).as_deref(), Some(bytes));
        }
        assert!(base64_decode("é").is_none());
    }
}
