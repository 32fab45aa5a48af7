//! How asynchronous invocations are treated.

use http::Method;
use offshoot_model::FunctionName;
use offshoot_node::catalog::types::{Destinations, EventInvoke};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::shapes::{answer, epoch, with_marker};
use super::{Ask, cut, names, no_content, wrong_method};
use crate::Backend;
use crate::reply::Reply;

/// Most of them in one answer (AWS: 50).
const PAGE: usize = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct EventInvokeShape {
    maximum_retry_attempts: Option<i64>,
    maximum_event_age_in_seconds: Option<i64>,
    destination_config: Option<Destinations>,
}

/// The constraint on where a record goes.
const DESTINATION: &str = r"Member must satisfy regular expression pattern: $|kafka://([^.]([a-zA-Z0-9\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)";

fn is_destination(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match parts[..] {
        [""] => true,
        ["kafka", topic] => topic.len() > 2 && topic.starts_with("//"),
        ["arn", partition, service, region, account, _] => {
            partition.starts_with("aws")
                && word(partition)
                && word(service)
                && (region.is_empty() || names::is_region(region))
                && (account.is_empty() || (account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())))
        }
        _ => false,
    }
}

impl EventInvokeShape {
    fn settings(self) -> Result<EventInvoke, AwsError> {
        if let Some(to) = &self.destination_config {
            for (member, target) in [("onSuccess", &to.on_success), ("onFailure", &to.on_failure)] {
                if let Some(odd) = target.destination.as_deref().filter(|d| !is_destination(d)) {
                    let member = format!("destinationConfig.{member}.destination");
                    return Err(AwsError::constraint(odd, &member, DESTINATION));
                }
            }
        }
        let within = |value: Option<i64>, member: &str, low: i64, high: i64| match value {
            Some(v) if v < low => {
                let text = format!("Member must have value greater than or equal to {low}");
                Err(AwsError::constraint(&v.to_string(), member, &text))
            }
            Some(v) if v > high => {
                let text = format!("Member must have value less than or equal to {high}");
                Err(AwsError::constraint(&v.to_string(), member, &text))
            }
            other => Ok(other.and_then(|v| u32::try_from(v).ok())),
        };
        Ok(EventInvoke {
            maximum_retry_attempts: within(self.maximum_retry_attempts, "maximumRetryAttempts", 0, 2)?,
            maximum_event_age_in_seconds: within(
                self.maximum_event_age_in_seconds,
                "maximumEventAgeInSeconds",
                60,
                21_600,
            )?,
            destination_config: self.destination_config,
            modified_ms: 0,
        })
    }
}

/// `/functions/{name}/event-invoke-config`.
pub(super) async fn one<B: Backend>(mut ask: Ask<'_, B>, method: &Method, segment: &str) -> Result<Reply, AwsError> {
    let (name, qualifier) = ask.function(segment)?;
    match *method {
        Method::GET => {
            let found = ask.catalog().event_invoke(&name, qualifier.as_deref())?;
            Ok(answer(200, &shown(&ask, &name, qualifier.as_deref().unwrap_or("$LATEST"), &found)))
        }
        Method::PUT | Method::POST => {
            let shape: EventInvokeShape = ask.document().await?;
            let settings = shape.settings()?;
            let replace = *method == Method::PUT;
            let made = ask.catalog().put_event_invoke(&name, qualifier.clone(), settings, replace).await?;
            Ok(answer(200, &shown(&ask, &name, qualifier.as_deref().unwrap_or("$LATEST"), &made)))
        }
        Method::DELETE => {
            ask.catalog().delete_event_invoke(&name, qualifier).await?;
            Ok(no_content())
        }
        _ => wrong_method(),
    }
}

/// `/functions/{name}/event-invoke-config/list`.
pub(super) fn list<B: Backend>(ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let limit = ask.max_items(PAGE)?;
    let found = ask.catalog().list_event_invoke(&name, ask.marker().as_ref(), limit + 1)?;
    let (found, next) = cut(found, limit, |(qualifier, _)| qualifier.clone());
    let all: Vec<Value> = found.iter().map(|(q, c)| shown(&ask, &name, q, c)).collect();
    Ok(answer(200, &with_marker(json!({ "FunctionEventInvokeConfigs": all }), next)))
}

fn shown<B: Backend>(ask: &Ask<'_, B>, name: &FunctionName, qualifier: &str, config: &EventInvoke) -> Value {
    let mut out = json!({
        "FunctionArn": ask.place().function(name.as_str(), Some(qualifier)),
        "LastModified": epoch(config.modified_ms),
        "DestinationConfig": config.destination_config.clone().unwrap_or_default(),
    });
    if let Some(attempts) = config.maximum_retry_attempts {
        out["MaximumRetryAttempts"] = json!(attempts);
    }
    if let Some(age) = config.maximum_event_age_in_seconds {
        out["MaximumEventAgeInSeconds"] = json!(age);
    }
    out
}
