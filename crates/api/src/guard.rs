//! The door: which requests are looked at at all. Framing that could mean two things, addresses too long, hosts that are
//! not this server, and pages of other sites in somebody's browser are turned away here, before any route.
//!
//! It reads the head only, and decides nothing about functions.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, StatusCode, Version};

use crate::error::Refusal;
use crate::wire::fault;

const MAX_TARGET: usize = 8 << 10;
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks a request's head. `hosts` are the names of this server besides loopback names and IP addresses.
pub(crate) fn check(parts: &Parts, faults: u8, hosts: &[String]) -> Result<(), Refusal> {
    check_framing(faults)?;
    if parts.uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
        let message = format!("the request target is longer than {MAX_TARGET} bytes");
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, "uri-too-long", message).closing());
    }
    let host = check_host(parts, hosts)?;
    // A function's URL is for pages of other sites too: its own rules say for which.
    if crate::function_url::id_of(parts).is_some() {
        return Ok(());
    }
    check_site(&parts.headers, host)
}

fn check_framing(faults: u8) -> Result<(), Refusal> {
    if faults & fault::AMBIGUOUS != 0 {
        return Err(Refusal::bad("more than one header says how long the body is").closing());
    }
    if faults & fault::BARE_LF != 0 {
        return Err(Refusal::bad("a line of the head ends with LF alone").closing());
    }
    Ok(())
}

/// The host that the request speaks to, when it is this server.
fn check_host<'a>(parts: &'a Parts, hosts: &[String]) -> Result<&'a str, Refusal> {
    let mut given = parts.headers.get_all(HOST).iter();
    let host = match (given.next(), given.next()) {
        (Some(host), None) => host.to_str().map_err(|_| Refusal::bad("the Host header is not text").closing())?,
        (None, _) if parts.version < Version::HTTP_11 => "localhost",
        (None, _) => return Err(Refusal::bad("there is no Host header").closing()),
        (Some(_), Some(_)) => return Err(Refusal::bad("there is more than one Host header").closing()),
    };
    let misdirected = || {
        let message = "this server does not answer for that host: name it in the server's configuration if it should";
        Refusal::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", message).closing()
    };
    if !is_ours(host_of(host).ok_or_else(misdirected)?, hosts) {
        return Err(misdirected());
    }
    match parts.uri.authority() {
        Some(target) if !target.as_str().eq_ignore_ascii_case(host) => Err(misdirected()),
        _ => Ok(host),
    }
}

/// The name in `name`, `name:port`, `[v6]` or `[v6]:port`.
fn host_of(authority: &str) -> Option<&str> {
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').map(|(name, port)| (name, port.strip_prefix(':').or(port.is_empty().then_some(""))))?
        }
        None => authority.split_once(':').map_or((authority, Some("")), |(name, port)| (name, Some(port))),
    };
    let port_ok = port?.bytes().all(|b| b.is_ascii_digit());
    (port_ok && !name.is_empty()).then_some(name)
}

fn is_ours(name: &str, hosts: &[String]) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = crate::function_url::host_below(name).unwrap_or(name);
    is_localhost(name) || name.parse::<IpAddr>().is_ok() || hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
}

fn is_localhost(name: &str) -> bool {
    let suffix =
        |s: &str| name.len() > s.len() && name.as_bytes()[name.len() - s.len()..].eq_ignore_ascii_case(s.as_bytes());
    name.eq_ignore_ascii_case("localhost") || suffix(".localhost")
}

/// Turns away what a page of another site makes a browser send.
fn check_site(headers: &HeaderMap, host: &str) -> Result<(), Refusal> {
    let cross = headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site")
        || headers.get_all(ORIGIN).iter().any(|origin| !origin.to_str().is_ok_and(|o| friendly(o, host)));
    if cross {
        let message = "this request comes from a page of another site, which may not use this server";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "cross-site", message).closing());
    }
    Ok(())
}

/// Whether pages of this origin may use the server: it is the server's own, or on this machine.
fn friendly(origin: &str, host: &str) -> bool {
    let Some(rest) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else { return false };
    if rest.parse::<Authority>().is_err() || rest.contains('@') {
        return false;
    }
    rest.eq_ignore_ascii_case(host)
        || host_of(rest)
            .is_some_and(|name| is_localhost(name) || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(target: &str, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let mut request = http::Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let refused = check(&parts, 0, &["functions.example.com".to_owned()]).err()?;
        Some(refused.into_reply(crate::error::Dialect::Native).status())
    }

    #[test]
    fn hosts_are_ours_or_refused() {
        for good in [
            "localhost",
            "LOCALHOST:8000",
            "a.localhost",
            "127.0.0.1:1",
            "[::1]:8000",
            "[::1]",
            "10.0.0.7",
            "functions.example.com:80",
            "localhost.",
        ] {
            assert_eq!(verdict("/", &[("host", good)]), None, "{good}");
        }
        for bad in [
            "evil.com",
            "",
            "localhost.evil.com",
            "evillocalhost",
            ".localhost.x",
            "127.0.0.1.evil.com",
            "[::1]x",
            "a:b:c",
            "localhost:80a",
            "[::1",
        ] {
            assert_eq!(verdict("/", &[("host", bad)]), Some(StatusCode::MISDIRECTED_REQUEST), "{bad}");
        }
        assert_eq!(verdict("/", &[]), Some(StatusCode::BAD_REQUEST));
        assert_eq!(verdict("/", &[("host", "localhost"), ("host", "localhost")]), Some(StatusCode::BAD_REQUEST));
        assert_eq!(verdict("http://evil.com/", &[("host", "localhost")]), Some(StatusCode::MISDIRECTED_REQUEST));
        assert_eq!(verdict("http://localhost/", &[("host", "localhost")]), None);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let with =
            |name: &'static str, value: &'static str| verdict("/", &[("host", "functions.example.com"), (name, value)]);
        for good in ["http://functions.example.com", "https://localhost:3000", "http://127.0.0.1", "http://[::1]:5173"]
        {
            assert_eq!(with("origin", good), None, "{good}");
        }
        for bad in [
            "null",
            "http://evil.com",
            "https://localhost.evil.com",
            "file://",
            "http://a@localhost",
            "chrome-extension://x",
            "",
        ] {
            assert_eq!(with("origin", bad), Some(StatusCode::FORBIDDEN), "{bad}");
        }
        assert_eq!(with("sec-fetch-site", "cross-site"), Some(StatusCode::FORBIDDEN));
        assert_eq!(with("sec-fetch-site", "same-origin"), None);
    }

    #[test]
    fn long_targets_are_refused() {
        let target = format!("/{}", "a".repeat(MAX_TARGET));
        assert_eq!(verdict(&target, &[("host", "localhost")]), Some(StatusCode::URI_TOO_LONG));
    }
}
