//! What functions ask of their own executions: `CheckpointDurableExecution` and `GetDurableExecutionState`, from JSON to JSON.
//! The same for a function that asks through the listener of its box and for a caller of the API.
//!
//! A function is let in by the channel: the invocation that the execution has under way must be one that its box was sent. A
//! caller of the API is let in by the token alone, which nobody but that invocation was given.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::machine::{Execution, PAGE_BYTES, Page};
use super::tokens::Token;
use super::types::{Operation, Update, seconds};
use super::{Durable, Refused, chain, id_of};

/// The body of a checkpoint, in bytes: one payload of AWS's 6 MB with room for its escapes.
pub const MAX_BODY: usize = 16 << 20;
/// Operations in one answer.
const MAX_ITEMS: usize = 1000;
const DEFAULT_ITEMS: usize = 100;

/// Updates in one checkpoint. AWS's model names no number; its SDKs send 250 at most.
const MAX_UPDATES: usize = 1000;
/// Before a marker that goes on with what has changed, not with all operations.
const CHANGES: char = 'c';

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
    #[serde(default, deserialize_with = "few")]
    updates: Vec<Update>,
    #[serde(default)]
    client_token: Option<String>,
}

/// Reads updates as far as there may be any: a small text can hold very many.
fn few<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Update>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Update>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_UPDATES} updates")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut given: A) -> Result<Vec<Update>, A::Error> {
            let mut updates = Vec::new();
            while let Some(update) = given.next_element()? {
                if updates.len() == MAX_UPDATES {
                    return Err(de::Error::invalid_length(MAX_UPDATES + 1, &self));
                }
                updates.push(update);
            }
            Ok(updates)
        }
    }
    from.deserialize_seq(Few)
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
        let grows = self.core.memory.growth(body.len())?;
        let done = self.core.change(&id, Some(grows), move |execution, now| {
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
        let mut state = json!({"Operations": shown(&id, done.operations.iter().map(AsRef::as_ref))});
        if let Some(next) = done.next {
            state["NextMarker"] = json!(format!("{CHANGES}{next}"));
        }
        let mut answer = json!({"NewExecutionState": state});
        // Without one the SDKs end the invocation.
        if let Some(token) = done.token {
            answer["CheckpointToken"] = json!(token);
        }
        Ok(answer)
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
        let from = marker.map_or(Ok(From::Operation(0)), From::parse)?;
        let most = most.filter(|n| *n > 0).unwrap_or(DEFAULT_ITEMS).min(MAX_ITEMS);
        let page = self.core.look(&id, move |execution| {
            let current = caller.may(execution) && execution.is_current(&token);
            current.then(|| from.page(execution, most))
        });
        let (operations, next) = match page.await {
            Ok(Some(page)) => page,
            Ok(None) | Err(Refused::NotFound(_)) => return Err(stale()),
            Err(other) => return Err(other),
        };
        let mut answer = json!({"Operations": shown(&id, operations.iter().map(AsRef::as_ref))});
        if let Some(next) = next {
            answer["NextMarker"] = json!(next);
        }
        Ok(answer)
    }
}

/// Where a page of an execution's state begins.
enum From {
    /// With this operation.
    Operation(usize),
    /// Behind this change.
    Change(u64),
}

impl From {
    fn parse(marker: &str) -> Result<From, Refused> {
        let bad = |_| Refused::Invalid("Invalid marker".into());
        match marker.strip_prefix(CHANGES) {
            _ if marker.is_empty() => Ok(From::Operation(0)),
            Some(change) => change.parse().map(From::Change).map_err(bad),
            None => marker.parse().map(From::Operation).map_err(bad),
        }
    }

    /// At most so many operations, and the marker of the next page.
    fn page(self, execution: &Execution, most: usize) -> (Vec<Arc<Operation>>, Option<String>) {
        match self {
            From::Operation(from) => {
                let Page { operations, next } = execution.page(from, most, PAGE_BYTES);
                (operations, next.map(|at| at.to_string()))
            }
            From::Change(told) => {
                let (operations, next) = execution.news(told, most, PAGE_BYTES);
                (operations, next.map(|change| format!("{CHANGES}{change}")))
            }
        }
    }
}

fn shown<'a>(execution: &str, operations: impl Iterator<Item = &'a Operation>) -> Vec<Value> {
    operations.map(|operation| operation.shown(execution, seconds)).collect()
}
