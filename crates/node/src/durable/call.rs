//! A call of a durable function as any other call: an execution is begun and waited for, and its end is the outcome.

use bytes::Bytes;
use offshoot_model::invocation::FailureCause;
use offshoot_model::{Answer, FunctionError, Invocation, Outcome, Phases, Report, StartKind};

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
        let began = std::time::Instant::now();
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
        let outcome = Outcome {
            result,
            // Its invocations have accounts of their own.
            start: StartKind::Warm,
            version: head.version.parse().ok(),
            runtime: runtime.ok_or_else(|| Refused::NotFound("The function has been deleted.".into()))?,
            phases: Phases { total: began.elapsed(), ..Phases::default() },
            report: Report::default(),
            log_tail: Vec::new(),
        };
        Ok((started, outcome))
    }
}
