//! What destinations are told: AWS's invocation record and its dead letter, with the payloads passed through byte for byte.
//!
//! It only writes JSON; where it goes is not its business.

use bytes::Bytes;
use offshoot_model::time::rfc3339;
use offshoot_model::{Answer, Error, ErrorKind, Outcome};
use serde::Serialize;
use serde_json::value::RawValue;

use super::item::{Condition, Why};

/// Bytes of a record besides the event. A larger response is left out, and `responseContext.payloadBytes` says how large it was.
pub const RECORD_ROOM: usize = 256 << 10;
/// Bytes of an error's text in a dead letter (AWS: 1 KB) and in the store.
pub const ERROR_TEXT: usize = 1024;
/// Bytes of an error's type in the store.
const ERROR_TYPE: usize = 128;

/// What an attempt brought, as far as records tell it.
#[derive(Debug, Clone, Default)]
pub struct Brought {
    /// What the function returned, or its error's JSON, or the platform's error as such.
    pub response: Option<Bytes>,
    /// The function failed.
    pub failed: bool,
    /// The function answered at all.
    pub answered: bool,
    /// One sentence, for people.
    pub error: Option<Why>,
    /// 200 when the function answered, 429 for a throttle, else 500.
    pub status: u16,
    /// The published version that ran; `None` is `$LATEST`, or that none did.
    pub version: Option<u64>,
}

/// Reads the outcome of an attempt.
pub fn brought(result: &Result<Outcome<Bytes>, Error>) -> Brought {
    match result {
        Ok(outcome) => match &outcome.result {
            Answer::Reply { body, .. } => Brought {
                response: Some(body.clone()),
                failed: false,
                answered: true,
                error: None,
                status: 200,
                version: outcome.version,
            },
            Answer::Failed(error) => Brought {
                response: Some(Bytes::from(error.body.clone())),
                failed: true,
                answered: true,
                error: Some(why_of(&error.body).unwrap_or_else(|| Why::from(error.cause.error_type().to_owned()))),
                status: 200,
                version: outcome.version,
            },
        },
        Err(error) => {
            let body = serde_json::json!({"errorType": error.kind.code(), "errorMessage": error.message});
            let status = if error.kind == ErrorKind::Throttled { 429 } else { 500 };
            Brought {
                response: Some(Bytes::from(body.to_string())),
                failed: true,
                answered: false,
                error: Some(Why::from(shorten(&error.message, ERROR_TEXT))),
                status,
                version: None,
            }
        }
    }
}

fn why_of(body: &str) -> Option<Why> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Said {
        error_message: Option<String>,
        error_type: Option<String>,
    }
    let said: Said = serde_json::from_str(body).ok()?;
    Some(match said.error_message.filter(|m| !m.is_empty()) {
        Some(message) => Why {
            kind: said.error_type.filter(|t| !t.is_empty()).map(|t| shorten(&t, ERROR_TYPE)),
            message: shorten(&message, ERROR_TEXT),
        },
        None => Why::from(shorten(&said.error_type?, ERROR_TEXT)),
    })
}

/// At most so many bytes of a text, cut between characters.
pub fn shorten(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// What a record tells.
pub struct Account<'a> {
    /// The invocation's id.
    pub id: &'a str,
    /// The function's ARN with version or alias.
    pub arn: &'a str,
    /// How it ended.
    pub condition: Condition,
    /// Attempts.
    pub attempts: u32,
    /// The event.
    pub event: &'a [u8],
    /// The last attempt; `None`: there was none.
    pub last: Option<&'a Brought>,
    /// Now, milliseconds since 1970.
    pub now: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    version: &'static str,
    timestamp: String,
    request_context: RequestContext<'a>,
    request_payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    request_id: &'a str,
    function_arn: &'a str,
    condition: &'static str,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext {
    status_code: u16,
    executed_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<usize>,
}

/// The record of how an invocation ended, as AWS writes it.
pub fn record(account: &Account) -> Vec<u8> {
    let last = account.last;
    let response = last.and_then(|l| l.response.as_ref());
    let fits = |bytes: &&Bytes| bytes.len() + 4096 <= RECORD_ROOM;
    let shown = response.filter(fits);
    let context = last.filter(|l| l.answered || l.status == 429).map(|l| ResponseContext {
        status_code: l.status,
        executed_version: l.version.map_or_else(|| "$LATEST".to_owned(), |n| n.to_string()),
        function_error: (l.failed && l.answered).then_some("Unhandled"),
        payload_bytes: response.filter(|_| shown.is_none()).map(Bytes::len),
    });
    let record = Record {
        version: "1.0",
        timestamp: rfc3339(account.now),
        request_context: RequestContext {
            request_id: account.id,
            function_arn: account.arn,
            condition: account.condition.name(),
            approximate_invoke_count: account.attempts,
        },
        request_payload: as_json(account.event),
        response_context: context,
        response_payload: shown.map(|bytes| as_json(bytes)),
    };
    serde_json::to_vec(&record).unwrap_or_default()
}

/// Bytes as JSON: themselves when they are JSON, else as a text; what is not UTF-8 is shown with replacement characters.
fn as_json(bytes: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(bytes);
    // Compact JSON goes through untouched. A nesting that a reader would refuse is not JSON to anybody.
    if let Ok(raw) = serde_json::from_str::<Box<RawValue>>(&text) {
        return raw;
    }
    serde_json::value::to_raw_value(text.as_ref()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The attributes of a dead letter: name, kind, value.
pub fn letter_attributes(id: &str, status: u16, error: &str) -> Vec<(&'static str, &'static str, String)> {
    vec![
        ("RequestID", "String", id.to_owned()),
        ("ErrorCode", "Number", status.to_string()),
        ("ErrorMessage", "String", shorten(error, ERROR_TEXT)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(last: Option<&Brought>, condition: Condition, event: &[u8]) -> Vec<u8> {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST";
        record(&Account { id: "ID", arn, condition, attempts: 3, event, last, now: 0 })
    }

    #[test]
    fn the_record_is_awss() {
        let error = Brought {
            response: Some(Bytes::from_static(br#"{"errorMessage":"no","errorType":"E"}"#)),
            failed: true,
            answered: true,
            error: Some(Why::from("no".to_owned())),
            status: 200,
            version: None,
        };
        let made = told(Some(&error), Condition::RetriesExhausted, br#"{ "b":1.10,"a":[1e3]}"#);
        // Numbers and the order of members are the caller's own.
        assert_eq!(
            String::from_utf8(made).unwrap(),
            concat!(
                r#"{"version":"1.0","timestamp":"1970-01-01T00:00:00.000Z","requestContext":{"requestId":"ID","#,
                r#""functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST","condition":"RetriesExhausted","#,
                r#""approximateInvokeCount":3},"requestPayload":{ "b":1.10,"a":[1e3]},"responseContext":{"statusCode":200,"#,
                r#""executedVersion":"$LATEST","functionError":"Unhandled"},"responsePayload":{"errorMessage":"no","errorType":"E"}}"#
            )
        );
        let ok = Brought { failed: false, error: None, ..error };
        let made: Value = serde_json::from_slice(&told(Some(&ok), Condition::Success, b"1")).unwrap();
        assert_eq!(made["responseContext"], json!({"statusCode": 200, "executedVersion": "$LATEST"}));
        let made: Value = serde_json::from_slice(&told(None, Condition::EventAgeExceeded, b"1")).unwrap();
        assert!(made.get("responseContext").is_none() && made.get("responsePayload").is_none());
    }

    #[test]
    fn odd_payloads_stay_json() {
        for (event, seen) in [
            (&b"plain text"[..], json!("plain text")),
            (b"", json!("")),
            (b"{} {}", json!("{} {}")),
            (b"\xff", json!("\u{fffd}")),
        ] {
            let made: Value = serde_json::from_slice(&told(None, Condition::Refused, event)).unwrap();
            assert_eq!(made["requestPayload"], seen);
        }
        let big = Brought {
            response: Some(Bytes::from(vec![b'1'; 300 << 10])),
            answered: true,
            status: 200,
            ..Brought::default()
        };
        let made: Value = serde_json::from_slice(&told(Some(&big), Condition::Success, b"1")).unwrap();
        assert_eq!(made["responseContext"]["payloadBytes"], 300 << 10);
        assert!(made.get("responsePayload").is_none());
    }

    #[test]
    fn letters_are_short() {
        let letter = letter_attributes("ID", 200, &"é".repeat(2000));
        assert_eq!(letter[0], ("RequestID", "String", "ID".to_owned()));
        assert!(letter[2].2.len() <= 1024 && letter[2].2.starts_with("éé"));
    }
}
