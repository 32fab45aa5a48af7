//! The part of STS that tools call before anything else: who am I, and temporary keys.
//!
//! Roles are not evaluated: a temporary key may what any key of this server may, for its time.

use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use offshoot_node::keys::TemporaryKey;

use super::{Form, fault, invalid_action, need, value, xml, xml_reply};
use crate::Backend;
use crate::connection::Call;
use crate::error::Refusal;
use crate::reply::Reply;
use crate::text;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Any action of STS.
pub(super) fn route<B: Backend>(call: &Call<'_, B>, form: &Form) -> Result<Reply, Refusal> {
    match need(form, "Action")? {
        "GetCallerIdentity" => Ok(caller(account(call))),
        "AssumeRole" => assume_role(call, form),
        "GetSessionToken" => session_token(call, form),
        action => Err(invalid_action(format!("STS's {} is not supported here", xml(action)))),
    }
}

/// The account that everything here belongs to.
fn account<'a, B: Backend>(call: &'a Call<'_, B>) -> &'a str {
    &call.backend().catalog().place().account
}

fn caller(account: &str) -> Reply {
    let inside =
        format!("<Arn>arn:aws:iam::{account}:root</Arn><UserId>{account}</UserId><Account>{account}</Account>");
    xml_reply("GetCallerIdentity", NAMESPACE, &inside)
}

fn assume_role<B: Backend>(call: &Call<'_, B>, form: &Form) -> Result<Reply, Refusal> {
    let (arn, session) = (need(form, "RoleArn")?, need(form, "RoleSessionName")?);
    let name = super::iam::role_of_arn(arn)
        .ok_or_else(|| fault(StatusCode::BAD_REQUEST, "ValidationError", "RoleArn is not the ARN of a role"))?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    if !(2..=64).contains(&session.len()) || !session.bytes().all(plain) {
        return Err(fault(
            StatusCode::BAD_REQUEST,
            "ValidationError",
            "RoleSessionName is 2 to 64 of A-Z a-z 0-9 _+=,.@-",
        ));
    }
    let key = temporary(call, form, 3600)?;
    let id = super::iam::role_id(name);
    let account = account(call);
    let inside = format!(
        "<AssumedRoleUser><Arn>arn:aws:sts::{account}:assumed-role/{name}/{session}</Arn><AssumedRoleId>{id}:{session}</AssumedRoleId></AssumedRoleUser>{}",
        credentials(&key)
    );
    Ok(xml_reply("AssumeRole", NAMESPACE, &inside))
}

fn session_token<B: Backend>(call: &Call<'_, B>, form: &Form) -> Result<Reply, Refusal> {
    let key = temporary(call, form, 43_200)?;
    Ok(xml_reply("GetSessionToken", NAMESPACE, &credentials(&key)))
}

fn temporary<B: Backend>(call: &Call<'_, B>, form: &Form, usual_s: u64) -> Result<TemporaryKey, Refusal> {
    let wrong = || fault(StatusCode::BAD_REQUEST, "ValidationError", "DurationSeconds is a whole number");
    let lasts = value(form, "DurationSeconds").map(|v| v.parse().map_err(|_| wrong())).transpose()?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let made = call.backend().keys().make_temporary(lasts.unwrap_or(usual_s), now_s);
    made.map_err(|e| match e.kind {
        offshoot_model::ErrorKind::InvalidInput => fault(StatusCode::BAD_REQUEST, "ValidationError", e.message),
        _ => e.into(),
    })
}

fn credentials(key: &TemporaryKey) -> String {
    let expires = text::rfc3339(key.expires_s.saturating_mul(1000));
    format!(
        "<Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{expires}</Expiration></Credentials>",
        key.key.access_key_id, key.key.secret_access_key, key.session_token
    )
}
