//! Code that lies in S3: fetched from the one server that the operator named, without credentials, as a stream into a file.
//!
//! It asks no other host, whatever a request says, and follows no redirect.

use std::time::Duration;

use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use offshoot_model::xml;
use tokio::net::TcpStream;

use super::Ask;
use super::error::AwsError;
use super::upload::{Incoming, Spool};
use crate::Backend;

/// How long the whole may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an error document that are read.
const MAX_ERROR: usize = 64 << 10;

/// The archive at this place.
pub(super) async fn fetch<B: Backend>(
    ask: &Ask<'_, B>,
    bucket: &str,
    key: &str,
    version: Option<&str>,
) -> Result<Spool, AwsError> {
    let Some(endpoint) = ask.call.state.s3_endpoint() else {
        return Err(AwsError::invalid(
            "This server fetches no code from S3: send the archive itself as ZipFile (--zip-file fileb://code.zip), or start the server with --s3-endpoint HOST:PORT",
        ));
    };
    let path = target(bucket, key, version)?;
    // What comes from S3 may be as large as what it holds (AWS: 250 MB); what is uploaded directly may not.
    let limits = ask.call.backend().limits();
    let most = limits.zipped_bytes.max(limits.unzipped_bytes);
    let into = Incoming::new(ask.call.backend().tmp_dir(), most.saturating_add(1));
    match tokio::time::timeout(PATIENCE, get(endpoint, &path, into, most)).await {
        Ok(done) => done,
        Err(_) => Err(failed("RequestTimeout", "The server did not answer in time.")),
    }
}

/// The path of an object, with every byte encoded that is not plain.
fn target(bucket: &str, key: &str, version: Option<&str>) -> Result<String, AwsError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) || bucket.contains("..") {
        return Err(failed("InvalidBucketName", "The specified bucket is not valid."));
    }
    if key.is_empty() || key.len() > 1024 || key.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(failed("NoSuchKey", "The specified key does not exist."));
    }
    let encode = |text: &str, slash: bool| {
        text.bytes().fold(String::new(), |mut out, b| {
            if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (slash && b == b'/') {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
            out
        })
    };
    let version = version.map(|v| format!("?versionId={}", encode(v, false))).unwrap_or_default();
    Ok(format!("/{bucket}/{}{version}", encode(key, true)))
}

/// AWS's sentence.
fn failed(code: &str, message: &str) -> AwsError {
    AwsError::invalid(format!("Error occurred while GetObject. S3 Error Code: {code}. S3 Error Message: {message}"))
}

async fn get(endpoint: &str, path: &str, mut into: Incoming, most: u64) -> Result<Spool, AwsError> {
    let unreachable = |e: &dyn std::fmt::Display| {
        tracing::warn!(error = %e, "the S3 endpoint cannot be used");
        failed("ServiceUnavailable", "The server that this Offshoot asks for S3 cannot be reached.")
    };
    let stream = TcpStream::connect(endpoint).await.map_err(|e| unreachable(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
    // Ends when `sender` is dropped.
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, endpoint).body(Empty::<bytes::Bytes>::new());
    let request = request.map_err(|e| unreachable(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| unreachable(&e))?;
    if answer.status() != 200 {
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), MAX_ERROR).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&body).into_owned();
        let code = xml::element(&text, "Code").unwrap_or_else(|| status.to_string());
        let message = xml::element(&text, "Message").unwrap_or_else(|| "The object cannot be read.".to_owned());
        return Err(failed(&code, &message));
    }
    let mut body = answer.into_body();
    let mut taken = 0u64;
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(|e| unreachable(&e))?.into_data() {
            taken = taken.saturating_add(piece.len() as u64);
            if taken >= most {
                return Err(AwsError::invalid(format!("Unzipped size must be smaller than {most} bytes")));
            }
            into.take(&piece).await?;
        }
    }
    into.finish().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_asked_for_by_an_encoded_path() {
        assert_eq!(target("bucket", "a b/c?d#é", Some("v=1")).unwrap(), "/bucket/a%20b/c%3Fd%23%C3%A9?versionId=v%3D1");
        for (bucket, key) in
            [("b", "k"), ("a/b", "k"), ("..x", "k"), ("bucket", ""), ("bucket", "a/../b"), ("Bucket\r", "k")]
        {
            assert!(target(bucket, key, None).is_err(), "{bucket} {key}");
        }
    }
}
