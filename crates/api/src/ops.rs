//! What machines ask a server: whether it lives, whether it takes work, and its numbers.

use http::{HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::Backend;
use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::{self, Reply};

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The health routes, which need no token; `None` for any other path.
pub(crate) fn open<B: Backend>(path: &str, call: &Call<'_, B>) -> Result<Option<Reply>, Refusal> {
    let reply = match path {
        "/health" | "/healthz" => reply::json(StatusCode::OK, &json!({"status": "ok"})),
        "/readyz" if call.backend().ready() => reply::json(StatusCode::OK, &json!({"status": "ready"})),
        "/readyz" => reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "not ready"})),
        _ => return Ok(None),
    };
    only_read(&call.parts.method)?;
    Ok(Some(reply))
}

/// `/metrics`.
pub(crate) fn metrics<B: Backend>(call: &Call<'_, B>) -> Result<Reply, Refusal> {
    only_read(&call.parts.method)?;
    Ok(reply::bytes(StatusCode::OK, OPENMETRICS, call.backend().metrics().render().into()))
}

fn only_read(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Refusal::method("GET, HEAD")),
    }
}
