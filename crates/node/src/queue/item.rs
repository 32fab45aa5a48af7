//! What the queue holds: one asynchronous invocation, what is to become of it, and where its outcome goes.
//!
//! Plain values; nothing here waits, reads a clock or touches the disk.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind, FunctionName, HttpPart, RequestId};
use serde::{Deserialize, Serialize};

/// The most retries after errors of the function (AWS: `MaximumRetryAttempts`, 0 to 2).
pub const MAX_RETRIES: u32 = 2;
/// The longest age of an event, and the default (AWS: `MaximumEventAgeInSeconds`, up to 6 hours).
pub const MAX_AGE: Duration = Duration::from_secs(6 * 3600);
/// The longest text of a target.
const MAX_TARGET: usize = 2048;

/// An invocation that is to be made later, and until it has been made.
#[derive(Debug, Clone)]
pub struct QueuedCall {
    /// Unguessable and unique; every attempt carries it.
    pub id: RequestId,
    /// Which function.
    pub function: FunctionName,
    /// What the caller said besides.
    pub context: Context,
    /// The HTTP part, for functions called by the `request` convention.
    pub http: Option<HttpPart>,
    /// The event or the request body, as it came.
    pub payload: Bytes,
    /// What the caller wants of this one call; `None`: what is set for the function.
    pub settings: Option<EventInvokeConfig>,
}

/// What a caller may say about a call besides its payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Version or alias.
    pub qualifier: Option<String>,
    /// AWS's client context, as JSON text.
    pub client_context: Option<String>,
    /// The trace header.
    pub trace: Option<String>,
}

/// How asynchronous invocations of a function are tried, and where their outcomes go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventInvokeConfig {
    /// Retries after errors of the function, 0 to 2; `None` = 2.
    pub max_retries: Option<u32>,
    /// How old an event may be when it is tried, in seconds; `None` = 6 hours.
    pub max_age_s: Option<u64>,
    /// Where the record of a success goes.
    pub on_success: Option<Target>,
    /// Where the record of a failure goes.
    pub on_failure: Option<Target>,
    /// Where the event itself goes when it failed (AWS: dead-letter queue).
    pub dead_letter: Option<Target>,
}

impl EventInvokeConfig {
    /// Retries after errors of the function.
    pub fn retries(&self) -> u32 {
        self.max_retries.unwrap_or(MAX_RETRIES).min(MAX_RETRIES)
    }
    /// How old an event may be when it is tried, in milliseconds.
    pub fn age_ms(&self) -> u64 {
        self.max_age_s.map_or(MAX_AGE, Duration::from_secs).min(MAX_AGE).as_millis() as u64
    }
    /// All targets that it names.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        [&self.on_success, &self.on_failure, &self.dead_letter].into_iter().flatten()
    }
}

/// Where an outcome goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// Another function here, asynchronously.
    Function(FunctionName, Option<String>),
    /// A queue that speaks SQS's protocol, by its ARN: region, account, name.
    Sqs(String, String, String),
    /// An HTTP endpoint, by its URL.
    Http(String),
    /// A resource of a service that this server does not deliver to, by its ARN. What is meant for it is kept as dead.
    Elsewhere(String),
}

impl Target {
    /// Reads a target: a function's name, `NAME:QUALIFIER` or ARN, the ARN of an SQS queue, or an `http://` URL.
    pub fn parse(text: &str) -> Result<Target, Error> {
        let wrong = || {
            let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
            let message = format!(
                "'{shown}' is not a target: write a function's name or ARN, an SQS queue's ARN or an http:// URL"
            );
            Error::new(ErrorKind::InvalidInput, message)
        };
        if text.len() > MAX_TARGET || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong());
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Target::Http(text.to_owned()));
        }
        let Some(rest) = text.strip_prefix("arn:") else { return function(text).map_err(|_| wrong()) };
        let parts: Vec<&str> = rest.splitn(5, ':').collect();
        let [_, service, region, account, resource] = parts[..] else { return Err(wrong()) };
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        match service {
            "lambda" => resource.strip_prefix("function:").and_then(|r| function(r).ok()).ok_or_else(wrong),
            "sqs" if plain(region) && plain(account) && plain(resource) => {
                Ok(Target::Sqs(region.to_owned(), account.to_owned(), resource.to_owned()))
            }
            "sns" | "events" | "s3" => Ok(Target::Elsewhere(text.to_owned())),
            _ => Err(wrong()),
        }
    }
}

fn function(text: &str) -> Result<Target, Error> {
    let (name, qualifier) = text.split_once(':').map_or((text, None), |(name, q)| (name, Some(q)));
    let fits =
        |q: &str| (1..=128).contains(&q.len()) && q.bytes().all(|b| b.is_ascii_alphanumeric() || b"$-_".contains(&b));
    if qualifier.is_some_and(|q| !fits(q)) {
        return Err(Error::new(ErrorKind::InvalidInput, "a qualifier is a version or the name of an alias"));
    }
    Ok(Target::Function(FunctionName::parse(name)?, qualifier.map(str::to_owned)))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Function(name, None) => write!(f, "{name}"),
            Target::Function(name, Some(qualifier)) => write!(f, "{name}:{qualifier}"),
            Target::Sqs(region, account, name) => write!(f, "arn:aws:sqs:{region}:{account}:{name}"),
            Target::Http(text) | Target::Elsewhere(text) => f.write_str(text),
        }
    }
}
impl TryFrom<String> for Target {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Target::parse(&text)
    }
}
impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

/// What an item is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waiting for its first or next attempt.
    Waiting,
    /// An attempt is under way.
    Running,
    /// Its outcome is on the way to a destination.
    Delivering,
    /// It failed for good and is kept.
    Dead,
}

impl State {
    /// Every state.
    pub const ALL: [State; 4] = [State::Waiting, State::Running, State::Delivering, State::Dead];
    /// Its name in answers, filters and metrics.
    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Running => "running",
            State::Delivering => "delivering",
            State::Dead => "dead",
        }
    }
    /// The state of this name.
    pub fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == text)
    }
}

/// How an item ended, in AWS's words where AWS has one (`requestContext.condition`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Condition {
    /// The function returned.
    Success,
    /// The function failed as often as it may.
    RetriesExhausted,
    /// It grew too old before an attempt succeeded.
    EventAgeExceeded,
    /// Nothing of the function may run: it has a reserved concurrency of 0.
    ZeroReservedConcurrency,
    /// It can never run: the function is gone, say. Offshoot's own word.
    Refused,
    /// One function called the next too many times in a chain of destinations. Offshoot's own word.
    ChainTooLong,
    /// What was stored is not what was accepted. Offshoot's own word.
    Damaged,
}

impl Condition {
    /// Its spelling in records.
    pub fn name(self) -> &'static str {
        match self {
            Condition::Success => "Success",
            Condition::RetriesExhausted => "RetriesExhausted",
            Condition::EventAgeExceeded => "EventAgeExceeded",
            Condition::ZeroReservedConcurrency => "ZeroReservedConcurrency",
            Condition::Refused => "Refused",
            Condition::ChainTooLong => "ChainTooLong",
            Condition::Damaged => "Damaged",
        }
    }
    /// The condition of this spelling.
    pub fn parse(text: &str) -> Option<Condition> {
        serde_json::from_value(serde_json::Value::from(text)).ok()
    }
}

/// One delivery that is still to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Where to.
    pub target: Target,
    /// What.
    pub what: Parcel,
}

/// What is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parcel {
    /// The record of how the invocation ended.
    Record,
    /// The event itself, as a dead letter.
    Event,
}

/// One item as people see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The invocation's id.
    pub request_id: String,
    /// Which function.
    pub function: String,
    /// Version or alias.
    pub qualifier: Option<String>,
    /// What it is doing.
    pub state: State,
    /// When it was accepted, milliseconds since 1970.
    pub accepted_ms: u64,
    /// When it is tried or delivered next, milliseconds since 1970; of a dead one, when it died.
    pub due_ms: u64,
    /// Attempts that the function has answered or failed.
    pub attempts: u32,
    /// Refusals and failures of the platform in a row.
    pub setbacks: u32,
    /// Times that a server ended while it ran.
    pub interruptions: u32,
    /// Bytes that it takes: the event, what the caller said besides, and the record of how it ended.
    pub bytes: u64,
    /// How it ended, when it did.
    pub condition: Option<Condition>,
    /// What the last attempt or delivery said: the error's type, where there is one, and its message.
    pub error: Option<String>,
    /// Deliveries that are still to be made.
    pub deliveries: Vec<Delivery>,
    /// The caller's trace header.
    pub trace: Option<String>,
    /// Its place in the order of acceptance: what a list goes on from.
    #[serde(skip)]
    pub seq: i64,
}

/// Why the last attempt or delivery failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    /// The error's type, where the function named one.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What it says; AWS puts this alone into dead letters.
    pub message: String,
}

impl Why {
    /// As it is stored.
    pub(super) fn to_stored(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| self.message.clone())
    }
    /// As it was stored; a text of which only the message is known is that message.
    pub(super) fn from_stored(text: String) -> Self {
        serde_json::from_str(&text).unwrap_or_else(|_| Why::from(text))
    }
}

impl From<String> for Why {
    fn from(message: String) -> Self {
        Why { kind: None, message }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Some(kind) => write!(f, "{kind}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_stored_with_their_type_and_older_ones_without() {
        let why = Why { kind: Some("KeyError".to_owned()), message: "'x'".to_owned() };
        assert_eq!(why.to_string(), "KeyError: 'x'");
        for why in [why, Why::from("refused".to_owned()), Why::from(r#"{"a":1}"#.to_owned())] {
            assert_eq!(Why::from_stored(why.to_stored()), why);
        }
        for plain in ["no money", "", r#"{"message":1}"#, r#"{"message":"a","more":2}"#] {
            assert_eq!(Why::from_stored(plain.to_owned()).to_string(), plain);
        }
    }

    #[test]
    fn targets_are_read_and_written_alike() {
        for text in [
            "mail",
            "mail:live",
            "mail:$LATEST",
            "arn:aws:sqs:eu-west-1:123456789012:dead.fifo",
            "http://127.0.0.1:8/x?y=z",
            "arn:aws:sns:us-east-1:000000000000:topic",
        ] {
            assert_eq!(Target::parse(text).unwrap().to_string(), text);
        }
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:mail:2";
        assert_eq!(Target::parse(arn).unwrap().to_string(), "mail:2");
        let long = "x".repeat(3000);
        for bad in [
            "",
            "a b",
            "a:",
            "a:b:c",
            "arn:aws:dynamodb:r:1:table/t",
            "arn:aws:sqs:r:1:",
            "arn:aws:sqs:r:1:a/b",
            "arn:",
            "ftp://x",
            "arn:aws:lambda:r:1:layer:x",
            &long,
            "http://a b",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_have_aws_defaults_and_bounds() {
        let none = EventInvokeConfig::default();
        assert_eq!((none.retries(), none.age_ms()), (2, 21_600_000));
        let much = EventInvokeConfig { max_retries: Some(99), max_age_s: Some(u64::MAX), ..none };
        assert_eq!((much.retries(), much.age_ms()), (2, 21_600_000));
    }

    #[test]
    fn conditions_are_spelled_as_they_are_read() {
        for c in
            [Condition::Success, Condition::RetriesExhausted, Condition::ZeroReservedConcurrency, Condition::Refused]
        {
            assert_eq!(Condition::parse(c.name()), Some(c));
        }
    }
}
