//! What a signature costs: one request as boto3 signs it, read and checked with its body's hash, on one core.

mod common;

use common::{Report, Res, Verdict, median, percentile, quick, us};
use http::{HeaderMap, HeaderValue, Method};
use offshoot_api::sigv4::{self, Head};
use offshoot_node::keys::{same, signing_root};
use std::process::ExitCode;
use std::time::Instant;

/// Checks per sample: a clock is too coarse for one.
const EACH: u32 = 100;

fn main() -> ExitCode {
    common::run("sigv4", bench)
}

fn bench(report: &mut Report) -> Res<()> {
    for (name, size) in [("sigv4.invoke-1k", 1 << 10), ("sigv4.invoke-64k", 64 << 10)] {
        let body = vec![b'x'; size];
        let mut headers = HeaderMap::new();
        let scope = "AKIDEXAMPLEKEYOFTWENTY/20261120/us-east-1/lambda/aws4_request";
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date;x-amz-invocation-type, Signature={}",
            "0".repeat(64)
        );
        headers.insert("authorization", HeaderValue::from_str(&value)?);
        headers.insert("host", HeaderValue::from_static("127.0.0.1:9000"));
        headers.insert("x-amz-date", HeaderValue::from_static("20261120T120000Z"));
        headers.insert("x-amz-invocation-type", HeaderValue::from_static("Event"));
        let (path, query) =
            ("/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A0%3Afunction%3Af/invocations", "Qualifier=live");
        let head = Head { method: &Method::POST, path, query, headers: &headers };
        let root = signing_root("a secret of forty characters, as AWS has");
        let mut samples = Vec::new();
        for _ in 0..if quick() { 50 } else { 500 } {
            let began = Instant::now();
            for _ in 0..EACH {
                let signed = sigv4::read(&head).ok().flatten().ok_or("the request is not read")?;
                signed.covers(&headers).map_err(|e| format!("{e:?}"))?;
                let right = signed.expected(&head, &sigv4::hash(&body), &root);
                if same(&right, signed.signature.as_bytes()) {
                    return Err("a signature of zeros is right".into());
                }
            }
            samples.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(EACH));
        }
        let middle = median(&mut samples);
        let verdict = if size == 1 << 10 { Verdict::of(middle < 50.0) } else { Verdict::Info };
        let promise = if size == 1 << 10 { "< 50 us" } else { "" };
        report.row(
            name,
            us(middle),
            format!("its p99: {}", us(percentile(&mut samples, 0.99))),
            None,
            promise,
            verdict,
        );
    }
    Ok(())
}
