//! The verbs that people and tools use to manage functions, the same under both dialects: deploy, configure, delete, list,
//! show, logs.
//!
//! An upload goes to a file as it comes, never into memory, and the file is gone afterwards whatever happened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use offshoot_model::{Error, ErrorKind, FunctionName};
use offshoot_node::observe::{Followed, LogEntry, LogQuery};
use offshoot_node::{DeployRequest, Load, Version};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};

use crate::body::ReplyBody;
use crate::connection::{Call, drained};
use crate::error::Refusal;
use crate::multipart::{self, Multipart, Source};
use crate::reply::{self, Reply};
use crate::{Backend, ids, settings, text};

/// Glambdar's field for the name.
const NAME_FIELD: &str = "funcName";
/// What a form may hold besides the settings.
const OTHER_FIELDS: &[&str] = &[NAME_FIELD, "file"];
/// Bytes of one text field.
const MAX_FIELD: usize = 64 << 10;
/// Bytes of a form besides the archive.
const FORM_ROOM: u64 = 1 << 20;
/// Bytes of a configuration document.
const MAX_CONFIG: u64 = 256 << 10;
/// Pieces of a followed log that may wait for a slow reader.
const FOLLOW_AHEAD: usize = 64;

const NDJSON: &str = "application/x-ndjson";

/// Makes or replaces a function from a form.
pub(crate) async fn deploy<B: Backend>(mut call: Call<'_, B>) -> Result<Reply, Refusal> {
    let content_type = call.parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let Some(boundary) = multipart::boundary(content_type) else { return Err(missing_file()) };
    let limit = call.backend().limits().zipped_bytes;
    let inflow = call.inflow(limit.saturating_add(FORM_ROOM))?;
    let form = Form::read(Multipart::new(inflow, &boundary), call.backend().tmp_dir(), limit).await?;
    let Some((archive, filename)) = form.archive else { return Err(missing_file()) };
    let name = name_of(&form.fields, filename.as_deref())?;
    let settings = settings::from_form(&form.fields, OTHER_FIELDS)?;
    let request = DeployRequest { archive: archive.0.clone(), name, settings };
    let load = loads(call.parts.uri.query().unwrap_or(""))?;
    let deployed = call.backend().deploy(request, load).await?;
    let mut receipt = receipt(&deployed.version, "deployed");
    if load != Load::No {
        receipt["loaded"] = deployed.loaded.into();
    }
    if let Some(warning) = deployed.warning {
        receipt["warning"] = warning.into();
    }
    Ok(reply::json(StatusCode::CREATED, &receipt))
}

/// Whether the function is to be loaded before its deployment is answered.
fn loads(query: &str) -> Result<Load, Refusal> {
    match query.split('&').find_map(|pair| pair.strip_prefix("load=")) {
        None | Some("0") => Ok(Load::No),
        Some("1") => Ok(Load::Tried),
        Some("required") => Ok(Load::Required),
        Some(_) => Err(Refusal::bad(
            "load is 0, 1 or required: whether the function is loaded before the answer, and deployed only if that goes well",
        )),
    }
}

fn missing_file() -> Refusal {
    Refusal::bad("missing zip file")
}

/// `funcName`, or the archive's file name without its extension.
fn name_of(fields: &[(String, String)], filename: Option<&str>) -> Result<FunctionName, Refusal> {
    if let Some((_, name)) = fields.iter().find(|(field, _)| field == NAME_FIELD) {
        return Ok(FunctionName::parse(name)?);
    }
    let filename = filename.unwrap_or("");
    let stem = filename.rsplit_once('.').map_or(filename, |(stem, _)| stem);
    Ok(FunctionName::parse(stem)?)
}

/// A file that is removed when this is dropped.
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(error = %e, "an upload could not be removed");
        }
    }
}

/// A form as it was read: its texts, and its file on disk.
#[derive(Default)]
struct Form {
    fields: Vec<(String, String)>,
    archive: Option<(Spool, Option<String>)>,
}

impl Form {
    async fn read<S: Source>(mut parts: Multipart<S>, dir: &Path, limit: u64) -> Result<Form, Refusal> {
        let mut form = Form::default();
        while let Some(part) = parts.next().await? {
            let known = form.fields.iter().any(|(name, _)| *name == part.name);
            if known || (part.name == "file" && form.archive.is_some()) {
                let shown: String = part.name.chars().take(40).flat_map(char::escape_default).collect();
                return Err(Refusal::bad(format!("the field '{shown}' appears twice")).closing());
            }
            if part.name == "file" {
                form.archive = Some((spool(&mut parts, dir, limit).await?, part.filename));
            } else {
                form.fields.push((part.name, field(&mut parts).await?));
            }
        }
        Ok(form)
    }
}

async fn field<S: Source>(parts: &mut Multipart<S>) -> Result<String, Refusal> {
    let mut value = Vec::new();
    while let Some(bytes) = parts.chunk().await? {
        if value.len() + bytes.len() > MAX_FIELD {
            return Err(Refusal::bad(format!("a field of the form is larger than {MAX_FIELD} bytes")).closing());
        }
        value.extend_from_slice(&bytes);
    }
    String::from_utf8(value).map_err(|_| Refusal::bad("a field of the form is not UTF-8").closing())
}

/// Writes the present part to a new file.
async fn spool<S: Source>(parts: &mut Multipart<S>, dir: &Path, limit: u64) -> Result<Spool, Refusal> {
    let failed = |e: std::io::Error| Error::new(ErrorKind::Store, "the upload cannot be stored").caused_by(e);
    let name: String = ids::random()?.iter().map(|b| format!("{b:02x}")).collect();
    let path = dir.join(format!("upload-{name}.zip"));
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&path).await.map_err(failed)?;
    let spool = Spool(path);
    let mut size = 0u64;
    while let Some(bytes) = parts.chunk().await? {
        size += bytes.len() as u64;
        if size > limit {
            let message = format!("the archive is larger than {limit} bytes");
            return Err(Refusal::from(Error::new(ErrorKind::TooLarge, message)).closing());
        }
        file.write_all(&bytes).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(spool)
}

/// Changes settings from a JSON document.
pub(crate) async fn configure<B: Backend>(mut call: Call<'_, B>, name: FunctionName) -> Result<Reply, Refusal> {
    let document = call.collect(MAX_CONFIG).await?;
    let settings = settings::from_json(&document)?;
    let changed = call.backend().configure(&name, settings).await?;
    let mut shown = describe(&changed.version);
    if let Some(warning) = changed.warning {
        shown.insert("warning".into(), warning.into());
    }
    Ok(reply::json(StatusCode::OK, &shown))
}

/// Deletes a function.
pub(crate) async fn delete<B: Backend>(call: &Call<'_, B>, name: &FunctionName) -> Result<Reply, Refusal> {
    call.backend().delete(name).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Every function.
pub(crate) fn list<B: Backend>(call: &Call<'_, B>) -> Reply {
    let functions: Vec<_> = call.backend().list().iter().map(|version| describe(version)).collect();
    reply::json(StatusCode::OK, &json!({"count": functions.len(), "functions": functions}))
}

/// One function.
pub(crate) fn show<B: Backend>(call: &Call<'_, B>, name: &FunctionName) -> Result<Reply, Refusal> {
    let version = call.backend().get(name).ok_or_else(Refusal::unknown_function)?;
    Ok(reply::json(StatusCode::OK, &describe(&version)))
}

fn receipt(version: &Version, status: &str) -> Value {
    json!({
        "function": version.config.name,
        "status": status,
        "revision": version.revision,
        "runtime": version.config.runtime,
        "handler": version.config.handler,
        "codeSha256": version.code,
        "codeBytes": version.code_bytes,
    })
}

/// A function as `/info` shows it: its configuration, and what the node knows of it.
fn describe(version: &Version) -> Map<String, Value> {
    let mut meta = match serde_json::to_value(&version.config) {
        Ok(Value::Object(config)) => config,
        _ => Map::new(),
    };
    let last = version.stats.last_invoked_ms.load(Ordering::Relaxed);
    meta.insert("revision".into(), version.revision.into());
    meta.insert("codeSha256".into(), version.code.as_str().into());
    meta.insert("codeBytes".into(), version.code_bytes.into());
    meta.insert("createdAt".into(), text::rfc3339(version.created_ms).into());
    meta.insert("updatedAt".into(), text::rfc3339(version.updated_ms).into());
    meta.insert("lastInvokedAt".into(), if last == 0 { Value::Null } else { text::rfc3339(last).into() });
    meta.insert("invokeCount".into(), version.stats.invocations.load(Ordering::Relaxed).into());
    meta
}

/// The log of a function, as one document or line by line, once or for as long as the caller listens.
pub(crate) async fn logs<B: Backend>(call: &Call<'_, B>, name: FunctionName) -> Result<Reply, Refusal> {
    let (query, follow) = log_query(call.parts.uri.query().unwrap_or(""))?;
    if call.backend().get(&name).is_none() {
        return Err(Refusal::unknown_function());
    }
    let accept = call.parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let by_line = follow || accept.contains(NDJSON);
    let (state, of, wanted) = (Arc::clone(call.state), name.clone(), query.clone());
    let read = move || -> Result<_, Refusal> {
        let store = state.backend().logs();
        if follow {
            let (lines, followed) = store.read_and_follow(&of, &wanted);
            return Ok((encode(lines, by_line), Some(followed)));
        }
        let lines = store.read(&of, &wanted);
        if let Some(part) = &wanted.request_id {
            fits_one(part, &lines)?;
        }
        Ok((encode(lines, by_line), None))
    };
    let broken = |e| Error::new(ErrorKind::Internal, "the log could not be read").caused_by(e);
    let (lines, followed) = tokio::task::spawn_blocking(read).await.map_err(broken)??;
    if !by_line {
        let body = [b"{\"function\":\"", name.as_str().as_bytes(), b"\",\"logs\":[", &lines, b"]}"].concat();
        return Ok(reply::raw_json(StatusCode::OK, body.into()));
    }
    let Some(followed) = followed else {
        return Ok(reply::bytes(StatusCode::OK, HeaderValue::from_static(NDJSON), lines.into()));
    };
    let (sender, receiver) = mpsc::channel(FOLLOW_AHEAD);
    tokio::spawn(relay(lines, followed, query, sender, call.state.draining.subscribe()));
    let mut reply = Response::new(ReplyBody::stream(receiver));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(reply)
}

/// Whether the beginning of an id means one invocation: lines of several would read as if they were one's.
fn fits_one(part: &str, lines: &[LogEntry]) -> Result<(), Refusal> {
    let ids: BTreeSet<&str> = lines.iter().filter_map(|line| line.request_id.as_deref()).collect();
    if ids.len() <= 1 {
        return Ok(());
    }
    let some: Vec<&str> = ids.iter().take(3).copied().collect();
    let more = if ids.len() > some.len() { ", …" } else { "" };
    Err(Refusal::bad(format!(
        "{} invocations have an id that begins with {part}: {}{more}",
        ids.len(),
        some.join(", ")
    )))
}

/// Lines, or the elements of an array.
fn encode(lines: Vec<LogEntry>, by_line: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.len() * 160);
    for line in &lines {
        line.encode(&mut out);
        if let (false, Some(end)) = (by_line, out.last_mut()) {
            *end = b',';
        }
    }
    if !by_line {
        out.pop();
    }
    out
}

/// Sends what was there and then what comes, until the caller goes, the function is deleted or the server drains.
async fn relay(
    lines: Vec<u8>,
    mut followed: Followed,
    query: LogQuery,
    sender: mpsc::Sender<Bytes>,
    mut draining: watch::Receiver<bool>,
) {
    let mut next = Bytes::from(lines);
    loop {
        if !next.is_empty() && sender.send(next).await.is_err() {
            return;
        }
        let entry = tokio::select! {
            entry = followed.recv() => entry,
            () = sender.closed() => return,
            () = drained(&mut draining) => return,
        };
        let mut out = Vec::new();
        match entry {
            Ok(entry) if wanted(&entry, &query) => entry.encode(&mut out),
            Ok(_) => {}
            Err(RecvError::Lagged(n)) => {
                let text = format!("[{n} log lines are missing here: this reader was too slow]");
                LogEntry::platform(now_ms(), None, text).encode(&mut out);
            }
            Err(RecvError::Closed) => return,
        }
        next = Bytes::from(out);
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn wanted(entry: &LogEntry, query: &LogQuery) -> bool {
    query.since_ms.is_none_or(|since| entry.time_ms >= since)
        && query.request_id.as_deref().is_none_or(|id| entry.request_id.as_deref().is_some_and(|of| of.starts_with(id)))
}

fn log_query(query: &str) -> Result<(LogQuery, bool), Refusal> {
    let (mut wanted, mut follow) = (LogQuery::default(), false);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = || Refusal::bad(format!("{key} must be a whole number"));
        match key {
            "since" => wanted.since_ms = Some(value.parse().map_err(|_| number())?),
            "limit" => wanted.limit = Some(value.parse().map_err(|_| number())?),
            "requestId" if value.is_empty() => {
                return Err(Refusal::bad("requestId is an invocation's id, or its beginning"));
            }
            "requestId" => wanted.request_id = Some(value.to_owned()),
            "follow" => follow = !matches!(value, "0" | "false"),
            _ => return Err(Refusal::bad("a log is asked for with since, requestId, limit and follow")),
        }
    }
    Ok((wanted, follow))
}
