//! The server's token: whether a request carries it. Comparing takes the same time whatever the request holds.
//!
//! It knows one token and no users; without a token in the configuration every request may pass.

use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::error::Refusal;

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Which header carried the token; that header is not passed on to a function.
pub(crate) type Credential = Option<HeaderName>;

/// Lets the request pass when it carries the token, or when there is none.
pub(crate) fn check(token: Option<&str>, headers: &HeaderMap) -> Result<Credential, Refusal> {
    let Some(token) = token else { return Ok(None) };
    if headers.get(API_KEY).is_some_and(|key| same(key.as_bytes(), token.as_bytes())) {
        return Ok(Some(API_KEY));
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest.trim_ascii_start())
    });
    if bearer.is_some_and(|given| same(given, token.as_bytes())) {
        return Ok(Some(header::AUTHORIZATION));
    }
    let message = "this server wants its token: send Authorization: Bearer <token> or X-API-Key: <token>";
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
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
    fn only_the_token_passes() {
        assert_eq!(pass("authorization", "Bearer secret"), Some(Some(header::AUTHORIZATION)));
        assert_eq!(pass("authorization", "bearer  secret"), Some(Some(header::AUTHORIZATION)));
        assert_eq!(pass("x-api-key", "secret"), Some(Some(API_KEY)));
        for (name, value) in [
            ("authorization", "secret"),
            ("authorization", "Bearer secre"),
            ("authorization", "Bearer secrets"),
            ("authorization", "Basic secret"),
            ("authorization", ""),
            ("x-api-key", "Secret"),
            ("x-other", "secret"),
        ] {
            assert_eq!(pass(name, value), None, "{name}: {value}");
        }
        assert!(check(None, &HeaderMap::new()).is_ok_and(|c| c.is_none()));
    }
}
