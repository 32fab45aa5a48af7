//! Whether the queue or the stream that a new mapping names is there. AWS asks before it makes a mapping, and so does this: a name with a
//! slip is refused at once instead of being polled in vain. A source that cannot be asked is not said to be missing.

use std::time::Duration;

use serde_json::json;

use super::plan::Source;
use super::{Remote, Service};

/// How long a source may take to answer; longer, and the mapping is made.
const PATIENCE: Duration = Duration::from_secs(5);

/// AWS's words (recorded) for a source that says that it is not there.
pub(crate) async fn missing(remote: Option<&dyn Remote>, arn: &str) -> Option<String> {
    let (remote, source) = (remote?, Source::parse(arn)?);
    if !remote.reaches(source.service) {
        return None;
    }
    let (operation, input) = match source.service {
        Service::Sqs => ("GetQueueUrl", json!({"QueueName": source.name, "QueueOwnerAWSAccountId": source.account})),
        Service::Kinesis => ("ListShards", json!({"StreamName": source.name, "MaxResults": 1})),
        Service::DynamoDbStreams => ("DescribeStream", json!({"StreamArn": source.arn, "Limit": 1})),
        Service::Ec2 | Service::Sns | Service::EventBridge => return None, // are no sources
    };
    let error = remote.call(source.service, &source.region, operation, input, PATIENCE).await.err()?;
    match source.service {
        // The second is the word of SQS's older protocol, which some servers keep.
        Service::Sqs if error.is("QueueDoesNotExist") || error.is("AWS.SimpleQueueService.NonExistentQueue") => Some(
            "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. SQS Error Message: The specified queue does not exist.".to_owned(),
        ),
        Service::Kinesis | Service::DynamoDbStreams if error.is("ResourceNotFoundException") => {
            Some(format!("Stream not found: {arn}"))
        }
        _ => None,
    }
}
