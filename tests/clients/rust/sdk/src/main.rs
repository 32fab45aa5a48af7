//! Drives a server with `aws-sdk-lambda` as people do: `sdk URL RUNTIME ZIP`. Each function is one story; the first that does not
//! come out ends the program with what it saw.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_lambda::client::Waiters;
use aws_sdk_lambda::config::{Credentials, Region, retry::RetryConfig};
use aws_sdk_lambda::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvokeWithResponseStreamResponseEvent as Frame;
use aws_sdk_lambda::types::{
    AliasRoutingConfiguration, Environment, FunctionCode, FunctionUrlAuthType, InvocationType, LogType, Runtime, State,
};
use aws_sdk_lambda::{Client, operation::invoke::InvokeOutput};
use serde_json::{Value, json};

type Done = Result<(), Box<dyn StdError>>;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:";
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, and what functions are made of.
struct Story {
    client: Client,
    runtime: Runtime,
    zip: Vec<u8>,
}

impl Story {
    async fn create(&self, name: &str, publish: bool) -> Done {
        let environment = Environment::builder().variables("A", "1").build();
        let code = FunctionCode::builder().zip_file(Blob::new(self.zip.clone())).build();
        let create = self.client.create_function().function_name(name).runtime(self.runtime.clone());
        let create = create.role("arn:aws:iam::000000000000:role/r").handler("index.handler").code(code);
        let made = create.environment(environment).publish(publish).send().await?;
        assert_eq!(made.state(), Some(&State::Pending), "{made:?}");
        self.client.wait_until_function_active_v2().function_name(name).wait(PATIENCE).await?;
        Ok(())
    }

    async fn call(
        &self,
        name: &str,
        qualifier: Option<&str>,
        event: Value,
    ) -> Result<(InvokeOutput, Value), Box<dyn StdError>> {
        let payload = Blob::new(event.to_string());
        let call =
            self.client.invoke().function_name(name).set_qualifier(qualifier.map(str::to_owned)).payload(payload);
        let answer = call.log_type(LogType::Tail).send().await?;
        let body = serde_json::from_slice(answer.payload().map_or(b"", |p| p.as_ref()))?;
        Ok((answer, body))
    }

    async fn life(&self) -> Done {
        self.create("life", false).await?;
        let (answer, seen) = self.call("life", None, json!({"x": [1, "é"]})).await?;
        assert_eq!(
            (answer.status_code(), answer.executed_version(), answer.function_error()),
            (200, Some("$LATEST"), None)
        );
        assert!(answer.log_result().is_some());
        assert_eq!(
            (&seen["event"], &seen["A"], &seen["arn"]),
            (&json!({"x": [1, "é"]}), &json!("1"), &json!(format!("{ARN}life")))
        );
        let (answer, said) = self.call("life", None, json!({"fail": true})).await?;
        assert_eq!((answer.function_error(), &said["errorType"]), (Some("Unhandled"), &json!("RangeError")));
        let dry = self.client.invoke().function_name("life").invocation_type(InvocationType::DryRun).send().await?;
        assert_eq!(dry.status_code(), 204);
        let later = self.client.invoke().function_name("life").invocation_type(InvocationType::Event).send().await?;
        assert_eq!((later.status_code(), later.payload().map_or(0, |p| p.as_ref().len())), (202, 0));
        let environment = Environment::builder().variables("A", "2").build();
        self.client.update_function_configuration().function_name("life").environment(environment).send().await?;
        self.client.wait_until_function_updated_v2().function_name("life").wait(PATIENCE).await?;
        assert_eq!(self.call("life", None, json!({})).await?.1["A"], "2");
        self.client.delete_function().function_name("life").send().await?;
        let gone = self.client.get_function().function_name("life").send().await.expect_err("it is deleted");
        assert_eq!(gone.code(), Some("ResourceNotFoundException"), "{gone:?}");
        assert!(gone.into_service_error().is_resource_not_found_exception());
        Ok(())
    }

    async fn versions(&self) -> Done {
        self.create("versions", true).await?;
        let environment = Environment::builder().variables("A", "2").build();
        self.client.update_function_configuration().function_name("versions").environment(environment).send().await?;
        self.client.wait_until_function_updated_v2().function_name("versions").wait(PATIENCE).await?;
        let second = self.client.publish_version().function_name("versions").send().await?;
        assert_eq!(second.version(), Some("2"));
        let pages = self.client.list_versions_by_function().function_name("versions").into_paginator().page_size(1);
        let mut pages = pages.items().send();
        let mut listed = Vec::new();
        while let Some(version) = pages.next().await {
            listed.push(version?.version().unwrap_or_default().to_owned());
        }
        assert_eq!(listed, ["$LATEST", "1", "2"]);
        let weights = AliasRoutingConfiguration::builder().additional_version_weights("2", 0.5).build();
        let alias = self.client.create_alias().function_name("versions").name("live").function_version("1");
        alias.routing_config(weights).send().await?;
        let mut picked = [false, false];
        for _ in 0..40 {
            match self.call("versions", Some("live"), json!({})).await?.0.executed_version() {
                Some("1") => picked[0] = true,
                Some("2") => picked[1] = true,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(picked, [true, true]);
        Ok(())
    }

    async fn streams(&self) -> Done {
        self.create("streams", false).await?;
        for (event, code) in [(json!({"big": "x".repeat(200_000)}), None), (json!({"fail": true}), Some("RangeError"))]
        {
            let call = self.client.invoke_with_response_stream().function_name("streams");
            let mut answer = call.payload(Blob::new(event.to_string())).send().await?;
            let (mut body, mut end) = (Vec::new(), None);
            while let Some(frame) = answer.event_stream.recv().await? {
                match frame {
                    Frame::PayloadChunk(chunk) => body.extend_from_slice(chunk.payload().map_or(b"", |p| p.as_ref())),
                    Frame::InvokeComplete(complete) => end = Some(complete),
                    other => panic!("{other:?}"),
                }
            }
            let end = end.ok_or("the stream has no end")?;
            assert_eq!(end.error_code(), code, "{end:?}");
            if code.is_none() {
                assert_eq!(serde_json::from_slice::<Value>(&body)?["event"], event);
            }
        }
        Ok(())
    }

    async fn urls(&self) -> Done {
        self.create("web", false).await?;
        let url = self.client.create_function_url_config().function_name("web").auth_type(FunctionUrlAuthType::None);
        let url = url.send().await?;
        assert!(url.function_url().contains(".lambda-url.us-east-1."), "{url:?}");
        let again = self.client.create_function_url_config().function_name("web").auth_type(FunctionUrlAuthType::None);
        let refused = again.send().await.expect_err("it has one").into_service_error();
        assert!(refused.is_resource_conflict_exception(), "{refused:?}");
        self.client.delete_function_url_config().function_name("web").send().await?;
        Ok(())
    }

    async fn limits(&self) -> Done {
        self.create("limits", false).await?;
        self.client.put_function_concurrency().function_name("limits").reserved_concurrent_executions(0).send().await?;
        let refused = self.client.invoke().function_name("limits").send().await.expect_err("nothing may run");
        assert!(refused.into_service_error().is_too_many_requests_exception());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, runtime, zip] = &arguments[..] else { panic!("usage: sdk URL RUNTIME ZIP") };
    let config = aws_sdk_lambda::Config::builder()
        .behavior_version_latest()
        .endpoint_url(url)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("any", "any", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    let zip = std::fs::read(zip).expect("the archive");
    let story = Story { client: Client::from_conf(config.build()), runtime: Runtime::from(runtime.as_str()), zip };
    let told: [(&str, Done); 5] = [
        ("life", story.life().await),
        ("versions", story.versions().await),
        ("streams", story.streams().await),
        ("urls", story.urls().await),
        ("limits", story.limits().await),
    ];
    for (name, done) in told {
        match done {
            Ok(()) => println!("ok {name}"),
            Err(e) => {
                eprintln!("{name}: {}", DisplayErrorContext(&*e));
                std::process::exit(1);
            }
        }
    }
}
