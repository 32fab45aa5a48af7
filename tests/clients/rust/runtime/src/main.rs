//! A function on AWS's `lambda_runtime`, unmodified: it answers, fails, panics, sleeps or streams, as its event says.

use lambda_runtime::streaming::{Body, channel};
use lambda_runtime::{Error, FunctionResponse, LambdaEvent, MetadataPrelude, StreamResponse, service_fn};
use serde_json::{Value, json};

type Answer = FunctionResponse<Value, Body>;

async fn handle(call: LambdaEvent<Value>) -> Result<Answer, Error> {
    let (event, context) = call.into_parts();
    if event["fail"] == true {
        return Err("asked to".into());
    }
    if event["panic"] == true {
        panic!("asked to panic");
    }
    if let Some(seconds) = event["sleep"].as_f64() {
        tokio::time::sleep(std::time::Duration::from_secs_f64(seconds)).await;
    }
    if let Some(parts) = event["stream"].as_array() {
        return Ok(FunctionResponse::StreamingResponse(stream(parts.clone())));
    }
    Ok(FunctionResponse::BufferedResponse(json!({
        "event": event,
        "id": context.request_id,
        "arn": context.invoked_function_arn,
        "name": context.env_config.function_name,
        "custom": context.client_context.map(|c| c.custom),
        "trace": context.xray_trace_id,
        "deadline": context.deadline,
    })))
}

/// A stream of these texts, behind the head of an HTTP answer.
fn stream(parts: Vec<Value>) -> StreamResponse<Body> {
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        for part in parts {
            let text = part.as_str().unwrap_or_default().to_owned();
            if sender.send_data(text.into()).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let mut head = MetadataPrelude { status_code: 201.try_into().unwrap_or_default(), ..MetadataPrelude::default() };
    if let Ok(value) = "b".parse() {
        head.headers.insert("x-a", value);
    }
    StreamResponse { metadata_prelude: head, stream: body }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(handle)).await
}
