//! Recursion, runtime management and the account.

use http::Method;
use offshoot_node::catalog::FIRST;
use offshoot_node::catalog::types::RuntimeManagement;
use serde::Deserialize;
use serde_json::json;

use super::error::AwsError;
use super::shapes::{answer, runtime_version};
use super::{Ask, wrong_method};
use crate::Backend;
use crate::reply::Reply;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RecursionShape {
    recursive_loop: Option<String>,
}

/// `/functions/{name}/recursion-config`.
pub(super) async fn recursion<B: Backend>(
    mut ask: Ask<'_, B>,
    method: &Method,
    segment: &str,
) -> Result<Reply, AwsError> {
    let name = ask.function_only(segment)?;
    match *method {
        Method::GET => {}
        Method::PUT => {
            let shape: RecursionShape = ask.document().await?;
            let value = shape.recursive_loop.ok_or_else(|| AwsError::absent("recursiveLoop"))?;
            if !matches!(value.as_str(), "Allow" | "Terminate") {
                let set = "Member must satisfy enum value set: [Terminate, Allow]";
                return Err(AwsError::constraint(&value, "recursiveLoop", set));
            }
            ask.catalog().put_recursion(&name, value).await?;
        }
        _ => return wrong_method(),
    }
    Ok(answer(200, &json!({ "RecursiveLoop": ask.catalog().recursion(&name)? })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RuntimeShape {
    update_runtime_on: Option<String>,
    runtime_version_arn: Option<String>,
}

/// `/functions/{name}/runtime-management-config`.
pub(super) async fn runtime_management<B: Backend>(
    mut ask: Ask<'_, B>,
    method: &Method,
    segment: &str,
) -> Result<Reply, AwsError> {
    let (name, qualifier) = ask.function(segment)?;
    let version = ask.catalog().resolve(&name, qualifier.as_deref(), FIRST)?;
    match *method {
        Method::GET => {}
        Method::PUT => {
            let shape: RuntimeShape = ask.document().await?;
            let value = shape.update_runtime_on.ok_or_else(|| AwsError::absent("updateRuntimeOn"))?;
            if !matches!(value.as_str(), "Auto" | "Manual" | "FunctionUpdate") {
                let set = "Member must satisfy enum value set: [Auto, Manual, FunctionUpdate]";
                return Err(AwsError::constraint(&value, "updateRuntimeOn", set));
            }
            let only = runtime_version(version.config.runtime, ask.place());
            match (value.as_str(), shape.runtime_version_arn.as_deref()) {
                ("Manual", None) => {
                    return Err(AwsError::invalid(
                        "You must provide a RuntimeVersionArn when UpdateRuntimeOn is Manual.",
                    ));
                }
                ("Manual", Some(arn)) if arn != only => {
                    return Err(AwsError::invalid(format!(
                        "This server has one version of {}: {only}",
                        version.config.runtime
                    )));
                }
                _ => {}
            }
            let runtime_version_arn = shape.runtime_version_arn.filter(|_| value == "Manual");
            let management = RuntimeManagement { update_runtime_on: value, runtime_version_arn };
            ask.catalog().put_runtime_management(&name, qualifier.clone(), management).await?;
        }
        _ => return wrong_method(),
    }
    let management = ask.catalog().runtime_management(&name, qualifier.as_deref())?;
    let label = version.label();
    let shown = qualifier.as_deref().or(version.number.map(|_| label.as_str())).unwrap_or("$LATEST");
    Ok(answer(
        200,
        &json!({
            "FunctionArn": ask.place().function(name.as_str(), Some(shown)),
            "UpdateRuntimeOn": management.update_runtime_on,
            "RuntimeVersionArn": management.runtime_version_arn,
        }),
    ))
}

/// `GetAccountSettings`.
pub(super) fn account<B: Backend>(ask: Ask<'_, B>) -> Result<Reply, AwsError> {
    let limits = ask.call.backend().limits();
    let (bytes, functions) = ask.catalog().usage();
    let unreserved = u64::from(limits.concurrency).saturating_sub(ask.catalog().reserved());
    Ok(answer(
        200,
        &json!({
            "AccountLimit": {
                // AWS's quota: this server has none but its disk.
                "TotalCodeSize": 80_530_636_800u64,
                "CodeSizeUnzipped": limits.unzipped_bytes,
                "CodeSizeZipped": limits.zipped_bytes,
                "ConcurrentExecutions": limits.concurrency,
                "UnreservedConcurrentExecutions": unreserved,
            },
            "AccountUsage": {"TotalCodeSize": bytes, "FunctionCount": functions},
        }),
    ))
}
