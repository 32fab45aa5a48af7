//! Reserved and provisioned concurrency.

use http::Method;
use offshoot_model::FunctionName;
use offshoot_node::catalog::ProvisionedView;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::shapes::{answer, stamp};
use super::{Ask, no_content, wrong_method};
use crate::Backend;
use crate::reply::{self, Reply};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ReservedShape {
    reserved_concurrent_executions: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ProvisionedShape {
    provisioned_concurrent_executions: Option<i64>,
}

fn count(value: Option<i64>, member: &str, least: i64) -> Result<u32, AwsError> {
    let value = value.ok_or_else(|| AwsError::absent(member))?;
    u32::try_from(value).ok().filter(|_| value >= least).ok_or_else(|| {
        let text = format!("Member must have value greater than or equal to {least}");
        AwsError::constraint(&value.to_string(), member, &text)
    })
}

/// `/functions/{name}/concurrency`.
pub(super) async fn reserved<B: Backend>(
    mut ask: Ask<'_, B>,
    method: &Method,
    segment: &str,
) -> Result<Reply, AwsError> {
    let name = ask.function_only(segment)?;
    match *method {
        Method::GET => {
            let reserved = ask.catalog().reservation(&name)?;
            let body = reserved.map_or(json!({}), |r| json!({ "ReservedConcurrentExecutions": r }));
            Ok(answer(200, &body))
        }
        Method::PUT => {
            let shape: ReservedShape = ask.document().await?;
            if ask.call.backend().get(&name).is_none() {
                return Err(ask.catalog().missing(&name, Some("$LATEST")).into());
            }
            let wanted = count(shape.reserved_concurrent_executions, "reservedConcurrentExecutions", 0)?;
            ask.catalog().reserve(&name, Some(wanted)).await?;
            Ok(answer(200, &json!({ "ReservedConcurrentExecutions": wanted })))
        }
        Method::DELETE => {
            ask.catalog().reserve(&name, None).await?;
            Ok(no_content())
        }
        _ => wrong_method(),
    }
}

/// `/functions/{name}/provisioned-concurrency`.
pub(super) async fn provisioned<B: Backend>(
    mut ask: Ask<'_, B>,
    method: &Method,
    segment: &str,
) -> Result<Reply, AwsError> {
    let (name, qualifier) = ask.function(segment)?;
    if *method == Method::GET && ask.param("List") == Some("ALL") {
        return list(&ask, &name);
    }
    let qualifier = qualifier.ok_or_else(|| AwsError::absent("qualifier"))?;
    match *method {
        Method::GET => {
            let view = ask.catalog().provisioned(&name, &qualifier)?;
            Ok(answer(200, &shown(&ask, &view)))
        }
        Method::PUT => {
            let shape: ProvisionedShape = ask.document().await?;
            let member = "provisionedConcurrentExecutions";
            let wanted = count(shape.provisioned_concurrent_executions, member, 1)?;
            let made = ask.catalog().provision(&name, qualifier, wanted).await?;
            let body = json!({
                "RequestedProvisionedConcurrentExecutions": made.requested,
                "AvailableProvisionedConcurrentExecutions": 0,
                "AllocatedProvisionedConcurrentExecutions": 0,
                "Status": "IN_PROGRESS",
                "LastModified": stamp(made.modified_ms),
            });
            Ok(reply::json(http::StatusCode::ACCEPTED, &body))
        }
        Method::DELETE => {
            ask.catalog().unprovision(&name, qualifier).await?;
            Ok(no_content())
        }
        _ => wrong_method(),
    }
}

fn list<B: Backend>(ask: &Ask<'_, B>, name: &FunctionName) -> Result<Reply, AwsError> {
    let views = ask.catalog().list_provisioned(name)?;
    let all: Vec<Value> = views
        .iter()
        .map(|view| {
            let mut one = shown(ask, view);
            one["FunctionArn"] = json!(ask.place().function(name.as_str(), Some(&view.qualifier)));
            one
        })
        .collect();
    Ok(answer(200, &json!({ "ProvisionedConcurrencyConfigs": all })))
}

/// Ready is what is there: instances are counted, not promised.
fn shown<B: Backend>(ask: &Ask<'_, B>, view: &ProvisionedView) -> Value {
    let requested = view.config.requested;
    let there = ask.call.backend().instances(&view.version).min(requested);
    json!({
        "RequestedProvisionedConcurrentExecutions": requested,
        "AvailableProvisionedConcurrentExecutions": there,
        "AllocatedProvisionedConcurrentExecutions": there,
        "Status": if there >= requested { "READY" } else { "IN_PROGRESS" },
        "LastModified": stamp(view.config.modified_ms),
    })
}
