//! Resource policies of functions.

use http::Method;
use offshoot_node::catalog::policy::{self as rules, Permission};
use serde::Deserialize;
use serde_json::json;

use super::error::AwsError;
use super::names::{self, Resource};
use super::shapes::answer;
use super::{Ask, no_content, wrong_method};
use crate::Backend;
use crate::reply::Reply;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PermissionShape {
    pub statement_id: Option<String>,
    pub action: Option<String>,
    pub principal: Option<String>,
    source_arn: Option<String>,
    source_account: Option<String>,
    event_source_token: Option<String>,
    #[serde(rename = "PrincipalOrgID")]
    organisation: Option<String>,
    function_url_auth_type: Option<String>,
    invoked_via_function_url: Option<bool>,
    revision_id: Option<String>,
    /// Of layers.
    pub organization_id: Option<String>,
}

impl PermissionShape {
    pub(super) fn sid(&self) -> Result<String, AwsError> {
        let sid = self.statement_id.as_deref().ok_or_else(|| AwsError::absent("statementId"))?;
        let plain = !sid.is_empty() && sid.len() <= 100;
        if plain && sid.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            return Ok(sid.to_owned());
        }
        let pattern = "Member must satisfy regular expression pattern: ([a-zA-Z0-9-_]+)";
        Err(AwsError::constraint(sid, "statementId", pattern))
    }

    fn permission(self) -> Result<Permission, AwsError> {
        let sid = self.sid()?;
        let action = self.action.ok_or_else(|| AwsError::absent("action"))?;
        let plain = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphabetic() || b == b'*');
        if action != "*" && !action.strip_prefix("lambda:").is_some_and(plain) {
            let pattern = "Member must satisfy regular expression pattern: (lambda:[*]|lambda:[a-zA-Z]+|[*])";
            return Err(AwsError::constraint(&action, "action", pattern));
        }
        if let Some(auth) = self.function_url_auth_type.as_deref().filter(|a| !matches!(*a, "NONE" | "AWS_IAM")) {
            let set = "Member must satisfy enum value set: [NONE, AWS_IAM]";
            return Err(AwsError::constraint(auth, "functionUrlAuthType", set));
        }
        Ok(Permission {
            sid,
            action,
            principal: self.principal.ok_or_else(|| AwsError::absent("principal"))?,
            source_arn: self.source_arn,
            source_account: self.source_account,
            event_source_token: self.event_source_token,
            organisation: self.organisation,
            url_auth_type: self.function_url_auth_type,
            via_url: self.invoked_via_function_url,
        })
    }
}

/// `/functions/{name}/policy`.
pub(super) async fn collection<B: Backend>(
    mut ask: Ask<'_, B>,
    method: &Method,
    segment: &str,
) -> Result<Reply, AwsError> {
    let (name, qualifier) = ask.function(segment)?;
    match *method {
        Method::GET => {
            let (statements, revision) = ask.catalog().policy(&name, qualifier.as_deref())?;
            Ok(answer(200, &json!({"Policy": rules::document_of(&statements), "RevisionId": revision})))
        }
        Method::POST => {
            let shape: PermissionShape = ask.document().await?;
            let known = shape.revision_id.clone();
            let permission = shape.permission()?;
            let made = ask.catalog().add_permission(&name, qualifier, permission, known).await?;
            Ok(answer(201, &json!({ "Statement": made.to_string() })))
        }
        _ => wrong_method(),
    }
}

/// `RemovePermission`.
pub(super) async fn remove<B: Backend>(ask: Ask<'_, B>, segment: &str, sid: &str) -> Result<Reply, AwsError> {
    let (name, qualifier) = ask.function(segment)?;
    let known = ask.param("RevisionId").map(str::to_owned);
    ask.catalog().remove_permission(&name, qualifier, sid.to_owned(), known).await?;
    Ok(no_content())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PolicyShape {
    policy: Option<String>,
    revision_id: Option<String>,
}

/// `/resource-policy/{arn}`: the whole policy at once.
pub(super) async fn resource<B: Backend>(mut ask: Ask<'_, B>, method: &Method, arn: &str) -> Result<Reply, AwsError> {
    let Resource::Function(name, qualifier) = names::resource(arn, ask.place())? else {
        return Err(AwsError::invalid("Only functions have a resource policy."));
    };
    match *method {
        Method::GET => {
            let (statements, revision) = ask.catalog().policy(&name, qualifier.as_deref())?;
            Ok(answer(200, &json!({"Policy": rules::document_of(&statements), "RevisionId": revision})))
        }
        Method::PUT => {
            let shape: PolicyShape = ask.document().await?;
            let text = shape.policy.ok_or_else(|| AwsError::absent("policy"))?;
            let statements = rules::parse(&text)?;
            let revision =
                ask.catalog().put_policy(&name, qualifier, Some(statements.clone()), shape.revision_id).await?;
            Ok(answer(200, &json!({"Policy": rules::document_of(&statements), "RevisionId": revision})))
        }
        Method::DELETE => {
            let known = ask.param("RevisionId").map(str::to_owned);
            ask.catalog().put_policy(&name, qualifier, None, known).await?;
            Ok(no_content())
        }
        _ => wrong_method(),
    }
}
