//! AWS Signature Version 4: reads what a request says of its signature, and computes the one that it should have
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>).
//!
//! Pure functions of a request's head, a payload's hash, a key and a time. It looks up no key, reads no body and no clock;
//! `signed` does that.

use std::borrow::Cow;

use http::{HeaderMap, Method};
use offshoot_node::keys::HmacKey;
use sha2::{Digest, Sha256};

use crate::text;

/// The only algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The hash that says that the payload is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// How far a request's time may be from the server's, in seconds (AWS: five minutes).
pub const SKEW_S: u64 = 300;
/// The longest that a presigned address holds, in seconds (AWS: seven days).
const MAX_EXPIRES_S: u64 = 604_800;
/// Headers that a signature may cover, at most; and bytes of each of its parts.
const MAX_SIGNED_HEADERS: usize = 100;
const MAX_PART: usize = 256;

/// What is signed of a request besides its payload.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path as it came, percent-encoded.
    pub path: &'a str,
    /// Query as it came, without `?`.
    pub query: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
}

/// What a request says of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Which key.
    pub key_id: String,
    /// Day of the scope, `YYYYMMDD`.
    pub date: String,
    /// Region of the scope.
    pub region: String,
    /// Service of the scope: what tells services apart on one port.
    pub service: String,
    /// `YYYYMMDDTHHMMSSZ`.
    pub time: String,
    /// Names in lower case, in the order in which they were signed.
    pub headers: Vec<String>,
    /// Sixty-four hexadecimal digits.
    pub signature: String,
    /// The session token of a temporary key.
    pub token: Option<String>,
    /// How long a presigned address holds, in seconds; `None`: signed in the head.
    pub presigned_s: Option<u64>,
}

/// Why a signature is not accepted, in AWS's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is none.
    Missing,
    /// Parts of it are missing or malformed.
    Incomplete(&'static str),
    /// Nobody knows the key, or its session has ended.
    UnknownKey,
    /// The time is too far from the server's.
    Expired,
    /// It is another one than it should be.
    Mismatch,
    /// The payload is not the one that was signed.
    Payload,
    /// It was used before.
    Replayed,
    /// The payload is signed in a way that this server does not read.
    Streaming,
}

impl Fault {
    /// AWS's code, its status and a sentence.
    pub fn told(self) -> (&'static str, u16, Cow<'static, str>) {
        match self {
            Fault::Missing => ("MissingAuthenticationTokenException", 403, "Missing Authentication Token".into()),
            Fault::Incomplete(what) => ("IncompleteSignatureException", 403, what.into()),
            Fault::UnknownKey => {
                ("UnrecognizedClientException", 403, "The security token included in the request is invalid.".into())
            }
            Fault::Expired => {
                let sentence = "Signature expired or not yet current: the request's time is more than 5 minutes from the server's.";
                ("InvalidSignatureException", 403, sentence.into())
            }
            Fault::Mismatch | Fault::Payload => {
                let sentence = "The request signature we calculated does not match the signature you provided. Check your AWS \
                                Secret Access Key and signing method. Consult the service documentation for details.";
                ("InvalidSignatureException", 403, sentence.into())
            }
            Fault::Replayed => {
                let sentence = "This very request was made before: sign it anew to make it again.";
                ("InvalidSignatureException", 403, sentence.into())
            }
            Fault::Streaming => {
                let sentence = "Payloads that are signed in chunks are not read here: sign the payload as a whole.";
                ("IncompleteSignatureException", 403, sentence.into())
            }
        }
    }
}

/// What a request says of its signature; `Ok(None)`: it has none of this kind.
pub fn read(head: &Head) -> Result<Option<Signed>, Fault> {
    if let Some(value) = head.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok())
        && let Some(rest) = value.strip_prefix(ALGORITHM)
    {
        return from_header(head, rest).map(Some);
    }
    if raw_parameter(head.query, "X-Amz-Algorithm").is_some() {
        return from_query(head).map(Some);
    }
    Ok(None)
}

/// The service that a request's scope names, without a look at the rest: enough to choose a route.
pub fn service(headers: &HeaderMap, query: &str) -> Option<String> {
    let of = |credential: &str| credential.split('/').rev().nth(1).map(str::to_owned);
    let header = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if let Some(rest) = header.and_then(|v| v.strip_prefix(ALGORITHM)) {
        let credential = rest.split(',').find_map(|part| part.trim().strip_prefix("Credential="))?;
        return of(credential);
    }
    of(&parameter(query, "X-Amz-Credential")?)
}

fn from_header(head: &Head, rest: &str) -> Result<Signed, Fault> {
    let (mut credential, mut headers, mut signature) = (None, None, None);
    for part in rest.split(',') {
        let slot = match part.trim().split_once('=') {
            Some(("Credential", value)) => (&mut credential, value),
            Some(("SignedHeaders", value)) => (&mut headers, value),
            Some(("Signature", value)) => (&mut signature, value),
            _ => return Err(Fault::Incomplete("Authorization has Credential, SignedHeaders and Signature.")),
        };
        if slot.0.replace(slot.1).is_some() {
            return Err(Fault::Incomplete("A part of Authorization appears twice."));
        }
    }
    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let time = text("x-amz-date").ok_or(Fault::Incomplete("Authorization requires 'X-Amz-Date'."))?;
    let part = |part: Option<&str>, what| part.map(str::to_owned).ok_or(Fault::Incomplete(what));
    let credential = part(credential, "Authorization requires 'Credential'.")?;
    let headers = part(headers, "Authorization requires 'SignedHeaders'.")?;
    let signature = part(signature, "Authorization requires 'Signature'.")?;
    let token = text("x-amz-security-token");
    assemble(&credential, &headers, signature, time, token, None)
}

fn from_query(head: &Head) -> Result<Signed, Fault> {
    let get = |name: &str| parameter(head.query, name);
    if get("X-Amz-Algorithm").as_deref() != Some(ALGORITHM) {
        return Err(Fault::Incomplete("X-Amz-Algorithm is AWS4-HMAC-SHA256."));
    }
    let need = |name: &str, what| get(name).ok_or(Fault::Incomplete(what));
    let credential = need("X-Amz-Credential", "The address requires 'X-Amz-Credential'.")?;
    let headers = need("X-Amz-SignedHeaders", "The address requires 'X-Amz-SignedHeaders'.")?;
    let signature = need("X-Amz-Signature", "The address requires 'X-Amz-Signature'.")?;
    let time = need("X-Amz-Date", "The address requires 'X-Amz-Date'.")?;
    let expires = get("X-Amz-Expires").map_or(Some(SKEW_S), |text| text.parse().ok());
    let expires = expires.filter(|s| (1..=MAX_EXPIRES_S).contains(s));
    let expires = expires.ok_or(Fault::Incomplete("X-Amz-Expires is 1 to 604800 seconds."))?;
    assemble(&credential, &headers, signature, time, get("X-Amz-Security-Token"), Some(expires))
}

fn assemble(
    credential: &str,
    headers: &str,
    signature: String,
    time: String,
    token: Option<String>,
    presigned_s: Option<u64>,
) -> Result<Signed, Fault> {
    let scope = Fault::Incomplete("Credential is KEY/DATE/REGION/SERVICE/aws4_request.");
    let parts: Vec<&str> = credential.split('/').collect();
    let [key_id, date, region, service, "aws4_request"] = parts[..] else { return Err(scope) };
    let plain = |part: &str| !part.is_empty() && part.len() <= MAX_PART && part.bytes().all(|b| b.is_ascii_graphic());
    if ![key_id, date, region, service].into_iter().all(plain) {
        return Err(scope);
    }
    if !time.starts_with(date) || date.len() != 8 || seconds(&time).is_none() {
        return Err(Fault::Incomplete("X-Amz-Date is YYYYMMDDTHHMMSSZ, of the day that Credential names."));
    }
    if signature.len() != 64 || !signature.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Fault::Incomplete("Signature is 64 hexadecimal digits in lower case."));
    }
    let headers: Vec<String> = headers.split(';').take(MAX_SIGNED_HEADERS + 1).map(str::to_owned).collect();
    let sorted =
        headers.is_sorted() && headers.iter().all(|h| !h.is_empty() && !h.bytes().any(|b| b.is_ascii_uppercase()));
    if !sorted || headers.len() > MAX_SIGNED_HEADERS || !headers.iter().any(|h| h == "host") {
        return Err(Fault::Incomplete("SignedHeaders are in lower case, sorted, and 'host' is among them."));
    }
    let [key_id, date, region, service] = [key_id, date, region, service].map(str::to_owned);
    Ok(Signed { key_id, date, region, service, time, headers, signature, token, presigned_s })
}

impl Signed {
    /// Whether the signature's time fits the server's.
    pub fn in_time(&self, now_s: u64) -> Result<(), Fault> {
        let at = seconds(&self.time).ok_or(Fault::Expired)?;
        let until = at + self.presigned_s.unwrap_or(SKEW_S);
        if at > now_s + SKEW_S || now_s > until { Err(Fault::Expired) } else { Ok(()) }
    }

    /// Whether everything that could change what the request means is signed: all `X-Amz-…` headers (AWS asks for the same).
    pub fn covers(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let signed = |name: &str| self.headers.binary_search_by(|h| h.as_str().cmp(name)).is_ok();
        let open = |name: &&str| name.starts_with("x-amz-") && !signed(name);
        // A presigned address may be used by somebody who only adds the hash of what he sends.
        let harmless = |name: &&str| self.presigned_s.is_some() && *name == "x-amz-content-sha256";
        match headers.keys().map(http::HeaderName::as_str).find(|name| open(name) && !harmless(name)) {
            Some(_) => Err(Fault::Incomplete("A header whose name begins with 'X-Amz-' is not signed.")),
            None => Ok(()),
        }
    }

    /// The signature that the request should have, given the payload's hash as it goes into it.
    pub fn expected(&self, head: &Head, payload_hash: &str, root: &HmacKey) -> [u8; 64] {
        let request = hex(&Sha256::digest(self.canonical(head, payload_hash)));
        let scope = [self.date.as_str(), &self.region, &self.service, "aws4_request"].join("/");
        let key = HmacKey::new(&root.code(&[self.date.as_bytes()]));
        let key = HmacKey::new(&key.code(&[self.region.as_bytes()]));
        let key = HmacKey::new(&key.code(&[self.service.as_bytes()]));
        let key = HmacKey::new(&key.code(&[b"aws4_request"]));
        let line = b"\n";
        hex(&key.code(&[ALGORITHM.as_bytes(), line, self.time.as_bytes(), line, scope.as_bytes(), line, &request]))
    }

    /// The canonical request.
    fn canonical(&self, head: &Head, payload_hash: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + head.path.len() * 2 + head.query.len() * 2);
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b'\n');
        if self.service == "s3" {
            out.extend_from_slice(if head.path.is_empty() { b"/" } else { head.path.as_bytes() });
        } else {
            push_path(&mut out, head.path);
        }
        out.push(b'\n');
        push_query(&mut out, head.query, self.presigned_s.is_some());
        out.push(b'\n');
        for name in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            for (at, value) in head.headers.get_all(name.as_str()).iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                push_trimmed(&mut out, value.as_bytes());
            }
            out.push(b'\n');
        }
        out.push(b'\n');
        for (at, name) in self.headers.iter().enumerate() {
            if at > 0 {
                out.push(b';');
            }
            out.extend_from_slice(name.as_bytes());
        }
        out.push(b'\n');
        out.extend_from_slice(payload_hash.as_bytes());
        out
    }
}

/// The hash of a payload, as it goes into a signature.
pub fn hash(payload: &[u8]) -> String {
    hex(&Sha256::digest(payload)).iter().map(|b| char::from(*b)).collect()
}

fn hex(bytes: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [b'0'; 64];
    for (pair, byte) in out.chunks_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    out
}

/// A path without dot segments and doubled slashes (RFC 3986 §5.2.4), encoded once more than it came: what all services but
/// S3 sign.
fn push_path(out: &mut Vec<u8>, path: &str) {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    for segment in &kept {
        out.push(b'/');
        push_encoded(out, segment.as_bytes());
    }
    if kept.is_empty() || path.ends_with('/') {
        out.push(b'/');
    }
}

/// The query, each name and value decoded and encoded again, sorted; without the signature itself.
fn push_query(out: &mut Vec<u8>, query: &str, presigned: bool) {
    let recoded = |text: &str| {
        let mut out = Vec::with_capacity(text.len());
        push_encoded(&mut out, &decoded(text));
        out
    };
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| !(presigned && *name == "X-Amz-Signature"))
        .map(|(name, value)| (recoded(name), recoded(value)))
        .collect();
    pairs.sort();
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// Every byte but the unreserved ones (RFC 3986 §2.3) as `%XX`.
fn push_encoded(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for b in bytes {
        if b.is_ascii_alphanumeric() || b"-._~".contains(b) {
            out.push(*b);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
        }
    }
}

/// The bytes that a percent-encoded text stands for; a `%` that begins nothing stands for itself.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// A value without white space around it, and with one space for each run of it inside.
fn push_trimmed(out: &mut Vec<u8>, value: &[u8]) {
    let words = value.split(|b| b.is_ascii_whitespace() || *b == 0x0b).filter(|word| !word.is_empty());
    for (at, word) in words.enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

fn raw_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    raw_parameter(query, name).and_then(|value| text::percent_decode(value).map(|text| text.to_string()))
}

/// `YYYYMMDDTHHMMSSZ` as seconds since 1970.
fn seconds(time: &str) -> Option<u64> {
    let b = time.as_bytes();
    let shaped = b.len() == 16 && b[8] == b'T' && b[15] == b'Z';
    if !shaped || !b[..8].iter().chain(&b[9..15]).all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, to: usize| time[from..to].parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (h, m, s) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || h > 23 || m > 59 || s > 60 {
        return None;
    }
    // Days since 1970 (Howard Hinnant's algorithm), for years that begin in March.
    let shifted = year - u64::from(month <= 2);
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(days.checked_sub(719_468)? * 86_400 + h * 3600 + m * 60 + s)
}

/// The signatures that were seen, for as long as they could be used again. Two generations, so that forgetting costs nothing;
/// when more come than it holds, the older generation goes first.
#[derive(Debug)]
pub struct Seen {
    young: std::collections::HashMap<[u8; 16], u64>,
    old: std::collections::HashMap<[u8; 16], u64>,
    turned_s: u64,
    room: usize,
}

/// How long the same signature is taken again, in seconds. Signatures have no number of their own: a client that makes
/// the same call twice within one second signs both alike, and both are meant.
pub const REPEAT_S: u64 = 3;
/// Signatures that are remembered, at most: about 60 MB.
const SEEN: usize = 1_000_000;

impl Default for Seen {
    fn default() -> Self {
        Seen { young: Default::default(), old: Default::default(), turned_s: 0, room: SEEN / 2 }
    }
}

impl Seen {
    /// Remembers a signature that was found right. `false`: it was seen before, and longer ago than one client needs to
    /// make the same call twice.
    pub fn fresh(&mut self, signature: &str, now_s: u64) -> bool {
        let mut key = [0; 16];
        key.iter_mut().zip(signature.as_bytes().chunks(2)).for_each(|(byte, digits)| {
            let digit = |at: usize| digits.get(at).and_then(|d| char::from(*d).to_digit(16)).unwrap_or(0);
            *byte = (digit(0) * 16 + digit(1)) as u8;
        });
        // A signature holds from five minutes before its time to five after.
        if now_s.saturating_sub(self.turned_s) > 2 * SKEW_S || self.young.len() >= self.room {
            self.old = std::mem::take(&mut self.young);
            self.turned_s = now_s;
        }
        match self.young.get(&key).or_else(|| self.old.get(&key)) {
            Some(first) => now_s.saturating_sub(*first) < REPEAT_S,
            None => {
                self.young.insert(key, now_s);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use offshoot_node::keys::signing_root;
    use serde::Deserialize;

    /// One request signed by AWS's own Python library with the keys of AWS's published test suite.
    #[derive(Deserialize)]
    struct Case {
        name: String,
        method: String,
        path: String,
        query: String,
        headers: Vec<(String, String)>,
        body: String,
        signature: String,
    }

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// 2015-08-30 12:36:00.
    const NOW: u64 = 1_440_938_160;

    fn cases() -> Vec<Case> {
        serde_json::from_str(include_str!("../../../tests/golden/sigv4.json")).unwrap()
    }
    fn headers(case: &Case) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &case.headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }
    fn payload(case: &Case, headers: &HeaderMap, signed: &Signed) -> String {
        match headers.get("x-amz-content-sha256") {
            Some(stated) => stated.to_str().unwrap().to_owned(),
            None if signed.presigned_s.is_some() && signed.service == "s3" => UNSIGNED.to_owned(),
            None => hash(case.body.as_bytes()),
        }
    }

    #[test]
    fn every_golden_request_has_the_signature_it_should_have() {
        let cases = cases();
        assert!(cases.len() > 70);
        for case in &cases {
            let (method, headers) = (Method::from_bytes(case.method.as_bytes()).unwrap(), headers(case));
            let head = Head { method: &method, path: &case.path, query: &case.query, headers: &headers };
            let signed = read(&head).unwrap_or_else(|e| panic!("{}: {e:?}", case.name)).unwrap();
            let hash = payload(case, &headers, &signed);
            let made = signed.expected(&head, &hash, &signing_root(SECRET));
            let canonical = String::from_utf8_lossy(&signed.canonical(&head, &hash)).into_owned();
            assert_eq!(std::str::from_utf8(&made).unwrap(), case.signature, "{}:\n{canonical}", case.name);
            assert_eq!(signed.signature, case.signature);
            signed.covers(&headers).unwrap();
            signed.in_time(NOW).unwrap();
            assert_eq!(service(&headers, &case.query).as_deref(), Some(signed.service.as_str()));
            assert_ne!(signed.expected(&head, &hash, &signing_root("another")), made);
        }
    }

    /// AWS's published test suite for Signature Version 4.
    #[test]
    fn published_signatures() {
        for (name, signature) in [
            ("get-vanilla", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("get-vanilla-query-order-key-case", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
            ("post-vanilla", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            ("post-x-www-form-urlencoded", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
            ("get-header-value-trim", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
            ("get-header-key-duplicate", "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"),
        ] {
            assert!(cases().iter().any(|c| c.name == name && c.signature == signature), "{name}");
        }
    }

    #[test]
    fn whatever_is_changed_changes_the_signature() {
        let case = cases().into_iter().find(|c| c.name == "lambda invoke").unwrap();
        let (method, map) = (Method::POST, headers(&case));
        let root = signing_root(SECRET);
        let of = |head: &Head, hash: &str| read(head).unwrap().unwrap().expected(head, hash, &root);
        let head = Head { method: &method, path: &case.path, query: &case.query, headers: &map };
        let good = hash(case.body.as_bytes());
        let right = of(&head, &good);
        assert_ne!(of(&head, &hash(b"{}")), right);
        assert_ne!(of(&Head { path: "/2015-03-31/functions/g/invocations", ..head }, &good), right);
        assert_ne!(of(&Head { query: "", ..head }, &good), right);
        assert_ne!(of(&Head { method: &Method::PUT, ..head }, &good), right);
        let mut other = map.clone();
        other.insert("x-amz-invocation-type", HeaderValue::from_static("DryRun"));
        assert_ne!(of(&Head { headers: &other, ..head }, &good), right);
        other = map.clone();
        other.insert("x-amz-log-type", HeaderValue::from_static("Tail"));
        let signed = read(&head).unwrap().unwrap();
        assert!(matches!(signed.covers(&other), Err(Fault::Incomplete(_))));
        signed.covers(&map).unwrap();
    }

    #[test]
    fn broken_signatures_are_refused_and_others_are_not_ours() {
        let case = cases().into_iter().find(|c| c.name == "get-vanilla").unwrap();
        let map = headers(&case);
        let with = |value: &str| {
            let mut map = map.clone();
            map.insert("authorization", HeaderValue::from_str(value).unwrap());
            read(&Head { method: &Method::GET, path: "/", query: "", headers: &map })
        };
        let whole = map["authorization"].to_str().unwrap().to_owned();
        assert!(with(&whole).unwrap().is_some());
        for bad in [
            whole.replace("aws4_request", "aws5_request"),
            whole.replace("20150830/", "20150831/"),
            whole.replace("/us-east-1", ""),
            whole.replace("host;", ""),
            whole.replace("host;x-amz-date", "x-amz-date;host"),
            whole.replace("Signature=5", "Signature=X"),
            whole.replace("Signature=", "Signatur="),
            whole.replace(", Signature", ", Signature=1, Signature"),
            "AWS4-HMAC-SHA256".to_owned(),
            "AWS4-HMAC-SHA256 Credential=".to_owned(),
        ] {
            assert!(matches!(with(&bad), Err(Fault::Incomplete(_))), "{bad}");
        }
        for other in ["Bearer x", "Basic AWS4-HMAC-SHA256", ""] {
            assert_eq!(with(other), Ok(None));
        }
        let queried = |query: &str| {
            let empty = HeaderMap::new();
            read(&Head { method: &Method::GET, path: "/", query, headers: &empty })
        };
        assert!(queried("X-Amz-Algorithm=AWS4-HMAC-SHA256").is_err());
        assert!(queried("X-Amz-Algorithm=x&X-Amz-Signature=%ff").is_err());
        assert_eq!(queried("a=b"), Ok(None));
    }

    #[test]
    fn times_are_near() {
        assert_eq!(seconds("20150830T123600Z"), Some(NOW));
        assert_eq!(seconds("19700101T000000Z"), Some(0));
        assert_eq!(seconds("20000229T235959Z"), Some(951_868_799));
        for bad in
            ["", "20150830T123600", "20151330T123600Z", "2015083OT123600Z", "19691231T235959Z", "20150830 123600Z"]
        {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        let case = cases().into_iter().find(|c| c.name == "presigned").unwrap();
        let map = headers(&case);
        let head = Head { method: &Method::GET, path: "/", query: &case.query, headers: &map };
        let presigned = read(&head).unwrap().unwrap();
        assert_eq!(presigned.presigned_s, Some(300));
        assert!(presigned.in_time(NOW + 300).is_ok() && presigned.in_time(NOW + 301).is_err());
        let signed = Signed { presigned_s: None, ..presigned };
        assert!(signed.in_time(NOW + 300).is_ok() && signed.in_time(NOW + 301).is_err());
        assert!(signed.in_time(NOW - 300).is_ok() && signed.in_time(NOW - 301).is_err());
    }

    #[test]
    fn replays_are_seen_within_bounds() {
        let mut seen = Seen { room: 100, ..Seen::default() };
        let signature = |n: u64| format!("{n:064x}").chars().rev().collect::<String>();
        assert!(seen.fresh(&signature(1), 1000) && seen.fresh(&signature(1), 1002), "the same call twice in a row");
        assert!(!seen.fresh(&signature(1), 1003) && !seen.fresh(&signature(1), 1299));
        for n in 2..500 {
            assert!(seen.fresh(&signature(n), 1003));
        }
        assert!(seen.young.len() + seen.old.len() <= 200);
        assert!(!seen.fresh(&signature(499), 1290));
    }
}
