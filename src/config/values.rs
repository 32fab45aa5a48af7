//! What single values look like: each reader takes a text and answers with the value, or with what is wrong with the text.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use offshoot_model::RuntimeName;
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;

use super::types::{Auth, LogFormat, Secret, ServerUrl, WarmRuntimes};
use super::{DEFAULT_PORT, DEGRADABLE};
use crate::cli::units::{nearest, parse_bytes};

/// `ADDR:PORT`, `ADDR`, `:PORT` or `PORT`; `localhost` is 127.0.0.1. Names are not looked up: they may move.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost").map(|rest| format!("127.0.0.1{rest}"));
    let text = local.as_deref().unwrap_or(text);
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok((ip, DEFAULT_PORT).into());
    }
    match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => Err(format!("'{text}' is not an address to listen on: write ADDR:PORT, for example 127.0.0.1:9000")),
    }
}

pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("'{text}' is not a port: write a whole number from 0 (any free one) to 65535"))
}

/// An address with its scheme: a lone word would be taken for a host.
pub(super) fn parse_destination(text: &str) -> Result<ServerUrl, String> {
    if text.contains("://") {
        return ServerUrl::parse(text);
    }
    Err(format!("'{text}' is not a URL: write http://HOST:PORT, perhaps with a path"))
}

pub(super) fn parse_token(text: &str) -> Result<Secret, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Secret(text.to_owned()));
    }
    Err("a token is one word of visible ASCII characters".to_owned())
}

pub(super) fn parse_auth(text: &str) -> Result<Auth, String> {
    let all = [Auth::Usual, Auth::None, Auth::Token, Auth::SigV4];
    let unknown = || format!("'{text}' is not a way of authentication: write usual, none, token or sigv4");
    all.into_iter().find(|auth| auth.name() == text).ok_or_else(unknown)
}

pub(super) fn parse_level(text: &str) -> Result<LevelFilter, String> {
    let levels = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    let wanted = text.to_ascii_lowercase();
    let found = levels.into_iter().find(|level| level.to_string() == wanted);
    found.ok_or_else(|| format!("'{text}' is not a level: write off, error, warn, info, debug or trace"))
}

pub(super) fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("'{text}' is not a log format: write text or json")),
    }
}

pub(super) fn parse_warm(items: &[String]) -> Result<WarmRuntimes, String> {
    match items {
        [one] if one == "used" => Ok(WarmRuntimes::Used),
        [one] if one == "all" => Ok(WarmRuntimes::All),
        [one] if one == "none" => Ok(WarmRuntimes::None),
        [] => Ok(WarmRuntimes::None),
        names => {
            let parsed = names.iter().map(|name| RuntimeName::parse(name).map_err(|e| e.message));
            Ok(WarmRuntimes::Only(parsed.collect::<Result<_, _>>()?))
        }
    }
}

pub(super) fn show_warm(warm: &WarmRuntimes) -> Value {
    match warm {
        WarmRuntimes::Used => json!("used"),
        WarmRuntimes::All => json!("all"),
        WarmRuntimes::None => json!("none"),
        WarmRuntimes::Only(names) => json!(names),
    }
}

pub(super) fn parse_degraded(items: &[String]) -> Result<Vec<String>, String> {
    let unknown = |name: &String| {
        let near = nearest(name, DEGRADABLE.iter().copied()).map(|n| format!("did you mean {n}? ")).unwrap_or_default();
        format!("'{name}' is not a sandbox feature: {near}known are {}", DEGRADABLE.join(", "))
    };
    let check = |name: &String| if DEGRADABLE.contains(&name.as_str()) { Ok(name.clone()) } else { Err(unknown(name)) };
    items.iter().map(check).collect()
}

pub(super) fn parse_uids(text: &str) -> Result<RangeInclusive<u32>, String> {
    let ends = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match ends {
        Some((first, last)) if 1 <= first && first <= last && last < u32::MAX => Ok(first..=last),
        _ => Err(format!("'{text}' is not a range of user ids: write FIRST-LAST, for example 200000-265535")),
    }
}

pub(super) fn parse_mib(text: &str) -> Result<u32, String> {
    u32::try_from(parse_bytes(text, 1 << 20)? >> 20).map_err(|_| format!("'{text}' is more memory than can be counted"))
}
