//! Links to archives: `Code.Location` of a function and `Content.Location` of a layer lead to this server and return the
//! archive byte for byte, for ten minutes, to whoever holds the link.
//!
//! A link is signed with a secret of this process (HMAC-SHA256, RFC 2104), so that it needs no token and none can be made up.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use offshoot_model::CodeDigest;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::error::AwsError;
use super::{Ask, query_of};
use crate::Backend;
use crate::body::ReplyBody;
use crate::connection::Call;
use crate::reply::Reply;

/// Where archives are.
pub(crate) const PREFIX: &str = "/archives/";
/// How long a link is good, in seconds (as AWS's).
const LIFETIME: u64 = 600;
/// Bytes of an archive that are read at once, and pieces that may wait for a slow reader.
const PIECE: usize = 64 << 10;
const AHEAD: usize = 4;

/// A link to the archive of this code.
pub(super) fn of<B: Backend>(ask: &Ask<'_, B>, code: &CodeDigest) -> Result<Option<String>, AwsError> {
    if ask.catalog().archive(code).is_none() {
        return Ok(None);
    }
    let expires = now() + LIFETIME;
    let signature = sign(ask.call.state.secret()?, code.as_str(), expires);
    Ok(Some(format!("{}{PREFIX}{code}?expires={expires}&signature={signature}", ask.base())))
}

/// Serves an archive to whoever holds a link to it.
pub(crate) async fn serve<B: Backend>(call: Call<'_, B>) -> Reply {
    match find(&call) {
        Ok(path) => match stream(path).await {
            Ok(answer) => answer,
            Err(error) => error.into_reply(),
        },
        Err(error) => error.into_reply(),
    }
}

fn find<B: Backend>(call: &Call<'_, B>) -> Result<std::path::PathBuf, AwsError> {
    if call.parts.method != Method::GET {
        return super::wrong_method();
    }
    let denied = || AwsError::new(403, "AccessDeniedException", "This link is not valid, or not any more.");
    let name = call.parts.uri.path().strip_prefix(PREFIX).unwrap_or("");
    let digest = CodeDigest::try_from(name.to_owned()).map_err(|_| denied())?;
    let query = query_of(call.parts.uri.query().unwrap_or("")).ok_or_else(denied)?;
    let given = |key: &str| query.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
    let expires: u64 = given("expires").parse().map_err(|_| denied())?;
    let wanted = sign(call.state.secret()?, digest.as_str(), expires);
    if expires < now() || !same(given("signature").as_bytes(), wanted.as_bytes()) {
        return Err(denied());
    }
    let gone = || AwsError::not_found("This archive is not here any more.");
    call.backend().catalog().archive(&digest).ok_or_else(gone)
}

async fn stream(path: std::path::PathBuf) -> Result<Reply, AwsError> {
    let gone = |_| AwsError::not_found("This archive is not here any more.");
    let mut file = tokio::fs::File::open(path).await.map_err(gone)?;
    let size = file.metadata().await.map_err(gone)?.len();
    let (send, pieces) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut buffer = vec![0; PIECE];
        while let Ok(n) = file.read(&mut buffer).await {
            // A reader that has gone ends this.
            if n == 0 || send.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                return;
            }
        }
    });
    let mut answer = http::Response::new(ReplyBody::stream(pieces));
    *answer.status_mut() = StatusCode::OK;
    let headers = answer.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(size));
    Ok(answer)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn sign(secret: &[u8; 32], digest: &str, expires: u64) -> String {
    hmac(secret, format!("{digest} {expires}").as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// RFC 2104 with SHA-256.
fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| -> [u8; 64] { std::array::from_fn(|i| key.get(i).copied().unwrap_or(0) ^ with) };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// Equality in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hmac_sha256() {
        // RFC 4231, test case 2, with its key filled up with zeros as HMAC does by itself.
        let mut key = [0u8; 32];
        key[..4].copy_from_slice(b"Jefe");
        let shown: String = hmac(&key, b"what do ya want for nothing?").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(shown, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
