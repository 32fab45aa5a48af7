//! The server's token: whether a request carries it. Comparing takes the same time whatever the request holds.
//!
//! It knows one token and no users; without a token in the configuration every request may pass.

use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::error::Refusal;

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Which headers carried the token; they are not passed on to a function.
pub(crate) type Credential = Vec<HeaderName>;

/// Where a request of AWS's SDKs carries the token of a session.
pub(crate) const SESSION: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Lets the request pass when it carries the token, or when there is none.
pub(crate) fn check(token: Option<&str>, headers: &HeaderMap) -> Result<Credential, Refusal> {
    let Some(token) = token else { return Ok(Vec::new()) };
    let key = headers.get_all(API_KEY).iter().any(|key| same(key.as_bytes(), token.as_bytes()));
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest.trim_ascii_start())
    });
    let bearer = bearer.is_some_and(|given| same(given, token.as_bytes()));
    // SDKs of AWS sign their requests; the name of the key that they sign with is the token.
    if key || bearer || access_key(headers).is_some_and(|key| same(key.as_bytes(), token.as_bytes())) {
        return Ok(shown(token, headers));
    }
    let message = "this server wants its token: send Authorization: Bearer <token> or X-API-Key: <token> (AWS clients: as the access key id)";
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
}

/// Every header in which credentials travel and that holds the token: a proxy may have added a second one.
fn shown(token: &str, headers: &HeaderMap) -> Credential {
    let holds =
        |name: &HeaderName| headers.get_all(name).iter().any(|value| contains(value.as_bytes(), token.as_bytes()));
    [API_KEY, header::AUTHORIZATION, SESSION, header::PROXY_AUTHORIZATION].into_iter().filter(holds).collect()
}

fn contains(text: &[u8], token: &[u8]) -> bool {
    !token.is_empty() && text.windows(token.len()).any(|piece| piece == token)
}

/// The access key that a request says it was signed with (AWS Signature Version 4). That the signature is right is not
/// checked here: the key's name itself is the secret.
pub(crate) fn access_key(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let rest = value.strip_prefix("AWS4-HMAC-SHA256")?;
    let credential = rest.split([',', ' ']).find_map(|part| part.strip_prefix("Credential="))?;
    credential.split('/').next().filter(|key| !key.is_empty())
}

/// Whether a request is signed by somebody of this server's account: with the token's key, or, without a token, with any.
pub(crate) fn is_signed(token: Option<&str>, headers: &HeaderMap) -> bool {
    match (access_key(headers), token) {
        (Some(key), Some(token)) => same(key.as_bytes(), token.as_bytes()),
        (key, None) => key.is_some(),
        (None, Some(_)) => check(token, headers).is_ok(),
    }
}

/// Equality in a time that depends on the token's length alone.
fn same(given: &[u8], token: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != token.len());
    for (at, byte) in token.iter().enumerate() {
        difference |= byte ^ given.get(at).copied().unwrap_or(!byte);
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn pass(name: &str, value: &str) -> Option<Credential> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        check(Some("secret"), &headers).ok()
    }

    #[test]
    fn no_header_with_the_token_is_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-api-key", "secret"),
            ("authorization", "Bearer secret"),
            ("x-amz-security-token", "secret"),
            ("x-other", "other"),
        ] {
            headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        assert_eq!(check(Some("secret"), &headers).unwrap(), [API_KEY, header::AUTHORIZATION, SESSION]);
    }

    #[test]
    fn only_the_token_passes() {
        assert_eq!(pass("authorization", "Bearer secret"), Some(vec![header::AUTHORIZATION]));
        assert_eq!(pass("authorization", "bearer  secret"), Some(vec![header::AUTHORIZATION]));
        assert_eq!(pass("x-api-key", "secret"), Some(vec![API_KEY]));
        let signed = "AWS4-HMAC-SHA256 Credential=secret/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=x";
        assert_eq!(pass("authorization", signed), Some(vec![header::AUTHORIZATION]));
        for (name, value) in [
            ("authorization", "secret"),
            ("authorization", "Bearer secre"),
            ("authorization", "Bearer secrets"),
            ("authorization", "Basic secret"),
            ("authorization", "AWS4-HMAC-SHA256 Credential=secre/20260101/us-east-1/lambda/aws4_request, Signature=x"),
            ("authorization", "AWS4-HMAC-SHA256 Credential=/secret"),
            ("authorization", ""),
            ("x-api-key", "Secret"),
            ("x-other", "secret"),
        ] {
            assert_eq!(pass(name, value), None, "{name}: {value}");
        }
        assert!(check(None, &HeaderMap::new()).is_ok_and(|c| c.is_empty()));
    }
}
