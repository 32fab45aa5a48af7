//! Code signing configurations and the functions that hold to them.

use http::Method;
use offshoot_model::FunctionName;
use offshoot_node::catalog::{SigningChange, SigningView};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::shapes::{answer, stamp, with_marker};
use super::{Ask, cut, names, no_content, wrong_method};
use crate::Backend;
use crate::reply::Reply;

/// Most of them in one answer.
const PAGE: usize = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Publishers {
    signing_profile_version_arns: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Policies {
    untrusted_artifact_on_deployment: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SigningShape {
    description: Option<String>,
    allowed_publishers: Option<Publishers>,
    code_signing_policies: Option<Policies>,
}

impl SigningShape {
    fn change(self) -> Result<SigningChange, AwsError> {
        let policy = self.code_signing_policies.and_then(|p| p.untrusted_artifact_on_deployment);
        if let Some(odd) = policy.as_deref().filter(|p| !matches!(*p, "Warn" | "Enforce")) {
            let set = "Member must satisfy enum value set: [Warn, Enforce]";
            return Err(AwsError::constraint(odd, "codeSigningPolicies.untrustedArtifactOnDeployment", set));
        }
        let publishers = self.allowed_publishers.map(|p| p.signing_profile_version_arns);
        let shown = |list: &Vec<String>| format!("[{}]", list.join(", "));
        let member = "allowedPublishers.signingProfileVersionArns";
        match &publishers {
            Some(list) if list.is_empty() => {
                let text = "Member must have length greater than or equal to 1";
                return Err(AwsError::constraint(&shown(list), member, text));
            }
            Some(list) if list.len() > 20 => {
                let text = "Member must have length less than or equal to 20";
                return Err(AwsError::constraint(&shown(list), member, text));
            }
            _ => {}
        }
        if let Some(text) = self.description.as_deref().filter(|d| d.chars().count() > 256) {
            return Err(AwsError::constraint(text, "description", "Member must have length less than or equal to 256"));
        }
        Ok(SigningChange { description: self.description, publishers, policy })
    }
}

/// Everything under `/code-signing-configs`; `parts` follow it.
pub(super) async fn route<B: Backend>(mut ask: Ask<'_, B>, method: &Method, parts: &[&str]) -> Result<Reply, AwsError> {
    match (parts, method) {
        ([], &Method::POST) => {
            let shape: SigningShape = ask.document().await?;
            if shape.allowed_publishers.is_none() {
                return Err(AwsError::absent("allowedPublishers"));
            }
            let made = ask.catalog().create_signing(shape.change()?).await?;
            Ok(answer(201, &json!({ "CodeSigningConfig": shown(&ask, &made) })))
        }
        ([], &Method::GET) => list(&ask),
        ([arn], &Method::GET) => {
            let found = ask.catalog().signing(names::signing(arn, ask.place())?)?;
            Ok(answer(200, &json!({ "CodeSigningConfig": shown(&ask, &found) })))
        }
        ([arn], &Method::PUT) => {
            let id = names::signing(arn, ask.place())?.to_owned();
            let shape: SigningShape = ask.document().await?;
            let made = ask.catalog().update_signing(id, shape.change()?).await?;
            Ok(answer(200, &json!({ "CodeSigningConfig": shown(&ask, &made) })))
        }
        ([arn], &Method::DELETE) => {
            let id = names::signing(arn, ask.place())?.to_owned();
            ask.catalog().delete_signing(id).await?;
            Ok(no_content())
        }
        ([arn, "functions"], &Method::GET) => functions(&ask, arn),
        _ => wrong_method(),
    }
}

fn list<B: Backend>(ask: &Ask<'_, B>) -> Result<Reply, AwsError> {
    let limit = ask.max_items(PAGE)?;
    let found = ask.catalog().signings(ask.marker().as_ref(), limit + 1);
    let (found, next) = cut(found, limit, |v| v.id.clone());
    let all: Vec<Value> = found.iter().map(|v| shown(ask, v)).collect();
    Ok(answer(200, &with_marker(json!({ "CodeSigningConfigs": all }), next)))
}

fn functions<B: Backend>(ask: &Ask<'_, B>, arn: &str) -> Result<Reply, AwsError> {
    let id = names::signing(arn, ask.place())?;
    let limit = ask.max_items(PAGE)?;
    ask.catalog().signing(id)?;
    let bad = |_| AwsError::invalid("Invalid Marker");
    let after = ask.marker().map(|m| FunctionName::parse(&m)).transpose().map_err(bad)?;
    let found = ask.catalog().signed_by(id, after.as_ref(), limit + 1);
    let (found, next) = cut(found, limit, |name| name.to_string());
    let all: Vec<String> = found.iter().map(|name| ask.place().function(name.as_str(), None)).collect();
    Ok(answer(200, &with_marker(json!({ "FunctionArns": all }), next)))
}

fn shown<B: Backend>(ask: &Ask<'_, B>, view: &SigningView) -> Value {
    let config = &view.config;
    json!({
        "CodeSigningConfigId": view.id,
        "CodeSigningConfigArn": ask.catalog().signing_arn(&view.id),
        "Description": config.description,
        "AllowedPublishers": {"SigningProfileVersionArns": config.publishers},
        "CodeSigningPolicies": {"UntrustedArtifactOnDeployment": config.policy},
        "LastModified": stamp(config.modified_ms),
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct FunctionShape {
    code_signing_config_arn: Option<String>,
}

/// `/functions/{name}/code-signing-config`. That a function holds to none is an answer, not an error.
pub(super) async fn of_function<B: Backend>(
    mut ask: Ask<'_, B>,
    method: &Method,
    segment: &str,
) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    match *method {
        Method::GET => {
            let found = ask.catalog().function_signing(&name)?.map(|id| ask.catalog().signing_arn(&id));
            // Where there is none, AWS names not even the function (recorded).
            let body =
                found.map_or(json!({}), |arn| json!({"CodeSigningConfigArn": arn, "FunctionName": name.as_str()}));
            Ok(answer(200, &body))
        }
        Method::PUT => {
            let shape: FunctionShape = ask.document().await?;
            let arn = shape.code_signing_config_arn.ok_or_else(|| AwsError::absent("codeSigningConfigArn"))?;
            let id = names::signing(&arn, ask.place())?.to_owned();
            ask.catalog().put_function_signing(&name, Some(id)).await?;
            Ok(answer(200, &json!({"CodeSigningConfigArn": arn, "FunctionName": name.as_str()})))
        }
        Method::DELETE => {
            ask.catalog().put_function_signing(&name, None).await?;
            Ok(no_content())
        }
        _ => wrong_method(),
    }
}
