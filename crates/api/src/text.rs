//! Small forms of text that the answers are written in: times, base64, JSON that fits a header, JSON that is checked
//! without being built, JSON whose keys are unique.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Milliseconds since 1970 as RFC 3339 in UTC: `2026-01-31T09:30:00.250Z`.
pub(crate) fn rfc3339(ms: u64) -> String {
    offshoot_model::time::rfc3339(ms)
}

/// Base64 with padding (RFC 4648 §4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4usize {
            let six = (bits >> (18 - 6 * i)) & 63;
            out.push(if i <= group.len() { ALPHABET[six as usize] as char } else { '=' });
        }
    }
    out
}

/// JSON in which every character is printable ASCII, so that it can be the value of a header.
pub(crate) fn ascii_json<T: serde::Serialize>(value: &T) -> String {
    use fmt::Write as _;
    let json = serde_json::to_string(value).unwrap_or_default();
    if json.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return json;
    }
    let mut out = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        if matches!(c, ' '..='~') {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Whether these bytes are one JSON document: UTF-8, nested at most 128 deep, numbers within range.
pub(crate) fn check_json(bytes: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<Checked>(bytes).map(|_| ()).map_err(|e| e.to_string())
}

struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Checked)
    }
}

macro_rules! accept {
    ($($method:ident: $type:ty),*) => { $(fn $method<E>(self, _: $type) -> Result<Checked, E> { Ok(Checked) })* };
}

impl<'de> Visitor<'de> for Checked {
    type Value = Checked;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    accept!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);
    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Checked, A::Error> {
        while seq.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
        while map.next_entry::<Checked, Checked>()?.is_some() {}
        Ok(Checked)
    }
}

/// One JSON object in which no key appears twice, at any depth.
pub(crate) fn strict_object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice::<Strict>(bytes) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(_) => Err("it must be a JSON object".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

macro_rules! build {
    ($($method:ident: $type:ty),*) => { $(fn $method<E>(self, v: $type) -> Result<Value, E> { Ok(Value::from(v)) })* };
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    build!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str, visit_string: String);
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = access.next_entry::<String, Strict>()? {
            if map.contains_key(&key) {
                let shown: String = key.chars().take(40).flat_map(char::escape_default).collect();
                return Err(A::Error::custom(format!("the key '{shown}' appears twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Decodes `%XX`. `None` for a broken escape or for bytes that are not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push(u8::try_from(digit()? << 4 | digit()?).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn base64_is_padded() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn header_json_is_ascii() {
        assert_eq!(ascii_json(&[("a", "é\r\n😀\u{7f}")]), r#"[["a","\u00e9\r\n\ud83d\ude00\u007f"]]"#);
    }

    #[test]
    fn bad_json_is_refused() {
        for good in ["{}", "null", "0", "\"x\"", " [1,2.5,-3,1e300,true,{\"a\":{\"a\":1}}] ", "18446744073709551616"] {
            assert!(check_json(good.as_bytes()).is_ok(), "{good}");
        }
        let deep = "[".repeat(1 << 20);
        let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in ["", "{", "{}x", "NaN", "\u{feff}{}", "\"\\ud800\"", "1e400", "[1,]", "{\"a\":}", &deep, &nested] {
            assert!(check_json(bad.as_bytes()).is_err(), "{:.20}", bad);
        }
        assert!(check_json(b"\"\xff\"").is_err());
    }

    #[test]
    fn admin_documents_have_unique_keys() {
        assert_eq!(strict_object(br#"{"a":1,"b":{"c":[null,"x"]}}"#).unwrap().len(), 2);
        for bad in [r#"{"a":1,"a":2}"#, r#"{"env":{"A":"1","A":"2"}}"#, "[]", "1", "", "{"] {
            assert!(strict_object(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn percent_is_decoded_once() {
        assert_eq!(percent_decode("%68ello%2e").as_deref(), Some("hello."));
        assert_eq!(percent_decode("%252e").as_deref(), Some("%2e"));
        for bad in ["%", "%4", "%zz", "%ff", "%c0%ae", "%+1"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
    }
}
