//! The configuration of function URLs. Requests to them are served in `function_url`.

use http::Method;
use offshoot_node::catalog::types::Cors;
use offshoot_node::catalog::{UrlChange, UrlView};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::AwsError;
use super::shapes::{answer, with_marker};
use super::{Ask, cut, no_content, wrong_method};
use crate::Backend;
use crate::reply::Reply;
use crate::{function_url, text};

/// Most URLs in one answer (AWS: 50).
const PAGE: usize = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UrlShape {
    auth_type: Option<String>,
    cors: Option<Cors>,
    invoke_mode: Option<String>,
}

impl UrlShape {
    fn check(&self) -> Result<(), AwsError> {
        if let Some(auth) = self.auth_type.as_deref().filter(|a| !matches!(*a, "NONE" | "AWS_IAM")) {
            let set = "Member must satisfy enum value set: [NONE, AWS_IAM]";
            return Err(AwsError::constraint(auth, "authType", set));
        }
        if let Some(mode) = self.invoke_mode.as_deref().filter(|m| !matches!(*m, "BUFFERED" | "RESPONSE_STREAM")) {
            let set = "Member must satisfy enum value set: [RESPONSE_STREAM, BUFFERED]";
            return Err(AwsError::constraint(mode, "invokeMode", set));
        }
        let Some(cors) = &self.cors else { return Ok(()) };
        if let Some(age) = cors.max_age.filter(|a| *a > 86_400) {
            let text = "Member must have value less than or equal to 86400";
            return Err(AwsError::constraint(&age.to_string(), "cors.maxAge", text));
        }
        let lists = [&cors.allow_headers, &cors.allow_methods, &cors.allow_origins, &cors.expose_headers];
        let odd = |v: &String| v.is_empty() || v.len() > 1024 || !v.bytes().all(|b| matches!(b, b'!'..=b'~'));
        if lists.iter().any(|l| l.len() > 100 || l.iter().any(odd)) {
            return Err(AwsError::invalid("A CORS setting has at most 100 values of visible ASCII characters."));
        }
        Ok(())
    }
}

/// A URL belongs to a function or to an alias of it, never to a version.
fn qualifier<B: Backend>(ask: &Ask<'_, B>, given: Option<String>) -> Result<Option<String>, AwsError> {
    let asked = ask.qualifier().map(str::to_owned).or(given);
    if let Some(q) = asked.as_deref().filter(|q| q.contains('$') || q.bytes().all(|b| b.is_ascii_digit())) {
        let pattern = r"Member must satisfy regular expression pattern: ((?!^\d+$)^[0-9a-zA-Z-_]+$)";
        return Err(AwsError::constraint(q, "qualifier", pattern));
    }
    Ok(asked)
}

/// `/functions/{name}/url`.
pub(super) async fn one<B: Backend>(mut ask: Ask<'_, B>, method: &Method, segment: &str) -> Result<Reply, AwsError> {
    let (name, given) = ask.function(segment)?;
    let qualifier = qualifier(&ask, given)?;
    match *method {
        Method::GET => {
            let view = ask.catalog().url(&name, qualifier.as_deref())?;
            Ok(answer(200, &shown(&ask, &view, true)))
        }
        Method::POST => {
            let shape: UrlShape = ask.document().await?;
            shape.check()?;
            let auth = shape.auth_type.clone().ok_or_else(|| AwsError::absent("authType"))?;
            let change = UrlChange { auth_type: None, cors: shape.cors, invoke_mode: shape.invoke_mode };
            let view = ask.catalog().create_url(&name, qualifier, auth, change).await?;
            let mut body = shown(&ask, &view, false);
            if let Value::Object(map) = &mut body {
                map.remove("LastModifiedTime");
            }
            Ok(answer(201, &body))
        }
        Method::PUT => {
            let shape: UrlShape = ask.document().await?;
            shape.check()?;
            let change = UrlChange { auth_type: shape.auth_type, cors: shape.cors, invoke_mode: shape.invoke_mode };
            let view = ask.catalog().update_url(&name, qualifier, change).await?;
            Ok(answer(200, &shown(&ask, &view, false)))
        }
        Method::DELETE => {
            ask.catalog().delete_url(&name, qualifier).await?;
            Ok(no_content())
        }
        _ => wrong_method(),
    }
}

/// `/functions/{name}/urls`.
pub(super) fn list<B: Backend>(ask: Ask<'_, B>, segment: &str) -> Result<Reply, AwsError> {
    let name = ask.unqualified(segment)?;
    let limit = ask.max_items(PAGE)?;
    let marker = ask.marker().map(|m| if m == "-" { String::new() } else { m });
    let found = ask.catalog().list_urls(&name, marker.as_ref(), limit + 1)?;
    let (found, next) = cut(found, limit, |v: &UrlView| v.qualifier.clone().unwrap_or_else(|| "-".to_owned()));
    let all: Vec<Value> = found.iter().map(|v| shown(&ask, v, true)).collect();
    Ok(answer(200, &with_marker(json!({ "FunctionUrlConfigs": all }), next)))
}

/// `mode`: whether the mode is shown when nobody has set it, as some of AWS's operations do.
fn shown<B: Backend>(ask: &Ask<'_, B>, view: &UrlView, mode: bool) -> Value {
    let config = &view.config;
    let host = ask.base();
    let mut out = json!({
        "FunctionUrl": function_url::address(&config.id, &ask.place().region, host.trim_start_matches("http://")),
        "FunctionArn": ask.place().function(view.name.as_str(), view.qualifier.as_deref()),
        "AuthType": config.auth_type,
        "CreationTime": text::rfc3339(config.created_ms),
        "LastModifiedTime": text::rfc3339(config.modified_ms),
    });
    if let Some(cors) = &config.cors {
        out["Cors"] = json!(cors);
    }
    match &config.invoke_mode {
        Some(set) => out["InvokeMode"] = json!(set),
        None if mode => out["InvokeMode"] = json!("BUFFERED"),
        None => {}
    }
    out
}
