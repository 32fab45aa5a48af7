//! How pollers reach queues and streams, and the catalogue what functions name: named operations of other services, JSON in and JSON
//! out. Who carries them knows addresses, credentials and HTTP; nothing here does.

use std::time::Duration;

use serde_json::Value;

use crate::queue::Boxed;

/// A service that is polled or asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Queues.
    Sqs,
    /// Streams.
    Kinesis,
    /// Streams of tables.
    DynamoDbStreams,
    /// Subnets and security groups. Its answers are XML: one text, to be read by who asked.
    Ec2,
    /// Topics. Its answers are XML too, and nobody reads them.
    Sns,
    /// Event buses.
    EventBridge,
}

impl Service {
    /// The setting that names its address.
    pub fn setting(self) -> &'static str {
        match self {
            Service::Sqs => "sqs_endpoint",
            Service::Kinesis => "kinesis_endpoint",
            Service::DynamoDbStreams => "dynamodb_streams_endpoint",
            Service::Ec2 => "ec2_endpoint",
            Service::Sns => "sns_endpoint",
            Service::EventBridge => "eventbridge_endpoint",
        }
    }
}

/// Why an operation has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// The service's own word, without what AWS puts before `#`; `None`: it was not reached.
    pub code: Option<String>,
    /// One sentence, for people.
    pub message: String,
}

impl RemoteError {
    /// Whether the service answered with this word.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl std::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{code}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// What carries operations.
pub trait Remote: Send + Sync + 'static {
    /// Whether there is an address for this service.
    fn reaches(&self, service: Service) -> bool;
    /// Does an operation, within this time.
    fn call<'a>(
        &'a self,
        service: Service,
        region: &'a str,
        operation: &'static str,
        input: Value,
        patience: Duration,
    ) -> Boxed<'a, Result<Value, RemoteError>>;
}

/// For nodes that reach nothing: mappings are kept, and nothing is polled.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoRemote;

impl Remote for NoRemote {
    fn reaches(&self, _: Service) -> bool {
        false
    }
    fn call<'a>(
        &'a self,
        service: Service,
        _: &'a str,
        _: &'static str,
        _: Value,
        _: Duration,
    ) -> Boxed<'a, Result<Value, RemoteError>> {
        let message = format!("this server has no {}", service.setting());
        Box::pin(async move { Err(RemoteError { code: None, message }) })
    }
}
