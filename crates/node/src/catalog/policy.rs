//! Resource policies: the statements that let somebody use a function, how they are added, and what they allow.
//!
//! `allows` is a pure function of statements and a request, after
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>: a denial wins, then an
//! allowance, and nothing said is a no. An operator that is not known here makes a statement not match when it allows, and
//! match when it denies: what cannot be judged never opens a door.

use std::sync::Arc;

use offshoot_model::FunctionName;
use serde_json::{Map, Value, json};

use super::functions::parse_number;
use super::types::{Entry, Policy};
use super::{Catalog, Fault, Rule, check_revision, fault, revision_id};

/// Longest policy, in bytes of its JSON (AWS: 20 KB).
pub const MAX_POLICY: usize = 20_480;

/// What somebody wants to do.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// For example `lambda:InvokeFunctionUrl`.
    pub action: &'a str,
    /// The function's ARN, with the qualifier that was used.
    pub resource: &'a str,
    /// The caller's ARN; `None` is anybody.
    pub principal: Option<&'a str>,
    /// Condition keys in lower case, and their values.
    pub context: &'a [(&'a str, &'a str)],
}

/// Whether these statements allow it.
pub fn allows(statements: &[Value], request: &Request<'_>) -> bool {
    let verdict = |effect: &str| {
        let denial = effect == "Deny";
        statements
            .iter()
            .any(|s| s.get("Effect").and_then(Value::as_str) == Some(effect) && applies(s, request, denial))
    };
    !verdict("Deny") && verdict("Allow")
}

fn applies(statement: &Value, request: &Request<'_>, denial: bool) -> bool {
    let matches = |pattern: &str, text: &str| like(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase());
    let principal = statement.get("Principal").map_or(denial, |p| is_principal(p, request.principal));
    let action = match (statement.get("Action"), statement.get("NotAction")) {
        (Some(a), _) => any_text(a, |p| matches(p, request.action)),
        (None, Some(n)) => !any_text(n, |p| matches(p, request.action)),
        (None, None) => denial,
    };
    let resource = match (statement.get("Resource"), statement.get("NotResource")) {
        (Some(r), _) => any_text(r, |p| like(p, request.resource)),
        (None, Some(n)) => !any_text(n, |p| like(p, request.resource)),
        (None, None) => true,
    };
    let conditions = statement.get("Condition").and_then(Value::as_object);
    let condition = conditions.is_none_or(|all| all.iter().all(|(op, keys)| holds(op, keys, request.context, denial)));
    principal && action && resource && condition
}

fn is_principal(principal: &Value, caller: Option<&str>) -> bool {
    let named = |pattern: &str| {
        pattern == "*"
            || caller.is_some_and(|c| {
                let account = c.split(':').nth(4).unwrap_or("");
                pattern == c || pattern == account || pattern == format!("arn:aws:iam::{account}:root")
            })
    };
    match principal {
        Value::String(text) => named(text),
        Value::Object(map) => map.get("AWS").is_some_and(|p| any_text(p, named)),
        _ => false,
    }
}

fn holds(operator: &str, keys: &Value, context: &[(&str, &str)], otherwise: bool) -> bool {
    let Some(keys) = keys.as_object() else { return otherwise };
    keys.iter().all(|(key, wanted)| {
        let key = key.to_ascii_lowercase();
        let actual = context.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let (operator, optional) = match operator.strip_suffix("IfExists") {
            Some(plain) => (plain, true),
            None => (operator, false),
        };
        let test = |judge: &dyn Fn(&str, &str) -> bool| match actual {
            Some(actual) => any_text(wanted, |w| judge(w, actual)),
            None => optional,
        };
        match operator {
            "StringEquals" | "ArnEquals" => test(&|w, a| w == a),
            "StringEqualsIgnoreCase" | "Bool" => test(&|w, a| w.eq_ignore_ascii_case(a)),
            "StringLike" | "ArnLike" => test(&|w, a| like(w, a)),
            "StringNotEquals" | "ArnNotEquals" => actual.is_none_or(|a| !any_text(wanted, |w| w == a)),
            "StringNotLike" | "ArnNotLike" => actual.is_none_or(|a| !any_text(wanted, |w| like(w, a))),
            "Null" => any_text(wanted, |w| w.eq_ignore_ascii_case("true") == actual.is_none()),
            _ => otherwise,
        }
    })
}

/// A text, a boolean or a list of them.
fn any_text(value: &Value, mut judge: impl FnMut(&str) -> bool) -> bool {
    match value {
        Value::String(text) => judge(text),
        Value::Bool(b) => judge(if *b { "true" } else { "false" }),
        Value::Array(all) => all.iter().filter_map(Value::as_str).any(judge),
        _ => false,
    }
}

/// Whether a text fits a pattern with `*` and `?`. Linear in the text for each star.
fn like(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut pi, mut ti, mut star) = (0, 0, None);
    while ti < t.len() {
        if pi < p.len() && (p[pi] == b'?' || (p[pi] == t[ti] && p[pi] != b'*')) {
            (pi, ti) = (pi + 1, ti + 1);
        } else if pi < p.len() && p[pi] == b'*' {
            star = Some((pi, ti));
            pi += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (pi, ti) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|b| *b == b'*')
}

/// What a permission is made of.
#[derive(Debug, Clone, Default)]
pub struct Permission {
    /// The statement's name.
    pub sid: String,
    /// For example `lambda:InvokeFunction`.
    pub action: String,
    /// `*`, an account, an ARN or a service.
    pub principal: String,
    /// `AWS:SourceArn`.
    pub source_arn: Option<String>,
    /// `AWS:SourceAccount`.
    pub source_account: Option<String>,
    /// `lambda:EventSourceToken`.
    pub event_source_token: Option<String>,
    /// `aws:PrincipalOrgID`.
    pub organisation: Option<String>,
    /// `lambda:FunctionUrlAuthType`.
    pub url_auth_type: Option<String>,
    /// `lambda:InvokedViaFunctionUrl`.
    pub via_url: Option<bool>,
}

/// Whether this is the name of one of AWS's services.
fn is_service(principal: &str) -> bool {
    let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let stem = principal.strip_suffix(".amazonaws.com").or_else(|| principal.strip_suffix(".amazonaws.com.cn"));
    let stem =
        stem.or_else(|| principal.strip_suffix(".amazon.com")).or_else(|| principal.strip_suffix(".aws.internal"));
    stem.is_some_and(|stem| stem.split('.').all(label))
}

/// The statement of a permission on a resource, as AWS writes it.
pub fn statement(permission: &Permission, resource: &str) -> Result<Value, Fault> {
    let account = |p: &str| p.len() == 12 && p.bytes().all(|b| b.is_ascii_digit());
    let principal = match permission.principal.as_str() {
        "*" => json!("*"),
        p if account(p) => json!({"AWS": format!("arn:aws:iam::{p}:root")}),
        p if p.starts_with("arn:") && p.split(':').count() >= 6 => json!({ "AWS": p }),
        p if is_service(p) => json!({ "Service": p }),
        _ => {
            let message = "The provided principal was invalid. Please check the principal and try again.";
            return Err(fault(Rule::Invalid, message));
        }
    };
    let mut equals = Map::new();
    let mut put = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            equals.insert(key.to_owned(), Value::from(value.as_str()));
        }
    };
    put("AWS:SourceAccount", &permission.source_account);
    put("lambda:EventSourceToken", &permission.event_source_token);
    put("lambda:FunctionUrlAuthType", &permission.url_auth_type);
    put("aws:PrincipalOrgID", &permission.organisation);
    let mut condition = Map::new();
    if !equals.is_empty() {
        condition.insert("StringEquals".to_owned(), Value::Object(equals));
    }
    if let Some(arn) = &permission.source_arn {
        condition.insert("ArnLike".to_owned(), json!({ "AWS:SourceArn": arn }));
    }
    if let Some(via) = permission.via_url {
        condition.insert("Bool".to_owned(), json!({ "lambda:InvokedViaFunctionUrl": via.to_string() }));
    }
    let mut made = json!({
        "Sid": permission.sid, "Effect": "Allow", "Principal": principal, "Action": permission.action, "Resource": resource,
    });
    if !condition.is_empty() {
        made["Condition"] = Value::Object(condition);
    }
    Ok(made)
}

fn sid_of(statement: &Value) -> &str {
    statement.get("Sid").and_then(Value::as_str).unwrap_or("")
}

/// Adds a statement, whose name must be new.
pub(super) fn add(policy: &mut Policy, statement: Value) -> Result<(), Fault> {
    let sid = sid_of(&statement).to_owned();
    if policy.statements.iter().any(|s| sid_of(s) == sid) {
        let message = format!(
            "The statement id ({sid}) provided already exists. Please provide a new statement id, or remove the existing statement."
        );
        return Err(fault(Rule::Conflict, message));
    }
    policy.statements.push(statement);
    check_length(&policy.statements)
}

fn check_length(statements: &[Value]) -> Result<(), Fault> {
    let length = document_of(statements).len();
    if length <= MAX_POLICY {
        return Ok(());
    }
    Err(fault(
        Rule::PolicyTooLong,
        format!("The final policy size ({length}) is bigger than the limit ({MAX_POLICY})."),
    ))
}

/// Removes a statement by its name.
pub(super) fn remove(policy: &mut Policy, sid: &str) -> Result<(), Fault> {
    if policy.statements.is_empty() {
        return Err(no_policy());
    }
    let before = policy.statements.len();
    policy.statements.retain(|s| sid_of(s) != sid);
    if policy.statements.len() == before {
        return Err(fault(Rule::NotFound, format!("Statement {sid} is not found in resource policy.")));
    }
    Ok(())
}

fn no_policy() -> Fault {
    fault(Rule::NotFound, "No policy is associated with the given resource.")
}

/// A policy document as AWS writes it.
pub fn document_of(statements: &[Value]) -> String {
    // By hand, so that the members come in AWS's order.
    let all: Vec<String> = statements.iter().map(Value::to_string).collect();
    format!("{{\"Version\":\"2012-10-17\",\"Id\":\"default\",\"Statement\":[{}]}}", all.join(","))
}

/// The statements of a document that somebody wrote.
pub fn parse(document: &str) -> Result<Vec<Value>, Fault> {
    let bad = |why: &str| fault(Rule::Invalid, format!("The policy is not valid: {why}"));
    if document.len() > MAX_POLICY {
        return Err(fault(
            Rule::PolicyTooLong,
            format!("The final policy size ({}) is bigger than the limit ({MAX_POLICY}).", document.len()),
        ));
    }
    let value: Value = serde_json::from_str(document).map_err(|e| bad(&e.to_string()))?;
    let statements = match value.get("Statement") {
        Some(Value::Array(all)) => all.clone(),
        Some(one @ Value::Object(_)) => vec![one.clone()],
        _ => return Err(bad("it has no Statement")),
    };
    for statement in &statements {
        let effect = statement.get("Effect").and_then(Value::as_str);
        let has = |a: &str, b: &str| statement.get(a).is_some() || statement.get(b).is_some();
        if !matches!(effect, Some("Allow" | "Deny"))
            || statement.get("Principal").is_none()
            || !has("Action", "NotAction")
        {
            return Err(bad("each statement needs Effect (Allow or Deny), Principal and Action"));
        }
    }
    Ok(statements)
}

impl Catalog {
    /// The key of a qualifier's policy, when the qualifier is something that can have one.
    fn policy_key(&self, name: &FunctionName, entry: &Entry, qualifier: Option<&str>) -> Result<String, Fault> {
        match qualifier {
            None => Ok(String::new()),
            Some("$LATEST") => Err(fault(Rule::Invalid, "We currently do not support adding policies for $LATEST.")),
            Some(q) => match parse_number(q) {
                Some(n) if entry.published.contains_key(&n) => Ok(q.to_owned()),
                None if entry.doc.aliases.contains_key(q) => Ok(q.to_owned()),
                None if !q.contains('$') => Err(self.no_alias(name, q)),
                _ => Err(self.missing(name, Some(q))),
            },
        }
    }

    /// Adds a permission, and answers its statement.
    pub async fn add_permission(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: Option<String>,
        permission: Permission,
        known: Option<String>,
    ) -> Result<Value, Fault> {
        let who = name.clone();
        self.amend(name, move |this, latest, entry| {
            let key = this.policy_key(&who, entry, qualifier.as_deref())?;
            check_revision(known.as_deref(), &this.policy_revision(&who, latest, entry, &key), "GetPolicy")?;
            let made = statement(&permission, &this.place.function(who.as_str(), qualifier.as_deref()))?;
            let generation = entry.doc.generation;
            let policy = entry.doc.policies.entry(key).or_default();
            add(policy, made.clone())?;
            policy.generation += 1;
            policy.since = Some(generation);
            Ok(made)
        })
        .await
    }

    /// Removes a permission by its statement's name.
    pub async fn remove_permission(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: Option<String>,
        sid: String,
        known: Option<String>,
    ) -> Result<(), Fault> {
        let who = name.clone();
        if self.registry.resolve(name).is_none() {
            let arn = self.place.function(name.as_str(), None);
            return Err(fault(Rule::NotFound, format!("No policy found for: {arn}")));
        }
        self.amend(name, move |this, latest, entry| {
            let key = match qualifier.as_deref() {
                Some("$LATEST") | None => String::new(),
                Some(q) => this.policy_key(&who, entry, Some(q))?,
            };
            let revision = this.policy_revision(&who, latest, entry, &key);
            let generation = entry.doc.generation;
            let policy = entry.doc.policies.get_mut(&key).ok_or_else(no_policy)?;
            check_revision(known.as_deref(), &revision, "GetPolicy")?;
            remove(policy, &sid)?;
            policy.generation += 1;
            policy.since = Some(generation);
            Ok(())
        })
        .await
    }

    /// The statements of a policy and its revision.
    pub fn policy(&self, name: &FunctionName, qualifier: Option<&str>) -> Result<(Vec<Value>, String), Fault> {
        let absent = || fault(Rule::NotFound, "The resource you requested does not exist.");
        let latest = self.registry.resolve(name).ok_or_else(absent)?;
        let entry = self.entry(name);
        let key = qualifier.filter(|q| *q != "$LATEST").unwrap_or("");
        let policy = entry.doc.policies.get(key).filter(|p| !p.statements.is_empty()).ok_or_else(absent)?;
        Ok((policy.statements.clone(), self.policy_revision(name, &latest, &entry, key)))
    }

    /// The same as `policy`, without any refusal: what is not there allows nothing.
    pub fn statements(&self, name: &FunctionName, qualifier: Option<&str>) -> Vec<Value> {
        self.policy(name, qualifier).map(|(statements, _)| statements).unwrap_or_default()
    }

    /// Replaces a whole policy; `None` removes it. Answers the new revision.
    pub async fn put_policy(
        self: &Arc<Self>,
        name: &FunctionName,
        qualifier: Option<String>,
        statements: Option<Vec<Value>>,
        known: Option<String>,
    ) -> Result<String, Fault> {
        let who = name.clone();
        self.amend(name, move |this, latest, entry| {
            let key = this.policy_key(&who, entry, qualifier.as_deref())?;
            check_revision(known.as_deref(), &this.policy_revision(&who, latest, entry, &key), "GetResourcePolicy")?;
            let absent = entry.doc.policies.get(&key).is_none_or(|p| p.statements.is_empty());
            let statements = match statements {
                Some(statements) => statements,
                None if absent => return Err(fault(Rule::NotFound, "The resource you requested does not exist.")),
                None => Vec::new(),
            };
            check_length(&statements)?;
            let generation = entry.doc.generation;
            let policy = entry.doc.policies.entry(key.clone()).or_default();
            policy.statements = statements;
            policy.generation += 1;
            policy.since = Some(generation);
            Ok(this.policy_revision(&who, latest, entry, &key))
        })
        .await
    }

    /// A policy's revision is that of what it belongs to.
    fn policy_revision(
        &self,
        name: &FunctionName,
        latest: &crate::registry::Version,
        entry: &Entry,
        key: &str,
    ) -> String {
        if key.is_empty() {
            return self.version_policy_revision(latest, entry);
        }
        if let Some(published) = parse_number(key).and_then(|n| entry.published.get(&n)) {
            return self.version_policy_revision(&published.version, entry);
        }
        match entry.doc.aliases.get(key) {
            Some(alias) => super::aliases::alias_revision(name, key, alias, entry),
            None => revision_id(&[name.as_str(), key]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

    fn ask<'a>(action: &'a str, principal: Option<&'a str>, context: &'a [(&'a str, &'a str)]) -> Request<'a> {
        Request { action, resource: ARN, principal, context }
    }

    #[test]
    fn a_url_for_everybody_needs_its_condition() {
        let permission = Permission {
            sid: "u".into(),
            action: "lambda:InvokeFunctionUrl".into(),
            principal: "*".into(),
            url_auth_type: Some("NONE".into()),
            ..Permission::default()
        };
        let statements = [statement(&permission, ARN).unwrap()];
        let none = [("lambda:functionurlauthtype", "NONE")];
        let iam = [("lambda:functionurlauthtype", "AWS_IAM")];
        assert!(allows(&statements, &ask("lambda:InvokeFunctionUrl", None, &none)));
        assert!(!allows(&statements, &ask("lambda:InvokeFunctionUrl", None, &iam)));
        assert!(!allows(&statements, &ask("lambda:InvokeFunctionUrl", None, &[])));
        assert!(!allows(&statements, &ask("lambda:InvokeFunction", None, &none)));
        assert!(!allows(&[], &ask("lambda:InvokeFunctionUrl", None, &none)));
    }

    #[test]
    fn denials_win_and_what_is_not_understood_never_opens() {
        let allow = json!({"Effect": "Allow", "Principal": "*", "Action": "lambda:*", "Resource": "*"});
        let deny = json!({"Effect": "Deny", "Principal": {"AWS": "111111111111"}, "Action": "lambda:Invoke*"});
        let caller = Some("arn:aws:iam::111111111111:user/x");
        assert!(allows(std::slice::from_ref(&allow), &ask("lambda:InvokeFunction", caller, &[])));
        assert!(!allows(&[allow.clone(), deny.clone()], &ask("lambda:InvokeFunction", caller, &[])));
        assert!(allows(&[allow.clone(), deny], &ask("lambda:InvokeFunction", Some("arn:aws:iam::2:user/y"), &[])));
        let odd = json!({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}});
        let mut allow_odd = allow.clone();
        allow_odd["Condition"] = odd.clone();
        assert!(!allows(&[allow_odd], &ask("lambda:InvokeFunction", None, &[])));
        let deny_odd = json!({"Effect": "Deny", "Principal": "*", "Action": "*", "Condition": odd});
        assert!(!allows(&[allow, deny_odd], &ask("lambda:InvokeFunction", None, &[])));
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*:b*", "a:b:c", true),
            ("", "a", false),
            ("*a*a*a*a*b", &"a".repeat(5000), false),
        ] {
            assert_eq!(like(pattern, text), fits, "{pattern} {text:.20}");
        }
    }

    #[test]
    fn principals_become_what_aws_makes_of_them() {
        let of = |principal: &str| {
            let permission = Permission { principal: principal.into(), ..Permission::default() };
            statement(&permission, ARN).map(|s| s["Principal"].clone())
        };
        assert_eq!(of("*").unwrap(), json!("*"));
        assert_eq!(of("111111111111").unwrap(), json!({"AWS": "arn:aws:iam::111111111111:root"}));
        assert_eq!(of("s3.amazonaws.com").unwrap(), json!({"Service": "s3.amazonaws.com"}));
        assert_eq!(of("arn:aws:iam::1:user/x").unwrap(), json!({"AWS": "arn:aws:iam::1:user/x"}));
        for bad in ["", "invalid", "a b.c", "12345"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
