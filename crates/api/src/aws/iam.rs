//! The part of IAM that deployments call: roles, with the policies on them. What is written can be read back, and any other
//! name is a role too, which Lambda may take: a function that names a role can be deployed without one being made.
//!
//! Nothing here permits or forbids anything: no policy is evaluated.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use offshoot_model::{Error, ErrorKind};
use offshoot_node::roles::Role;

use super::{Form, fault, invalid_action, need, value, xml, xml_reply};
use crate::Backend;
use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::Reply;
use crate::text;

const NAMESPACE: &str = "https://iam.amazonaws.com/doc/2010-05-08/";
/// What a role that nobody wrote says about who may take it.
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"lambda.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;
/// Tags of one role (AWS: 50).
const MAX_TAGS: usize = 50;

/// Any action of IAM.
pub(super) async fn route<B: Backend>(call: &Call<'_, B>, form: &Form) -> Result<Reply, Refusal> {
    let action = need(form, "Action")?;
    let answer = |inside: &str| Ok(xml_reply(action, NAMESPACE, inside));
    let account = call.backend().catalog().place().account.clone();
    if action == "ListRoles" {
        let roles = call.backend().roles().list();
        let all: String =
            roles.iter().map(|(name, role)| format!("<member>{}</member>", describe(&account, name, role))).collect();
        return answer(&format!("<Roles>{all}</Roles><IsTruncated>false</IsTruncated>"));
    }
    let known = matches!(
        action,
        "GetRole"
            | "CreateRole"
            | "DeleteRole"
            | "UpdateRole"
            | "UpdateRoleDescription"
            | "UpdateAssumeRolePolicy"
            | "TagRole"
            | "UntagRole"
            | "ListRoleTags"
            | "ListRolePolicies"
            | "ListAttachedRolePolicies"
            | "ListInstanceProfilesForRole"
            | "PutRolePolicy"
            | "GetRolePolicy"
            | "DeleteRolePolicy"
            | "AttachRolePolicy"
            | "DetachRolePolicy"
    );
    if !known {
        return Err(invalid_action(format!(
            "IAM's {action} is not supported here: this server keeps roles, and evaluates none"
        )));
    }
    let name = role_name(need(form, "RoleName")?)?.to_owned();
    match action {
        "CreateRole" => {
            let made = new_role(form)?;
            let role = change(call, name.clone(), move |before| match before {
                Some(_) => Err(Error::new(ErrorKind::Conflict, "there is a role of this name")),
                None => Ok((Some(made.clone()), made)),
            });
            let exists = |e: Error| match e.kind {
                ErrorKind::Conflict => {
                    fault(StatusCode::CONFLICT, "EntityAlreadyExists", format!("Role with name {name} already exists."))
                }
                _ => of_store(e),
            };
            let role = role.await.map_err(exists)?;
            answer(&format!("<Role>{}</Role>", describe(&account, &name, &role)))
        }
        "DeleteRole" => {
            change(call, name, |_| Ok((None, ()))).await.map_err(of_store)?;
            answer("")
        }
        "PutRolePolicy"
        | "DeleteRolePolicy"
        | "AttachRolePolicy"
        | "DetachRolePolicy"
        | "TagRole"
        | "UntagRole"
        | "UpdateRole"
        | "UpdateRoleDescription"
        | "UpdateAssumeRolePolicy" => {
            let edit = edit(action, form)?;
            let role = change(call, name.clone(), move |before| {
                let mut role = before.unwrap_or_else(derived);
                edit(&mut role)?;
                Ok((Some(role.clone()), role))
            });
            let role = role.await.map_err(of_store)?;
            if action == "UpdateRoleDescription" {
                return answer(&format!("<Role>{}</Role>", describe(&account, &name, &role)));
            }
            answer("")
        }
        _ => answer(&read(&account, action, form, &name, &call.backend().roles().get(&name).unwrap_or_else(derived))?),
    }
}

fn read(account: &str, action: &str, form: &Form, name: &str, role: &Role) -> Result<String, Refusal> {
    let listed = |what: &str, members: String| format!("<{what}>{members}</{what}><IsTruncated>false</IsTruncated>");
    Ok(match action {
        "GetRole" => format!("<Role>{}</Role>", describe(account, name, role)),
        "ListRolePolicies" => {
            listed("PolicyNames", role.inline.keys().map(|n| format!("<member>{}</member>", xml(n))).collect())
        }
        "ListAttachedRolePolicies" => {
            let member = |arn: &String| {
                let name = arn.rsplit('/').next().unwrap_or_default();
                format!("<member><PolicyName>{}</PolicyName><PolicyArn>{}</PolicyArn></member>", xml(name), xml(arn))
            };
            listed("AttachedPolicies", role.attached.keys().map(member).collect())
        }
        "ListInstanceProfilesForRole" => listed("InstanceProfiles", String::new()),
        "ListRoleTags" => listed("Tags", tags(role)),
        _ => {
            let policy = need(form, "PolicyName")?;
            let missing = || {
                let message = format!("The role policy with name {policy} cannot be found.");
                fault(StatusCode::NOT_FOUND, "NoSuchEntity", message)
            };
            let document = role.inline.get(policy).ok_or_else(missing)?;
            format!(
                "<RoleName>{name}</RoleName><PolicyName>{}</PolicyName><PolicyDocument>{}</PolicyDocument>",
                xml(policy),
                percent_encoded(document)
            )
        }
    })
}

type Edit = Box<dyn FnOnce(&mut Role) -> Result<(), Error> + Send>;

/// A change of a role, read from the form before anything is touched.
fn edit(action: &str, form: &Form) -> Result<Edit, Refusal> {
    let owned = |key: &str| need(form, key).map(str::to_owned);
    Ok(match action {
        "PutRolePolicy" => {
            let (name, document) = (owned("PolicyName")?, document(form, "PolicyDocument")?);
            Box::new(move |role| {
                role.inline.insert(name, document);
                Ok(())
            })
        }
        "DeleteRolePolicy" => {
            let name = owned("PolicyName")?;
            let missing = Error::new(ErrorKind::NotFound, format!("The role policy with name {name} cannot be found."));
            Box::new(move |role| role.inline.remove(&name).map(drop).ok_or(missing))
        }
        "AttachRolePolicy" => {
            let arn = owned("PolicyArn")?;
            Box::new(move |role| {
                role.attached.insert(arn, ());
                Ok(())
            })
        }
        "DetachRolePolicy" => {
            let arn = owned("PolicyArn")?;
            let missing = Error::new(ErrorKind::NotFound, format!("Policy {arn} was not found."));
            Box::new(move |role| role.attached.remove(&arn).ok_or(missing))
        }
        "TagRole" => {
            let tags = given_tags(form);
            Box::new(move |role| {
                role.tags.extend(tags);
                let full = Error::new(ErrorKind::InvalidInput, format!("a role has at most {MAX_TAGS} tags"));
                if role.tags.len() > MAX_TAGS { Err(full) } else { Ok(()) }
            })
        }
        "UntagRole" => {
            let keys: Vec<String> =
                form.iter().filter(|(k, _)| k.starts_with("TagKeys.member.")).map(|(_, v)| v.clone()).collect();
            Box::new(move |role| {
                role.tags.retain(|key, _| !keys.contains(key));
                Ok(())
            })
        }
        "UpdateAssumeRolePolicy" => {
            let document = document(form, "PolicyDocument")?;
            Box::new(move |role| {
                role.trust = document;
                Ok(())
            })
        }
        _ => {
            let (description, session) = (value(form, "Description").map(str::to_owned), session(form)?);
            Box::new(move |role| {
                role.description = description.unwrap_or_else(|| std::mem::take(&mut role.description));
                role.max_session_s = session.unwrap_or(role.max_session_s);
                Ok(())
            })
        }
    })
}

fn new_role(form: &Form) -> Result<Role, Refusal> {
    let path = value(form, "Path").unwrap_or("/");
    let plain = |b: u8| (b'!'..=b'~').contains(&b) && !b"<>&\"".contains(&b);
    if !path.starts_with('/') || !path.ends_with('/') || path.len() > 512 || !path.bytes().all(plain) {
        return Err(fault(StatusCode::BAD_REQUEST, "ValidationError", "Path begins and ends with /"));
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    Ok(Role {
        path: path.to_owned(),
        trust: document(form, "AssumeRolePolicyDocument")?,
        description: value(form, "Description").unwrap_or("").to_owned(),
        max_session_s: session(form)?.unwrap_or(3600),
        created_ms: now_ms,
        tags: given_tags(form).into_iter().take(MAX_TAGS).collect(),
        ..Role::default()
    })
}

/// What a name says of which nothing was written.
fn derived() -> Role {
    Role { path: "/".to_owned(), trust: TRUST.to_owned(), max_session_s: 3600, ..Role::default() }
}

fn session(form: &Form) -> Result<Option<u64>, Refusal> {
    let wrong = || fault(StatusCode::BAD_REQUEST, "ValidationError", "MaxSessionDuration is 3600 to 43200");
    let read = |v: &str| v.parse().ok().filter(|s| (3600..=43_200).contains(s)).ok_or_else(wrong);
    value(form, "MaxSessionDuration").map(read).transpose()
}

/// A policy document: any JSON object.
fn document(form: &Form, key: &str) -> Result<String, Refusal> {
    let given = need(form, key)?;
    match serde_json::from_str::<serde_json::Value>(given) {
        Ok(value) if value.is_object() => Ok(given.to_owned()),
        _ => {
            let message = "This policy contains invalid Json";
            Err(fault(StatusCode::BAD_REQUEST, "MalformedPolicyDocument", message))
        }
    }
}

fn given_tags(form: &Form) -> Vec<(String, String)> {
    let keys = form.iter().filter_map(|(name, key)| {
        let number = name.strip_prefix("Tags.member.")?.strip_suffix(".Key")?;
        let tag = value(form, &format!("Tags.member.{number}.Value")).unwrap_or("");
        Some((key.clone(), tag.to_owned()))
    });
    keys.collect()
}

fn tags(role: &Role) -> String {
    let member = |(key, value): (&String, &String)| {
        format!("<member><Key>{}</Key><Value>{}</Value></member>", xml(key), xml(value))
    };
    role.tags.iter().map(member).collect()
}

fn describe(account: &str, name: &str, role: &Role) -> String {
    format!(
        "<Path>{}</Path><RoleName>{name}</RoleName><RoleId>{}</RoleId><Arn>arn:aws:iam::{account}:role{}{name}</Arn>\
         <CreateDate>{}</CreateDate><AssumeRolePolicyDocument>{}</AssumeRolePolicyDocument><Description>{}</Description>\
         <MaxSessionDuration>{}</MaxSessionDuration><Tags>{}</Tags>",
        xml(&role.path),
        role_id(name),
        xml(&role.path),
        text::rfc3339(role.created_ms),
        percent_encoded(&role.trust),
        xml(&role.description),
        role.max_session_s,
        tags(role),
    )
}

/// A role's id: AWS's form, always the same for a name.
pub(super) fn role_id(name: &str) -> String {
    let digest = crate::sigv4::hash(name.as_bytes()).to_ascii_uppercase();
    format!("AROA{}", &digest[..17])
}

/// The name in a role's ARN.
pub(super) fn role_of_arn(arn: &str) -> Option<&str> {
    let mut parts = arn.splitn(6, ':');
    let fits = parts.next()? == "arn" && parts.next().is_some() && parts.next()? == "iam";
    let name = parts.nth(2)?.strip_prefix("role/")?.rsplit('/').next()?;
    role_name(name).ok().filter(|_| fits)
}

fn role_name(text: &str) -> Result<&str, Refusal> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text);
    }
    Err(fault(StatusCode::BAD_REQUEST, "ValidationError", "RoleName is 1 to 64 of A-Z a-z 0-9 _+=,.@-"))
}

/// Documents travel percent-encoded in IAM's answers (RFC 3986).
fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn change<B: Backend, T: Send + 'static>(
    call: &Call<'_, B>,
    name: String,
    change: impl FnOnce(Option<Role>) -> Result<(Option<Role>, T), Error> + Send + 'static,
) -> Result<T, Error> {
    let state = Arc::clone(call.state);
    let lost = |e| Error::new(ErrorKind::Internal, "a change of a role was lost").caused_by(e);
    tokio::task::spawn_blocking(move || state.backend().roles().change(&name, change)).await.map_err(lost)?
}

fn of_store(error: Error) -> Refusal {
    match error.kind {
        ErrorKind::NotFound => fault(StatusCode::NOT_FOUND, "NoSuchEntity", error.message),
        ErrorKind::InvalidInput => fault(StatusCode::CONFLICT, "LimitExceeded", error.message),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_arns() {
        assert_eq!(role_of_arn("arn:aws:iam::000000000000:role/r"), Some("r"));
        assert_eq!(role_of_arn("arn:aws:iam::000000000000:role/service-role/r-1"), Some("r-1"));
        for bad in [
            "",
            "r",
            "arn:aws:iam::1:user/r",
            "arn:aws:s3::1:role/r",
            "arn:aws:iam::1:role/",
            "arn:aws:iam::1:role/<x>",
        ] {
            assert_eq!(role_of_arn(bad), None, "{bad}");
        }
        assert_eq!(role_id("r").len(), 21);
    }

    #[test]
    fn documents_are_objects() {
        let form = |text: &str| vec![("P".to_owned(), text.to_owned())];
        assert!(document(&form("{}"), "P").is_ok());
        for bad in ["", "[]", "{", "x"] {
            assert!(document(&form(bad), "P").is_err(), "{bad}");
        }
        assert_eq!(percent_encoded("{\"a b\"}"), "%7B%22a%20b%22%7D");
    }
}
