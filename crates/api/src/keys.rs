//! Access keys over HTTP: made, listed, removed. Only whoever has the server's token may; a key cannot make keys.
//!
//! A secret is in one answer, the one that makes its key, and in no log.

use http::{HeaderValue, Method, StatusCode, header};
use offshoot_model::{Error, ErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::{self, Reply};
use crate::{Backend, text};

/// Where the routes start.
pub(crate) const PATH: &str = "/v1/keys";
const MAX_DOCUMENT: u64 = 4 << 10;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    note: String,
}

/// Any route of the keys; `rest` is what follows their name.
pub(crate) async fn route<B: Backend>(call: Call<'_, B>, rest: &str) -> Result<Reply, Refusal> {
    if call.signer.is_some() {
        let message = "keys are made and removed with the server's token, not with another key";
        return Err(Error::new(ErrorKind::Denied, message).into());
    }
    let method = call.parts.method.clone();
    let read = method == Method::GET || method == Method::HEAD;
    match rest.strip_prefix('/') {
        None if read => Ok(list(&call)),
        None if method == Method::POST => make(call).await,
        None => Err(Refusal::method("GET, HEAD, POST")),
        Some(id) if method == Method::DELETE && !id.contains('/') => remove(&call, id.to_owned()).await,
        Some(_) => Err(Refusal::method("DELETE")),
    }
}

fn list<B: Backend>(call: &Call<'_, B>) -> Reply {
    let shown = |key: offshoot_node::keys::AccessKey| json!({"accessKeyId": key.access_key_id, "note": key.note, "createdAt": text::rfc3339(key.created_ms)});
    let keys: Vec<Value> = call.backend().keys().list().into_iter().map(shown).collect();
    reply::json(StatusCode::OK, &json!({"count": keys.len(), "keys": keys}))
}

async fn make<B: Backend>(mut call: Call<'_, B>) -> Result<Reply, Refusal> {
    let document = call.collect(MAX_DOCUMENT).await?;
    let wanted: Wanted = if document.is_empty() {
        Wanted::default()
    } else {
        serde_json::from_slice(&document)
            .map_err(|_| Refusal::bad(r#"a key is made with {"note": "what it is for"}"#))?
    };
    let state = Arc::clone(call.state);
    let made = blocking(move || state.backend().keys().make(&wanted.note)).await?;
    let mut made = serde_json::to_value(&made).map_err(|e| Error::new(ErrorKind::Internal, "a key").caused_by(e))?;
    made["signaturesChecked"] = call.state.checks_signatures().into();
    let mut reply = reply::json(StatusCode::CREATED, &made);
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

async fn remove<B: Backend>(call: &Call<'_, B>, id: String) -> Result<Reply, Refusal> {
    let state = Arc::clone(call.state);
    match blocking(move || state.backend().keys().remove(&id)).await? {
        true => Ok(reply::empty(StatusCode::NO_CONTENT)),
        false => Err(Error::new(ErrorKind::NotFound, "there is no key with this id").into()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let lost = |e| Error::new(ErrorKind::Internal, "a change of the keys was lost").caused_by(e);
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}
