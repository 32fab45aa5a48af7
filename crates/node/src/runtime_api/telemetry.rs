//! The Telemetry API 2022-07-01 and the Logs API 2020-08-15 that it replaced, as AWS's emulator answers where there is no
//! telemetry: accepted with a sentence, which extensions survive. And the metadata endpoint.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;

use super::Environment;
use super::http::{Reply, error, not_allowed, not_found, text, with_type};

/// What a function may know of where it runs.
const METADATA: &str = "/2026-01-15/metadata/execution-environment";

/// Answers what is neither the Runtime API nor the Extensions API.
pub async fn route(environment: &Arc<Environment>, path: &str, request: Request<Incoming>) -> Reply {
    match (path, request.method()) {
        ("/2022-07-01/telemetry", &Method::PUT) => {
            error(StatusCode::ACCEPTED, "Telemetry.NotSupported", "Telemetry API is not supported")
        }
        ("/2020-08-15/logs", &Method::PUT) => {
            error(StatusCode::ACCEPTED, "Logs.NotSupported", "Logs API is not supported")
        }
        (METADATA, &Method::GET) => metadata(environment, &request),
        (METADATA, _) => text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
        ("/2022-07-01/telemetry" | "/2020-08-15/logs", _) => not_allowed(),
        _ => not_found(),
    }
}

fn metadata(environment: &Arc<Environment>, request: &Request<Incoming>) -> Reply {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
    if given != Some(environment.metadata_token().as_bytes()) {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let mut reply =
        with_type(StatusCode::OK, "application/json", Bytes::from_static(b"{\"AvailabilityZoneID\":\"use1-az1\"}"));
    let cache = HeaderValue::from_static("private, max-age=43200, immutable");
    reply.headers_mut().insert(header::CACHE_CONTROL, cache);
    reply
}
