//! What a deployment or a change may set, read from form fields and from JSON by one table.
//!
//! In a form everything is text, as people type it: `timeout=1.5`, `timeout=500ms`, `snapshot=on`. In JSON a number means
//! what `/info` shows, so times are milliseconds; a string with a unit (`"30s"`) says it itself. `cpu` and `keepAlive` are
//! taken back by `null`, in a form by `default`. Names that are not in the table are refused with the nearest one that is.

use http::StatusCode;
use offshoot_model::ErrorKind;
use offshoot_node::Settings;
use serde_json::{Map, Number, Value};

use crate::error::Refusal;
use crate::text;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Decimal,
    Time,
    Switch,
    Object,
}

const FIELDS: &[(&str, Kind)] = &[
    ("runtime", Kind::Text),
    ("handler", Kind::Text),
    ("convention", Kind::Text),
    ("memory", Kind::Whole),
    ("timeout", Kind::Time),
    ("env", Kind::Object),
    ("network", Kind::Text),
    ("cpu", Kind::Decimal),
    ("tmp", Kind::Whole),
    ("snapshot", Kind::Switch),
    ("maxConcurrency", Kind::Whole),
    ("concurrency", Kind::Whole),
    ("rateLimit", Kind::Whole),
    ("keepAlive", Kind::Time),
];

/// The settings that are one of a few words.
const WORDS: &[(&str, &str)] = &[("convention", "event or request"), ("network", "none or host")];

/// What can be taken back, so that the server's own value holds again; and the word for it.
const UNSET: &[&str] = &["cpu", "keepAlive"];
const DEFAULT: &str = "default";

/// The settings among the fields of a form; `extra` are the names that the form may hold besides.
pub(crate) fn from_form(fields: &[(String, String)], extra: &[&str]) -> Result<Settings, Refusal> {
    let mut map = Map::new();
    for (name, value) in fields {
        if extra.contains(&name.as_str()) {
            continue;
        }
        let kind = kind_of(name, extra)?;
        map.insert(name.clone(), from_text(name, kind, value)?);
    }
    finish(map)
}

/// The settings in a JSON document.
pub(crate) fn from_json(document: &[u8]) -> Result<Settings, Refusal> {
    let mut map = text::strict_object(document).map_err(|e| Refusal::bad(format!("the body is not right: {e}")))?;
    for (name, value) in &mut map {
        if let (Kind::Time, Value::String(given)) = (kind_of(name, &[])?, &*value) {
            if given.bytes().last().is_some_and(|b| b.is_ascii_digit()) {
                return Err(wrong(name, given, "a number of milliseconds, or a text with its unit such as \"30s\""));
            }
            *value = from_text(name, Kind::Time, given)?;
        }
    }
    finish(map)
}

fn kind_of(name: &str, extra: &[&str]) -> Result<Kind, Refusal> {
    if let Some((_, kind)) = FIELDS.iter().find(|(known, _)| *known == name) {
        return Ok(*kind);
    }
    let known = || FIELDS.iter().map(|(known, _)| *known).chain(extra.iter().copied());
    let distance = |known: &&str| strsim::damerau_levenshtein(&known.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let shown: String = name.chars().take(40).flat_map(char::escape_default).collect();
    let hint = match known().min_by_key(distance).filter(|_| name.len() <= 64) {
        Some(near) if distance(&near) <= 3 => format!("did you mean '{near}'?"),
        _ => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
    };
    let message = format!("'{shown}' cannot be set: {hint}");
    Err(Refusal::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidInput.code(), message))
}

fn wrong(name: &str, given: &str, wanted: &str) -> Refusal {
    let shown: String = given.chars().take(40).flat_map(char::escape_default).collect();
    Refusal::bad(format!("{name} is '{shown}': it must be {wanted}"))
}

fn from_text(name: &str, kind: Kind, given: &str) -> Result<Value, Refusal> {
    let given = given.trim();
    if given == DEFAULT && UNSET.contains(&name) {
        return Ok(Value::Null);
    }
    let plain_number = given.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match kind {
        Kind::Text => Ok(Value::from(given)),
        Kind::Whole => match given.parse::<u32>().ok().filter(|_| plain_number) {
            Some(number) => Ok(Value::from(number)),
            None => Err(wrong(name, given, "a whole number")),
        },
        Kind::Decimal => match given.parse().ok().filter(|_| plain_number).and_then(Number::from_f64) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(wrong(name, given, "a number")),
        },
        Kind::Time => match milliseconds(given) {
            Some(number) => Ok(Value::from(number)),
            None => Err(wrong(name, given, "a time: 30, 1.5 or 30s for seconds, 500ms for milliseconds")),
        },
        Kind::Switch => match given {
            "on" | "true" => Ok(Value::from(true)),
            "off" | "false" => Ok(Value::from(false)),
            _ => Err(wrong(name, given, "on or off")),
        },
        Kind::Object => match text::strict_object(given.as_bytes()) {
            Ok(map) => Ok(Value::Object(map)),
            Err(e) => Err(Refusal::bad(format!("{name} is not right: {e}"))),
        },
    }
}

/// `30`, `1.5`, `30s`, `500ms`, `5m` in milliseconds.
fn milliseconds(given: &str) -> Option<u64> {
    let at = given.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(given.len());
    let (number, unit) = given.split_at(at);
    let scale = match unit {
        "" | "s" => 1_000.0,
        "ms" => 1.0,
        "m" | "min" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let ms = number.parse::<f64>().ok()? * scale;
    (ms.is_finite() && ms <= 1e12 && (ms - ms.round()).abs() < 1e-6).then_some(ms.round() as u64)
}

fn finish(map: Map<String, Value>) -> Result<Settings, Refusal> {
    let read = |map: Map<String, Value>| serde_json::from_value::<Settings>(Value::Object(map));
    let whole = read(map.clone());
    whole.map_err(|e| {
        // The reader does not say which field it means: find the first that does not fit alone.
        let culprit = map.into_iter().find_map(|(name, value)| {
            let read = read(Map::from_iter([(name.clone(), value.clone())]));
            read.err().map(|e| match WORDS.iter().find(|(known, _)| *known == name) {
                Some((_, words)) => wrong(&name, value.as_str().unwrap_or(&value.to_string()), words),
                None => Refusal::bad(format!("{name} does not fit: {e}")),
            })
        });
        culprit.unwrap_or_else(|| Refusal::bad(e.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use offshoot_model::{Convention, MiB, Millis, Network};

    fn form(fields: &[(&str, &str)]) -> Result<Settings, Refusal> {
        let fields: Vec<_> = fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        from_form(&fields, &["funcName"])
    }

    #[test]
    fn forms_are_read() {
        let all = form(&[
            ("funcName", "x"),
            ("runtime", "nodejs20.x"),
            ("handler", "index.handler"),
            ("convention", "request"),
            ("memory", "256"),
            ("timeout", "1.5"),
            ("env", r#"{"A":"1"}"#),
            ("network", "host"),
            ("cpu", "0.5"),
            ("tmp", "64"),
            ("snapshot", "on"),
            ("maxConcurrency", "10"),
            ("concurrency", "5"),
            ("rateLimit", "7"),
            ("keepAlive", "90"),
        ])
        .unwrap();
        assert_eq!(
            (all.memory, all.timeout, all.keep_alive),
            (Some(MiB(256)), Some(Millis(1500)), Some(Some(Millis(90_000))))
        );
        assert_eq!((all.convention, all.network), (Some(Convention::Request), Some(Network::Host)));
        assert_eq!((all.cpu, all.snapshot, all.rate_limit), (Some(Some(0.5)), Some(true), Some(7)));
        assert_eq!(all.env.unwrap()["A"], "1");
        assert_eq!(form(&[]).unwrap(), Settings::default());
        let back = form(&[("cpu", "default"), ("keepAlive", "default")]).unwrap();
        assert_eq!((back.cpu, back.keep_alive), (Some(None), Some(None)));
        assert!(form(&[("memory", "default")]).is_err());
        for (text, ms) in [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("5m", 300_000), ("0.25", 250)] {
            assert_eq!(form(&[("timeout", text)]).unwrap().timeout, Some(Millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let message = |r: Result<Settings, Refusal>| format!("{:?}", r.unwrap_err());
        assert!(message(form(&[("memroy", "1")])).contains("did you mean 'memory'?"));
        assert!(message(form(&[("funcname", "1")])).contains("did you mean 'funcName'?"));
        assert!(message(form(&[("zzzzzzzz", "1")])).contains("there are runtime, handler"));
        assert!(message(from_json(br#"{"ratelimit":1}"#)).contains("did you mean 'rateLimit'?"));
        assert!(
            message(from_json(br#"{"network":"internet"}"#)).contains("network is 'internet': it must be none or host")
        );
        assert!(message(from_json(br#"{"memory":"big"}"#)).contains("memory does not fit"));
        assert!(message(from_json(br#"{"memory":1,"memory":2}"#)).contains("appears twice"));
        assert!(message(from_json(br#"{"timeout":"30"}"#)).contains("with its unit"));
        for (name, value) in [
            ("memory", "1.5"),
            ("memory", "-1"),
            ("memory", "+1"),
            ("memory", ""),
            ("timeout", "x"),
            ("timeout", "1e3"),
            ("timeout", "-1"),
            ("timeout", "0.0001"),
            ("cpu", "NaN"),
            ("cpu", "inf"),
            ("snapshot", "yes"),
            ("env", "[]"),
            ("env", r#"{"A":1}"#),
            ("convention", "soap"),
            ("network", "all"),
            ("runtime", "java"),
        ] {
            assert!(form(&[(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn json_is_in_the_units_of_info() {
        let all = from_json(br#"{"timeout":1500,"keepAlive":"30s","rateLimit":0,"cpu":null}"#).unwrap();
        assert_eq!(
            (all.timeout, all.keep_alive, all.rate_limit, all.cpu),
            (Some(Millis(1500)), Some(Some(Millis(30_000))), Some(0), Some(None))
        );
    }
}
