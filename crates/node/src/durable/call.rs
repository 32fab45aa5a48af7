//! A call of a durable function as any other call: an execution is begun and waited for, and its end is the outcome.

use std::time::Instant;

use bytes::Bytes;
use offshoot_model::invocation::FailureCause;
use offshoot_model::{Answer, Error, FunctionError, Invocation, Outcome, Phases, Report, RuntimeName, StartKind};

use super::{Durable, Refused, Start, Started, Status};

impl Start {
    /// What an invocation begins.
    pub fn of(invocation: Invocation<Bytes>, name: Option<String>) -> Self {
        let context = invocation.context.map(|c| *c).unwrap_or_default();
        Start {
            function: invocation.function,
            qualifier: context.qualifier,
            name,
            input: invocation.payload,
            trace: context.trace,
        }
    }
}

impl Durable {
    /// Begins an execution and waits for its end, which is what comes back, with the execution's full name.
    pub async fn call(
        &self,
        invocation: Invocation<Bytes>,
        name: Option<String>,
    ) -> Result<(Started, Outcome<Bytes>), Refused> {
        let began = Instant::now();
        let runtime = self.core.host.runtime(&invocation.function);
        let (started, head) = self.invoke(Start::of(invocation, name)).await?;
        let result = match head.status {
            Status::Succeeded => Answer::Reply { http: None, body: Bytes::from(head.result.unwrap_or_default()) },
            other => {
                let cause = if other == Status::TimedOut { FailureCause::Timeout } else { FailureCause::Handler };
                let body = head.error.unwrap_or_default().to_function();
                Answer::Failed(FunctionError { cause, body })
            }
        };
        let outcome = outcome(result, &started, runtime, began)?;
        Ok((started, outcome))
    }

    /// Begins an execution for whoever wants nothing but that; the outcome says which.
    pub async fn hand_over(
        &self,
        invocation: Invocation<Bytes>,
        name: Option<String>,
    ) -> Result<Outcome<Bytes>, Error> {
        let began = Instant::now();
        let runtime = self.core.host.runtime(&invocation.function);
        let started = self.begin(Start::of(invocation, name)).await?;
        let body = Bytes::from(serde_json::json!({"DurableExecutionArn": started.arn}).to_string());
        Ok(outcome(Answer::Reply { http: None, body }, &started, runtime, began)?)
    }
}

/// The invocations of an execution have accounts of their own; this is that of the call.
fn outcome(
    result: Answer<Bytes>,
    started: &Started,
    runtime: Option<RuntimeName>,
    began: Instant,
) -> Result<Outcome<Bytes>, Refused> {
    Ok(Outcome {
        result,
        start: StartKind::Warm,
        version: started.version.parse().ok(),
        runtime: runtime.ok_or_else(|| Refused::NotFound("The function has been deleted.".into()))?,
        phases: Phases { total: began.elapsed(), ..Phases::default() },
        report: Report::default(),
        log_tail: Vec::new(),
    })
}
