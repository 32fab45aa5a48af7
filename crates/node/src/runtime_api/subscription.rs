//! What an extension asks for when it subscribes to telemetry: which kinds of events, where to, and in which portions.
//!
//! Pure: it reads and refuses, and sends nothing.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// The kinds of events.
pub const KINDS: &[&str] = &["platform", "function", "extension"];
/// The versions of the form that AWS has published.
const SCHEMAS: &[&str] = &["2022-07-01", "2022-12-13", "2025-01-29"];
/// How AWS calls the environment itself, where an extension listens.
const HOSTS: &[&str] = &["sandbox.localdomain", "sandbox"];
/// The longest path of a destination, in bytes.
const MAX_PATH: usize = 1024;

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The kinds that are wanted.
    pub kinds: Vec<&'static str>,
    /// Where to.
    pub destination: Destination,
    /// Events in one portion, at most.
    pub max_items: usize,
    /// Bytes of events in one portion, at most.
    pub max_bytes: usize,
    /// How long an event waits for others, at most.
    pub timeout: Duration,
}

/// Where events go: a port of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A POST of a JSON array.
    Http {
        /// The port.
        port: u16,
        /// The host as it was written, with its port.
        host: String,
        /// The path, with its query.
        path: String,
    },
    /// A line of JSON for each.
    Tcp {
        /// The port.
        port: u16,
    },
}

impl Destination {
    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        match self {
            Destination::Http { port, .. } | Destination::Tcp { port } => *port,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    schema_version: String,
    types: Vec<String>,
    destination: FormDestination,
    #[serde(default)]
    buffering: Option<Buffering>,
}

#[derive(Deserialize)]
struct FormDestination {
    protocol: String,
    #[serde(default, rename = "URI")]
    uri: Option<String>,
    #[serde(default)]
    port: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Buffering {
    #[serde(default)]
    max_items: Option<u64>,
    #[serde(default)]
    max_bytes: Option<u64>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// Reads a subscription; the error is a sentence for its sender.
pub fn read(bytes: &[u8]) -> Result<Subscription, String> {
    let form: Value = serde_json::from_slice(bytes).map_err(|e| format!("failed to parse JSON: {e}"))?;
    let form: Form = serde_json::from_value(form).map_err(|e| format!("schema validation error: {e}"))?;
    if !SCHEMAS.contains(&form.schema_version.as_str()) {
        return Err(format!("schema validation error: schemaVersion must be one of {}", SCHEMAS.join(", ")));
    }
    let kinds: Vec<&'static str> =
        KINDS.iter().copied().filter(|kind| form.types.iter().any(|asked| asked == kind)).collect();
    if form.types.is_empty() || form.types.iter().any(|asked| !KINDS.contains(&asked.as_str())) {
        return Err(format!("schema validation error: types must be some of {}", KINDS.join(", ")));
    }
    let buffering = form.buffering.unwrap_or_default();
    let timeout = within("timeoutMs", buffering.timeout_ms, 1000, 25..=30_000)?;
    Ok(Subscription {
        kinds,
        destination: destination(&form.destination)?,
        max_items: within("maxItems", buffering.max_items, 10_000, 1000..=10_000)? as usize,
        max_bytes: within("maxBytes", buffering.max_bytes, 262_144, 262_144..=1_048_576)? as usize,
        timeout: Duration::from_millis(timeout),
    })
}

fn within(name: &str, given: Option<u64>, usual: u64, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let value = given.unwrap_or(usual);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("schema validation error: {name} must be from {} to {}", range.start(), range.end()))
}

fn destination(form: &FormDestination) -> Result<Destination, String> {
    match (form.protocol.as_str(), &form.uri, form.port) {
        ("TCP", _, Some(port)) => match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(Destination::Tcp { port }),
            _ => Err("Invalid destination: port must be from 1 to 65535".to_owned()),
        },
        ("HTTP", Some(uri), _) => {
            let invalid = || "Invalid destination: could not parse destination.URI".to_owned();
            let uri: http::Uri = uri.parse().map_err(|_| invalid())?;
            let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(invalid)?;
            if !HOSTS.contains(&host) {
                return Err(format!("Invalid destination: destination.URI host must be {}", HOSTS[0]));
            }
            let port = uri.port_u16().unwrap_or(80);
            let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            if path.len() > MAX_PATH || port == 0 {
                return Err(invalid());
            }
            Ok(Destination::Http { port, host: format!("{host}:{port}"), path: path.to_owned() })
        }
        _ => Err("schema validation error: destination needs HTTP with a URI, or TCP with a port".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn form(change: impl FnOnce(&mut Value)) -> Result<Subscription, String> {
        let mut form = json!({
            "schemaVersion": "2022-12-13", "types": ["function", "platform"],
            "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:4243/in?x=1"},
            "buffering": {"maxItems": 1000, "maxBytes": 262_144, "timeoutMs": 25},
        });
        change(&mut form);
        read(form.to_string().as_bytes())
    }

    #[test]
    fn a_subscription_is_read() {
        let read = form(|_| {}).unwrap();
        assert_eq!(
            (&read.kinds[..], read.max_items, read.timeout),
            (&["platform", "function"][..], 1000, Duration::from_millis(25))
        );
        let host = "sandbox.localdomain:4243".to_owned();
        assert_eq!(read.destination, Destination::Http { port: 4243, host, path: "/in?x=1".into() });
        let tcp = form(|f| f["destination"] = json!({"protocol": "TCP", "port": 9})).unwrap();
        assert_eq!(tcp.destination, Destination::Tcp { port: 9 });
        assert_eq!(form(|f| f["buffering"] = Value::Null).unwrap().timeout, Duration::from_secs(1));
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_its_name() {
        type Change = (fn(&mut Value), &'static str);
        let changes: &[Change] = &[
            (|f| f["schemaVersion"] = json!("1999"), "schemaVersion"),
            (|f| f["types"] = json!([]), "types"),
            (|f| f["types"] = json!(["nonsense"]), "types"),
            (|f| f["buffering"]["maxItems"] = json!(1), "maxItems"),
            (|f| f["buffering"]["maxBytes"] = json!(1 << 30), "maxBytes"),
            (|f| f["buffering"]["timeoutMs"] = json!(0), "timeoutMs"),
            (|f| f["destination"]["URI"] = json!("http://169.254.169.254/"), "sandbox.localdomain"),
            (|f| f["destination"]["URI"] = json!("https://sandbox.localdomain:1/"), "URI"),
            (|f| f["destination"]["URI"] = json!("not a uri"), "URI"),
            (|f| f["destination"] = json!({"protocol": "TCP", "port": 70_000}), "port"),
            (|f| f["destination"] = json!({"protocol": "UDP"}), "destination"),
        ];
        for (change, part) in changes {
            let why = form(change).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        assert!(read(b"{").is_err() && read(b"[]").is_err());
    }
}
