//! The seam between a request and its signature: finds the key, looks at the clock, reads the body that the signature covers,
//! and remembers what was used. The rules themselves are `sigv4`'s.
//!
//! A body is read here only for requests whose head names a key that exists, and only within the memory set aside for it.

use std::borrow::Cow;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use offshoot_model::{Error, ErrorKind};
use offshoot_node::keys::same;

use crate::Backend;
use crate::auth::{self, Credential};
use crate::connection::Call;
use crate::error::Refusal;
use crate::sigv4::{self, Fault, Head, Signed};

/// Memory for bodies of signed requests that are read before their signature is known to be right, in MiB.
pub(crate) const HELD_MIB: usize = 256;
/// How long a request waits for a part of it.
const HELD_WAIT: Duration = Duration::from_secs(5);

/// Lets a request pass that is signed with a key of this server or carries its token, as the configuration says.
pub(crate) async fn admit<B: Backend>(call: &mut Call<'_, B>) -> Result<Credential, Refusal> {
    let options = &call.state.options;
    if options.sigv4 {
        let head = head(call);
        if let Some(signed) = sigv4::read(&head)? {
            Box::pin(verify(call, &signed)).await?;
            call.signer = Some(signed.key_id);
            return Ok(vec![header::AUTHORIZATION, auth::SESSION]);
        }
    }
    auth::check(options.token.as_deref(), &call.parts.headers)
}

fn head<'a, B>(call: &'a Call<'_, B>) -> Head<'a> {
    let uri = &call.parts.uri;
    Head {
        method: &call.parts.method,
        path: uri.path(),
        query: uri.query().unwrap_or(""),
        headers: &call.parts.headers,
    }
}

async fn verify<B: Backend>(call: &mut Call<'_, B>, signed: &Signed) -> Result<(), Refusal> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    signed.in_time(now_s)?;
    signed.covers(&call.parts.headers)?;
    let keys = call.backend().keys();
    let root = match &signed.token {
        Some(token) => keys.temporary_root(&signed.key_id, token, now_s),
        None => keys.signing_root(&signed.key_id),
    };
    let root = root.ok_or(Fault::UnknownKey)?;
    let fits = |call: &Call<'_, B>, hash: &str| {
        let expected = signed.expected(&head(call), hash, &root);
        if same(&expected, signed.signature.as_bytes()) { Ok(()) } else { Err(Fault::Mismatch) }
    };
    match stated_hash(call, signed)? {
        Some(hash) => {
            fits(call, &hash)?;
            if hash != sigv4::UNSIGNED {
                let body = hold_body(call).await?;
                if sigv4::hash(&body) != *hash {
                    return Err(Fault::Payload.into());
                }
            }
        }
        None => {
            let body = hold_body(call).await?;
            fits(call, &sigv4::hash(&body))?;
        }
    }
    let read = call.parts.method == Method::GET || call.parts.method == Method::HEAD;
    // A presigned address is made to be used more than once; what only reads may be read again.
    if !read && signed.presigned_s.is_none() {
        let mut seen = call.state.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.fresh(&signed.signature, now_s) {
            return Err(Fault::Replayed.into());
        }
    }
    Ok(())
}

/// The payload's hash as the request states it; `None`: it has to be computed.
fn stated_hash<B>(call: &Call<'_, B>, signed: &Signed) -> Result<Option<Cow<'static, str>>, Fault> {
    match call.parts.headers.get("x-amz-content-sha256").map(|v| v.to_str()) {
        Some(Ok(stated)) if stated.starts_with("STREAMING-") => Err(Fault::Streaming),
        Some(Ok(stated)) if stated == sigv4::UNSIGNED || stated.len() == 64 => Ok(Some(stated.to_owned().into())),
        Some(_) => Err(Fault::Incomplete("X-Amz-Content-Sha256 is 64 hexadecimal digits or UNSIGNED-PAYLOAD.")),
        None if signed.presigned_s.is_some() && signed.service == "s3" => Ok(Some(sigv4::UNSIGNED.into())),
        None => Ok(None),
    }
}

/// Reads the body, within this request's share of the memory for such bodies, and leaves it for the route.
pub(crate) async fn hold_body<B: Backend>(call: &mut Call<'_, B>) -> Result<Bytes, Refusal> {
    if let Some(body) = call.kept() {
        return Ok(body);
    }
    let limits = call.backend().limits();
    // An archive travels in base64, inside of a document.
    let largest = limits.request_bytes.max(limits.zipped_bytes / 3 * 4 + (1 << 20));
    let limit = largest.min((HELD_MIB as u64) << 20);
    let announced = call.parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let empty = announced.is_none() && !call.parts.headers.contains_key(header::TRANSFER_ENCODING);
    let size = if empty { 0 } else { announced.unwrap_or(limit).min(limit) };
    let share = u32::try_from(size.div_ceil(1 << 20)).unwrap_or(u32::MAX);
    let held = call.state.held.clone().acquire_many_owned(share);
    let busy = || Error::new(ErrorKind::Throttled, "too many signed requests with large bodies: try again later");
    let held = tokio::time::timeout(HELD_WAIT, held).await.ok().and_then(Result::ok).ok_or_else(busy)?;
    let body = call.collect(limit).await?;
    call.keep(body.clone(), held);
    Ok(body)
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let (code, status, message) = fault.told();
        Refusal::new(StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), code, message).closing()
    }
}
