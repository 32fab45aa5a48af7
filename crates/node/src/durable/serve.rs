//! What functions ask of their own executions: `CheckpointDurableExecution` and `GetDurableExecutionState`, from JSON to JSON.
//! The same for a function that asks through the listener of its box and for a caller of the API.
//!
//! A function is let in by the channel: the invocation that the execution has under way must be one that its box was sent. A
//! caller of the API is let in by the token alone, which nobody but that invocation was given.

use serde::Deserialize;
use serde_json::{Value, json};

use super::machine::Execution;
use super::tokens::Token;
use super::types::{Operation, Update, seconds};
use super::{Durable, Refused, chain, drive, id_of};

/// The body of a checkpoint, in bytes: one payload of AWS's 6 MB with room for its escapes.
pub const MAX_BODY: usize = 16 << 20;
/// Operations in one answer.
const MAX_ITEMS: usize = 1000;
const DEFAULT_ITEMS: usize = 100;

/// Who asks.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Somebody whom the API has let in.
    Api,
    /// A box to which these calls were sent and that has not answered them.
    Box(Vec<String>),
}

impl Caller {
    fn may(&self, execution: &Execution) -> bool {
        match self {
            Caller::Api => true,
            Caller::Box(calls) => execution.invocation().is_some_and(|id| calls.iter().any(|call| call == id)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Asked {
    checkpoint_token: String,
    #[serde(default)]
    updates: Vec<Update>,
    #[serde(default)]
    client_token: Option<String>,
}

/// The SDKs know this sentence: they end the invocation, and do not fail the execution.
fn stale() -> Refused {
    Refused::Invalid("Invalid checkpoint token".into())
}

/// The execution that this token and this ARN both name.
fn execution_of(arn: &str, token: &str) -> Result<(String, Token), Refused> {
    let id = id_of(arn)?;
    let token = Token::parse(token).ok_or_else(stale)?;
    if token.execution == id { Ok((id, token)) } else { Err(stale()) }
}

impl Durable {
    /// `CheckpointDurableExecution`.
    pub async fn checkpoint(&self, caller: Caller, arn: &str, body: &[u8]) -> Result<Value, Refused> {
        let asked: Asked = serde_json::from_slice(body)
            .map_err(|e| Refused::Invalid(format!("The checkpoint cannot be read: {e}")))?;
        let (id, token) = execution_of(arn, &asked.checkpoint_token)?;
        let (core, arn) = (self.core.clone(), arn.to_owned());
        let done = self.core.change(&id, move |execution, now| {
            if execution.head.arn != arn || !caller.may(execution) {
                return Err(stale());
            }
            if let Some(answer) = execution.answered(&token, asked.client_token.as_deref()) {
                return Ok(answer);
            }
            if !execution.is_current(&token) {
                return Err(stale());
            }
            let possible = |function: &str| chain::possible(&core, function);
            execution.checkpoint(asked.updates, asked.client_token, &possible, now).map_err(Refused::Invalid)
        });
        let done = match done.await {
            Err(Refused::NotFound(_)) => return Err(stale()),
            other => other?,
        };
        for operation in done.chained {
            tokio::spawn(chain::carry_out(self.core.clone(), id.clone(), operation));
        }
        let shown = shown(&id, done.operations.iter().map(AsRef::as_ref));
        Ok(json!({"CheckpointToken": done.token, "NewExecutionState": {"Operations": shown}}))
    }

    /// `GetDurableExecutionState`.
    pub async fn state(
        &self,
        caller: Caller,
        arn: &str,
        token: &str,
        marker: Option<&str>,
        most: Option<usize>,
    ) -> Result<Value, Refused> {
        let (id, token) = execution_of(arn, token)?;
        let marker = marker.filter(|m| !m.is_empty()).map(str::parse::<usize>).transpose();
        let from = marker.map_err(|_| Refused::Invalid("Invalid marker".into()))?.unwrap_or(0);
        let most = most.filter(|n| *n > 0).unwrap_or(DEFAULT_ITEMS).min(MAX_ITEMS);
        let page = self.core.look(&id, move |execution| {
            let current = caller.may(execution) && execution.is_current(&token);
            current.then(|| execution.page(from, most, drive::PAGE_BYTES))
        });
        let page = match page.await {
            Ok(Some(page)) => page,
            Ok(None) | Err(Refused::NotFound(_)) => return Err(stale()),
            Err(other) => return Err(other),
        };
        let mut answer = json!({"Operations": shown(&id, page.operations.iter().map(AsRef::as_ref))});
        if let Some(next) = page.next {
            answer["NextMarker"] = json!(next.to_string());
        }
        Ok(answer)
    }
}

fn shown<'a>(execution: &str, operations: impl Iterator<Item = &'a Operation>) -> Vec<Value> {
    operations.map(|operation| operation.shown(execution, seconds)).collect()
}
