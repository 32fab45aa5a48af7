//! What a durable execution is and how it changes: (state, what happened, now) → state, with what is to be written and done.
//! A function's checkpoint, a timer, an answer from outside, the end of an invocation, a stop: each is a verb here.
//!
//! Pure: no clock, no disk, no instance. What it leaves to be written is in `fresh`; what it leaves to be done is returned.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use offshoot_model::FunctionName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::check;
use super::history;
use super::tokens::Token;
use super::types::{Action, ErrorObject, Kind, Operation, OperationStatus, Status, Update};

/// Attempts of an invocation that fail one after the other before the execution does.
pub const MAX_FAILURES: u32 = 5;
/// The same for invocations that suspend with nothing to wait for: a race in an SDK can make one.
pub const MAX_IDLE: u32 = 3;
/// Between two such attempts, in milliseconds.
pub const BACKOFF_MS: u64 = 5_000;
/// Operations that a function is given at once, in bytes; it asks for the others.
pub const PAGE_BYTES: usize = 4 << 20;
/// Operations that a function is given at once.
pub const PAGE_ITEMS: usize = 1000;
/// The longest life of an execution, pauses included, in milliseconds (AWS: 366 days).
const MAX_LIFE_MS: u64 = 366 * 86_400_000;
/// The longest pause after the platform could not make an invocation, in milliseconds. Such a setback spends no attempt.
const MAX_PAUSE_MS: u64 = 60_000;

/// Everything of an execution but its operations and its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// A UUID; also the id of its EXECUTION operation.
    pub id: String,
    /// Its full name.
    pub arn: String,
    /// Unique on this server as long as it is kept.
    pub name: String,
    /// Which function.
    pub function: FunctionName,
    /// The version that every one of its invocations runs: `$LATEST` or a number.
    pub version: String,
    /// Where it stands.
    pub status: Status,
    /// When it began, ms since 1970.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How long it may take, in seconds.
    pub timeout_s: u64,
    /// How long it is kept after its end, in days.
    pub retention_days: u32,
    /// SHA-256 of its input: the same name with another input is refused.
    pub input_digest: String,
    /// What came of it.
    pub result: Option<String>,
    /// How it failed.
    pub error: Option<ErrorObject>,
    /// The function is to be invoked, or was being when the last server ended.
    pub ready: bool,
    /// But not before this moment.
    pub not_before_ms: u64,
    /// Invocations in a row that failed.
    pub failures: u32,
    /// Invocations in a row that the platform could not make.
    pub setbacks: u32,
    /// Changes of operations so far.
    pub changes: u64,
    /// Of which the function has been told.
    pub told: u64,
    /// Events of its history.
    pub events: u64,
    /// Bytes that were written for it.
    pub written: u64,
    /// The caller's trace header.
    pub trace: Option<String>,
    /// The operation that waits for it.
    pub parent: Option<Parent>,
    /// It is paused, or to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// By how much its time is longer because it was paused, in milliseconds.
    #[serde(default)]
    pub paused_ms: u64,
    /// The client token of the last request that paused or resumed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_token: Option<String>,
}

/// A pause that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When, ms since 1970.
    pub requested_ms: u64,
    /// For people.
    pub reason: Option<String>,
    /// The execution's time stands still meanwhile.
    pub stops_clock: bool,
    /// Since when it is in force.
    pub since_ms: Option<u64>,
}

/// How an execution is to be paused.
#[derive(Debug, Clone)]
pub struct PauseRequest {
    /// For people.
    pub reason: Option<String>,
    /// The execution's time stands still meanwhile.
    pub stops_clock: bool,
    /// The same one again is the same request again.
    pub client_token: Option<String>,
}

impl Head {
    /// That of an execution that begins now and of which nothing else is known yet.
    pub(super) fn blank(id: String, arn: String, function: FunctionName, now: u64) -> Self {
        Head {
            name: id.clone(),
            id,
            arn,
            function,
            version: String::new(),
            status: Status::Running,
            started_ms: now,
            ended_ms: None,
            timeout_s: 0,
            retention_days: 0,
            input_digest: String::new(),
            result: None,
            error: None,
            ready: true,
            not_before_ms: 0,
            failures: 0,
            setbacks: 0,
            changes: 0,
            told: 0,
            events: 0,
            written: 0,
            trace: None,
            parent: None,
            pause: None,
            paused_ms: 0,
            pause_token: None,
        }
    }

    /// Its last moment: when its time is over. That of one whose clock stands still is as late as any execution may last.
    pub fn deadline(&self) -> u64 {
        let last = self.started_ms.saturating_add(MAX_LIFE_MS);
        let stands = self.pause.as_ref().is_some_and(|pause| pause.stops_clock && pause.since_ms.is_some());
        if stands {
            return last;
        }
        let time = self.timeout_s.saturating_mul(1000).saturating_add(self.paused_ms);
        self.started_ms.saturating_add(time).min(last)
    }
}

/// A CHAINED_INVOKE operation of another execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The execution's id.
    pub execution: String,
    /// The operation's.
    pub operation: String,
}

/// What is to be written.
#[derive(Debug, Clone, Default)]
pub struct Fresh {
    /// Operations that changed, by their place.
    pub operations: BTreeSet<usize>,
    /// Events that were added, with their numbers.
    pub events: Vec<(u64, Value)>,
}

/// The invocation that runs.
#[derive(Debug, Clone)]
struct Running {
    /// Its request id.
    invocation: String,
    began_ms: u64,
    /// Checkpoints that it has made.
    sequence: u64,
    last: Option<Answered>,
    /// The execution was paused under it: it has no token any more.
    revoked: bool,
}

/// The last checkpoint, for a caller that asks again because it did not hear the answer.
#[derive(Debug, Clone)]
struct Answered {
    client_token: String,
    token: Token,
    answer: Checkpointed,
}

/// The answer to a checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpointed {
    /// For the next one; none where the execution is paused from now on.
    pub token: Option<String>,
    /// Operations that changed since the function was last told, the longest ago first.
    pub operations: Vec<Arc<Operation>>,
    /// The change behind which there are more.
    pub next: Option<u64>,
    /// CHAINED_INVOKE operations that were begun: they are to be carried out.
    pub chained: Vec<String>,
}

/// How an invocation of the function ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// It answered.
    Said(Vec<u8>),
    /// It failed: its own error, or that it was ended.
    Failed(ErrorObject),
    /// There is no such version any more.
    Gone(ErrorObject),
    /// The platform could not make it now.
    Setback,
}

/// What an invocation is given.
#[derive(Debug)]
pub struct Begun {
    /// For its first checkpoint.
    pub token: String,
    /// Operations that changed since the last invocation was told of any.
    pub updated: Vec<String>,
}

/// A page of operations.
#[derive(Debug)]
pub struct Page {
    /// In the order in which they began.
    pub operations: Vec<Arc<Operation>>,
    /// Where the next page begins.
    pub next: Option<usize>,
}

/// Why an update of a callback was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCallback {
    /// There is no such callback.
    Unknown,
    /// It is over.
    Over,
}

/// Whether a chained invoke can be begun at all; the error is the operation's.
pub type Target<'a> = &'a dyn Fn(&str) -> Result<(), ErrorObject>;

/// An execution.
#[derive(Debug, Clone)]
pub struct Execution {
    /// Its own part.
    pub head: Head,
    operations: Vec<Arc<Operation>>,
    index: HashMap<String, usize>,
    running: Option<Running>,
    /// What is to be written.
    pub fresh: Fresh,
}

impl Execution {
    /// One that begins.
    pub fn start(head: Head, input: String) -> Self {
        let started = head.started_ms;
        let mut execution =
            Execution { index: HashMap::new(), operations: Vec::new(), running: None, fresh: Fresh::default(), head };
        execution.head.written += input.len() as u64;
        let mut first = blank(&execution.head.id, Kind::Execution, started);
        (first.name, first.input) = (Some(execution.head.name.clone()), Some(input));
        let event = history::execution_started(&execution.head, &first);
        execution.put(first);
        execution.record(event);
        execution
    }

    /// One as it was written.
    pub fn restored(head: Head, operations: Vec<Operation>) -> Self {
        let operations: Vec<Arc<Operation>> = operations.into_iter().map(Arc::new).collect();
        let index = operations.iter().enumerate().map(|(at, o)| (o.id.clone(), at)).collect();
        Execution { head, operations, index, running: None, fresh: Fresh::default() }
    }

    /// Its operations, in the order in which they began.
    pub fn operations(&self) -> &[Arc<Operation>] {
        &self.operations
    }

    /// One of them.
    pub fn operation(&self, id: &str) -> Option<&Arc<Operation>> {
        self.operations.get(*self.index.get(id)?)
    }

    /// Whether anything is to be written.
    pub fn is_fresh(&self) -> bool {
        !self.fresh.operations.is_empty() || !self.fresh.events.is_empty()
    }

    /// Whether it is over.
    pub fn ended(&self) -> bool {
        self.head.status.is_over()
    }

    /// The request id of the invocation that runs.
    pub fn invocation(&self) -> Option<&str> {
        self.running.as_ref().map(|r| r.invocation.as_str())
    }

    /// Whether the function is to be invoked now.
    pub fn wants_invocation(&self, now: u64) -> bool {
        self.head.status == Status::Running
            && self.running.is_none()
            && self.head.ready
            && self.head.not_before_ms <= now
    }

    /// When something is due by itself next; the next invocation too, unless somebody sees to that already.
    pub fn next_due(&self, with_invocation: bool) -> Option<u64> {
        if self.ended() {
            return None;
        }
        let invoked = with_invocation && self.running.is_none() && self.head.status == Status::Running;
        let retry = (invoked && self.head.ready).then_some(self.head.not_before_ms);
        let open = self.operations.iter().filter(|o| !o.status.is_final());
        open.flat_map(|o| due(o).into_iter()).flatten().chain(retry).chain([self.deadline()]).min()
    }

    /// The last moment of the whole execution.
    pub fn deadline(&self) -> u64 {
        self.head.deadline()
    }

    fn put(&mut self, mut operation: Operation) {
        self.head.changes += 1;
        operation.touched = self.head.changes;
        let at = match self.index.get(&operation.id) {
            Some(at) => *at,
            None => {
                self.index.insert(operation.id.clone(), self.operations.len());
                self.operations.len()
            }
        };
        let operation = Arc::new(operation);
        match self.operations.get_mut(at) {
            Some(place) => *place = operation,
            None => self.operations.push(operation),
        }
        self.fresh.operations.insert(at);
    }

    fn record(&mut self, mut event: Value) {
        self.head.events += 1;
        event["EventId"] = json!(self.head.events);
        self.head.written += event.to_string().len() as u64;
        self.fresh.events.push((self.head.events, event));
    }

    /// Changes an operation from outside of the function, and has it told.
    fn change(&mut self, operation: Operation, now: u64) {
        let event = history::changed(&operation, now);
        self.put(operation);
        if let Some(event) = event {
            self.record(event);
        }
        self.head.ready = true;
    }

    /// What is due by this moment takes place.
    pub fn fire(&mut self, now: u64) {
        if self.ended() {
            return;
        }
        if self.deadline() <= now {
            let message = format!("Execution timed out after {} seconds.", self.head.timeout_s);
            let error = ErrorObject { error_message: Some(message), ..ErrorObject::default() };
            return self.end(Status::TimedOut, None, Some(error), now);
        }
        if self.running.is_none() {
            // The invocation that was to reach a checkpoint has ended with its server.
            self.take_pause(now);
        }
        let is_due = |o: &&Arc<Operation>| !o.status.is_final() && due(o).into_iter().flatten().any(|at| at <= now);
        let due: Vec<Operation> = self.operations.iter().filter(is_due).map(|o| Operation::clone(o)).collect();
        for mut operation in due {
            match operation.kind {
                Kind::Wait => close(&mut operation, OperationStatus::Succeeded, now),
                Kind::Step => (operation.status, operation.due_ms) = (OperationStatus::Ready, None),
                _ => {
                    let over = operation.due_ms.is_some_and(|at| at <= now);
                    let (kind, message) = match over {
                        true => ("Callback.Timeout", "Callback timed out"),
                        false => ("Callback.Heartbeat", "Callback timed out on heartbeat"),
                    };
                    operation.error = Some(ErrorObject::new(kind, message));
                    close(&mut operation, OperationStatus::TimedOut, now);
                }
            }
            self.change(operation, now);
        }
    }

    /// An invocation begins; it is what this request id says.
    pub fn begin(&mut self, invocation: &str, now: u64) -> Begun {
        let told = self.head.told;
        let changed = self.operations.iter().filter(|o| o.touched > told && o.kind != Kind::Execution);
        // What the function itself has changed it knows; `told` goes up with each answer to a checkpoint.
        let updated = changed.map(|o| o.id.clone()).collect();
        self.head.told = self.head.changes;
        let running =
            Running { invocation: invocation.to_owned(), began_ms: now, sequence: 0, last: None, revoked: false };
        let token = self.token(&running).text();
        self.running = Some(running);
        Begun { token, updated }
    }

    /// Whether an invocation runs, and not this one.
    pub fn runs_another(&self, invocation: &str) -> bool {
        self.running.as_ref().is_some_and(|running| running.invocation != invocation)
    }

    fn token(&self, running: &Running) -> Token {
        Token { execution: self.head.id.clone(), invocation: running.invocation.clone(), sequence: running.sequence }
    }

    /// Whether this token is the one that the running invocation holds now.
    pub fn is_current(&self, token: &Token) -> bool {
        !self.ended() && self.running.as_ref().is_some_and(|r| !r.revoked && self.token(r) == *token)
    }

    /// The answer that was given to this checkpoint already.
    pub fn answered(&self, token: &Token, client_token: Option<&str>) -> Option<Checkpointed> {
        let last = self.running.as_ref()?.last.as_ref()?;
        let same = last.token == *token && Some(last.client_token.as_str()) == client_token;
        same.then(|| Checkpointed { chained: Vec::new(), ..last.answer.clone() })
    }

    /// A checkpoint. The token has been looked at.
    pub fn checkpoint(
        &mut self,
        updates: Vec<Update>,
        client_token: Option<String>,
        target: Target<'_>,
        now: u64,
    ) -> Result<Checkpointed, String> {
        check::check(self, &updates)?;
        let mut chained = Vec::new();
        for update in updates {
            self.head.written += check::weight(&update);
            chained.extend(self.apply(update, target, now));
        }
        self.fire(now);
        let (operations, next) = self.news(self.head.told, PAGE_ITEMS, PAGE_BYTES);
        // What does not fit can be asked for, and comes with the next answer in any case.
        self.head.told = next.unwrap_or(self.head.changes);
        let Some(mut running) = self.running.take() else { return Err("Invalid checkpoint token".into()) };
        let before = self.token(&running);
        running.sequence += 1;
        running.revoked = self.take_pause(now);
        let token = (!running.revoked).then(|| self.token(&running).text());
        // Where there is no token, nobody asks for the rest.
        let next = next.filter(|_| token.is_some());
        let answer = Checkpointed { token, operations, next, chained };
        running.last =
            client_token.map(|client_token| Answered { client_token, token: before, answer: answer.clone() });
        self.running = Some(running);
        Ok(answer)
    }

    /// One update, which has been checked. The answer names a chained invoke that is to be carried out.
    fn apply(&mut self, update: Update, target: Target<'_>, now: u64) -> Option<String> {
        if update.kind == Kind::Execution {
            let status = if update.action == Action::Succeed { Status::Succeeded } else { Status::Failed };
            self.end(status, update.payload, update.error, now);
            return None;
        }
        let known = self.operation(&update.id).map(|o| Operation::clone(o));
        let first = known.is_none();
        let mut operation = known.unwrap_or_else(|| blank(&update.id, update.kind, now));
        operation.parent = operation.parent.or_else(|| update.parent_id.clone());
        operation.name = operation.name.or_else(|| update.name.clone());
        operation.sub_type = operation.sub_type.or_else(|| update.sub_type.clone());
        let begins = update.action == Action::Start;
        if first && !begins {
            // Its beginning was not worth a checkpoint to the function; its history has one all the same.
            self.record(history::started(&operation, now));
        }
        let mut chained = None;
        match (update.kind, update.action) {
            (Kind::Wait, Action::Start) => {
                let seconds = update.wait_options.as_ref().and_then(|o| o.wait_seconds).unwrap_or(0);
                operation.due_ms = Some(after(now, seconds));
            }
            (Kind::Callback, Action::Start) => {
                let options = update.callback_options.clone().unwrap_or_default();
                let positive = |value: Option<i64>| value.filter(|v| *v > 0);
                operation.due_ms = positive(options.timeout_seconds).map(|s| after(now, s));
                operation.heartbeat_s = positive(options.heartbeat_timeout_seconds).and_then(|s| u64::try_from(s).ok());
                operation.heartbeat_due_ms = operation.heartbeat_s.map(|s| now + s * 1000);
            }
            (Kind::ChainedInvoke, _) => {
                let function = update.chained_invoke_options.and_then(|o| o.function_name).unwrap_or_default();
                operation.function = Some(function.clone());
                match target(&function) {
                    Ok(()) => {
                        operation.input = update.payload;
                        chained = Some(operation.id.clone());
                    }
                    Err(error) => {
                        self.record(history::started(&operation, now));
                        operation.error = Some(error);
                        close(&mut operation, OperationStatus::Failed, now);
                        let event = history::changed(&operation, now);
                        self.put(operation);
                        event.into_iter().for_each(|e| self.record(e));
                        return None;
                    }
                }
            }
            (_, Action::Start) => {
                operation.status = OperationStatus::Started;
                operation.due_ms = None;
            }
            (_, Action::Retry) => {
                let delay = update.step_options.as_ref().and_then(|o| o.next_attempt_delay_seconds).unwrap_or(0);
                operation.attempt += 1;
                (operation.result, operation.error) = (update.payload, update.error);
                self.record(history::attempt(&operation, delay, now));
                (operation.status, operation.due_ms) = (OperationStatus::Pending, Some(after(now, delay)));
                self.put(operation);
                return None;
            }
            (_, Action::Cancel) => close(&mut operation, OperationStatus::Cancelled, now),
            (_, Action::Succeed | Action::Fail) => {
                operation.attempt += u32::from(operation.kind == Kind::Step);
                operation.replay_children = update.context_options.is_some_and(|o| o.replay_children);
                (operation.result, operation.error, operation.due_ms) = (update.payload, update.error, None);
                let succeeded = update.action == Action::Succeed;
                let status = if succeeded { OperationStatus::Succeeded } else { OperationStatus::Failed };
                close(&mut operation, status, now);
            }
        }
        let event = if begins { Some(history::started(&operation, now)) } else { history::changed(&operation, now) };
        self.put(operation);
        event.into_iter().for_each(|e| self.record(e));
        chained
    }

    /// The execution is over.
    fn end(&mut self, status: Status, result: Option<String>, error: Option<ErrorObject>, now: u64) {
        if self.ended() {
            return;
        }
        let head = &mut self.head;
        head.written += result.as_ref().map_or(0, |r| r.len() as u64);
        (head.status, head.result, head.error, head.ended_ms) = (status, result, error, Some(now));
        head.pause = None;
        head.ready = false;
        if let Some(first) = self.operations.first().map(|o| Operation::clone(o)) {
            let mut first = first;
            close(&mut first, status.of_operation(), now);
            self.record(history::execution_ended(&self.head, &first, now));
            self.put(first);
        }
    }

    /// It is ended from outside. The answer is when it ended, be it earlier.
    pub fn stop(&mut self, error: Option<ErrorObject>, now: u64) -> u64 {
        let default = || ErrorObject {
            error_message: Some("Execution stopped by user request".into()),
            ..ErrorObject::default()
        };
        self.end(Status::Stopped, None, Some(error.unwrap_or_else(default)), now);
        self.head.ended_ms.unwrap_or(now)
    }

    /// It is to be paused: now, or at the next checkpoint of the invocation that runs. The error says why not.
    pub fn pause(&mut self, asked: PauseRequest, now: u64) -> Result<(), &'static str> {
        self.fire(now);
        if self.ended() {
            return Err("The durable execution is over.");
        }
        if let Some(pause) = &self.head.pause {
            let same = asked.client_token.is_some() && asked.client_token == self.head.pause_token;
            let same = same && (&asked.reason, asked.stops_clock) == (&pause.reason, pause.stops_clock);
            return if same { Ok(()) } else { Err("The durable execution is paused already.") };
        }
        let PauseRequest { reason, stops_clock, client_token } = asked;
        self.head.pause = Some(Pause { requested_ms: now, reason, stops_clock, since_ms: None });
        self.head.pause_token = client_token;
        self.head.status = Status::Pausing;
        if self.running.is_none() {
            self.take_pause(now);
        }
        Ok(())
    }

    /// A pause that was asked for is in force from now on. Whether one was.
    fn take_pause(&mut self, now: u64) -> bool {
        if self.head.status != Status::Pausing {
            return false;
        }
        let Some(pause) = &mut self.head.pause else { return false };
        pause.since_ms = Some(now);
        let pause = pause.clone();
        self.head.status = Status::Paused;
        self.record(history::paused(&self.head, &pause, now));
        true
    }

    /// It goes on. The error says why not.
    pub fn resume(
        &mut self,
        reason: Option<String>,
        client_token: Option<String>,
        now: u64,
    ) -> Result<(), &'static str> {
        self.fire(now);
        if self.ended() {
            return Err("The durable execution is over.");
        }
        let Some(pause) = self.head.pause.take() else {
            let same = client_token.is_some() && client_token == self.head.pause_token;
            return if same { Ok(()) } else { Err("The durable execution is not paused.") };
        };
        self.head.status = Status::Running;
        self.head.pause_token = client_token;
        if let Some(since) = pause.since_ms {
            if pause.stops_clock {
                self.head.paused_ms = self.head.paused_ms.saturating_add(now.saturating_sub(since));
            }
            self.record(history::resumed(&self.head, &reason, now));
        }
        Ok(())
    }

    fn callback(&self, id: &str) -> Result<Operation, NoCallback> {
        let operation = self.operation(id).filter(|o| o.kind == Kind::Callback).ok_or(NoCallback::Unknown)?;
        if self.ended() || operation.status.is_final() {
            return Err(NoCallback::Over);
        }
        Ok(Operation::clone(operation))
    }

    /// A callback is answered.
    pub fn answer(&mut self, id: &str, answer: Result<String, ErrorObject>, now: u64) -> Result<(), NoCallback> {
        let mut operation = self.callback(id)?;
        let status = match answer {
            Ok(result) => {
                self.head.written += result.len() as u64;
                operation.result = Some(result);
                OperationStatus::Succeeded
            }
            Err(error) => {
                self.head.written += error.size();
                operation.error = Some(error);
                OperationStatus::Failed
            }
        };
        close(&mut operation, status, now);
        self.change(operation, now);
        Ok(())
    }

    /// Whoever is to answer a callback is still there.
    pub fn heartbeat(&mut self, id: &str, now: u64) -> Result<(), NoCallback> {
        let mut operation = self.callback(id)?;
        if let Some(seconds) = operation.heartbeat_s {
            operation.heartbeat_due_ms = Some(now + seconds * 1000);
            // No news for the function: its place in the order of changes stays.
            if let Some(at) = self.index.get(id).copied() {
                self.operations[at] = Arc::new(operation);
                self.fresh.operations.insert(at);
            }
        }
        Ok(())
    }

    /// A chained invoke has ended. One that has ended already, or is none, stays as it is.
    pub fn chained(&mut self, id: &str, status: OperationStatus, outcome: Result<String, ErrorObject>, now: u64) {
        let open = |o: &&Arc<Operation>| o.kind == Kind::ChainedInvoke && !o.status.is_final();
        let Some(mut operation) = self.operation(id).filter(open).map(|o| Operation::clone(o)) else { return };
        if self.ended() {
            return;
        }
        match outcome {
            Ok(result) => {
                self.head.written += result.len() as u64;
                operation.result = Some(result);
            }
            Err(error) => operation.error = Some(error),
        }
        close(&mut operation, status, now);
        self.change(operation, now);
    }

    /// Chained invokes whose end is not known.
    pub fn open_chained(&self) -> Vec<String> {
        let open = self.operations.iter().filter(|o| o.kind == Kind::ChainedInvoke && !o.status.is_final());
        open.map(|o| o.id.clone()).collect()
    }

    /// The invocation that ran has ended like this.
    pub fn finish(&mut self, ending: Ending, now: u64) {
        let Some(running) = self.running.take() else { return };
        let ending = match ending {
            Ending::Failed(error) => Ending::Failed(error.bounded(check::MAX_ERROR)),
            Ending::Gone(error) => Ending::Gone(error.bounded(check::MAX_ERROR)),
            other => other,
        };
        if ending != Ending::Setback {
            let failed = if let Ending::Failed(error) | Ending::Gone(error) = &ending { Some(error) } else { None };
            self.record(history::invocation(&running.invocation, running.began_ms, now, failed));
            self.head.setbacks = 0;
        }
        if self.ended() {
            return;
        }
        if self.head.written > check::MAX_WRITTEN {
            let text = format!("A durable execution can write at most {} bytes.", check::MAX_WRITTEN);
            return self.end(Status::Failed, None, Some(invalid_output(&text)), now);
        }
        match ending {
            // Its token was taken away, and what an SDK makes of that differs: it is made again when the execution goes on.
            _ if running.revoked => (self.head.ready, self.head.not_before_ms) = (true, now),
            Ending::Said(bytes) => match said(&bytes) {
                Ok(Said::Succeeded(result)) if self.head.parent.is_some() && result.len() > check::MAX_CHAINED => {
                    let error = Some(ErrorObject {
                        error_message: Some(check::too_large_for_parent()),
                        ..ErrorObject::default()
                    });
                    self.end(Status::Failed, None, error, now);
                }
                Ok(Said::Succeeded(result)) => self.end(Status::Succeeded, Some(result), None, now),
                Ok(Said::Failed(error)) => self.end(Status::Failed, None, Some(error), now),
                Ok(Said::Pending) => self.suspend(now),
                Err(why) => self.end(Status::Failed, None, Some(invalid_output(&why)), now),
            },
            Ending::Failed(error) => self.try_again(error, MAX_FAILURES, now),
            Ending::Gone(error) => self.end(Status::Failed, None, Some(error), now),
            Ending::Setback => {
                self.head.setbacks += 1;
                let pause = 1000u64.saturating_mul(1 << self.head.setbacks.min(6));
                self.head.not_before_ms = now + pause.min(MAX_PAUSE_MS);
            }
        }
        if !self.ended() {
            // The invocation is over, without a checkpoint.
            self.take_pause(now);
        }
    }

    fn suspend(&mut self, now: u64) {
        // What changed while it ran and was not told to it is news for the next invocation.
        let news = self.head.changes > self.head.told;
        let waits = self.operations.iter().any(|o| match o.kind {
            Kind::Step => o.status == OperationStatus::Pending,
            Kind::Wait | Kind::Callback | Kind::ChainedInvoke => o.status == OperationStatus::Started,
            Kind::Execution | Kind::Context => false,
        });
        if !waits && !news {
            let error = invalid_output("Cannot return PENDING status with no pending operations.");
            return self.try_again(error, MAX_IDLE, now);
        }
        self.head.failures = 0;
        self.head.ready = news;
        self.head.not_before_ms = now;
    }

    fn try_again(&mut self, error: ErrorObject, most: u32, now: u64) {
        self.head.failures += 1;
        if self.head.failures >= most {
            return self.end(Status::Failed, None, Some(error), now);
        }
        self.head.ready = true;
        self.head.not_before_ms = now + BACKOFF_MS;
    }

    /// Operations that changed behind this change, the longest ago first, as many as fit; and the last change of these where there are
    /// more.
    pub fn news(&self, told: u64, most: usize, bytes: usize) -> (Vec<Arc<Operation>>, Option<u64>) {
        let mut changed: Vec<&Arc<Operation>> = self.operations.iter().filter(|o| o.touched > told).collect();
        changed.sort_unstable_by_key(|o| o.touched);
        let (mut news, mut size) = (Vec::new(), 0);
        for operation in changed {
            size += weight(operation);
            if let Some(last) = news.last().filter(|_| news.len() >= most || size > bytes) {
                let last: &Arc<Operation> = last;
                return (news.clone(), Some(last.touched));
            }
            news.push(operation.clone());
        }
        (news, None)
    }

    /// Operations from this place on, as many as fit. What lies in a context that is over and needs no replay is left out:
    /// the function takes the context's result.
    pub fn page(&self, from: usize, most: usize, bytes: usize) -> Page {
        let (mut operations, mut size) = (Vec::new(), 0);
        for (at, operation) in self.operations.iter().enumerate().skip(from) {
            if self.covered(operation) {
                continue;
            }
            let weight = weight(operation);
            if !operations.is_empty() && (operations.len() >= most || size + weight > bytes) {
                return Page { operations, next: Some(at) };
            }
            size += weight;
            operations.push(operation.clone());
        }
        Page { operations, next: None }
    }

    fn covered(&self, operation: &Operation) -> bool {
        let mut parent = operation.parent.as_deref();
        // As deep as there are operations: an operation cannot be above itself, since a parent is there before its child.
        while let Some(context) = parent.and_then(|id| self.operation(id)) {
            if context.status.is_final() && !context.replay_children {
                return true;
            }
            parent = context.parent.as_deref();
        }
        false
    }
}

/// What a function says at the end of an invocation.
enum Said {
    Succeeded(String),
    Failed(ErrorObject),
    Pending,
}

fn said(bytes: &[u8]) -> Result<Said, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Output {
        status: String,
        #[serde(default)]
        result: Option<String>,
        #[serde(default)]
        error: Option<ErrorObject>,
    }
    let output: Output = serde_json::from_slice(bytes).map_err(|e| format!("Invalid invocation output: {e}"))?;
    match (output.status.as_str(), output.result, output.error) {
        ("SUCCEEDED", _, Some(_)) => Err("Cannot provide an Error for SUCCEEDED status.".into()),
        ("SUCCEEDED", result, None) => Ok(Said::Succeeded(result.unwrap_or_default())),
        ("FAILED", Some(_), _) => Err("Cannot provide a Result for FAILED status.".into()),
        ("FAILED", None, error) => Ok(Said::Failed(error.unwrap_or_default())),
        ("PENDING", ..) => Ok(Said::Pending),
        (other, ..) => {
            let shown: String = other.chars().take(64).flat_map(char::escape_default).collect();
            Err(format!("Invalid invocation output: '{shown}' is no status"))
        }
    }
}

fn invalid_output(message: &str) -> ErrorObject {
    ErrorObject::new("InvalidParameterValueException", message)
}

/// The moments at which an open operation changes by itself.
fn due(operation: &Operation) -> [Option<u64>; 2] {
    [operation.due_ms, operation.heartbeat_due_ms]
}

fn after(now: u64, seconds: i64) -> u64 {
    now.saturating_add(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

fn close(operation: &mut Operation, status: OperationStatus, now: u64) {
    operation.status = status;
    operation.end_ms = Some(now);
}

/// What an operation counts for in a page, in bytes: its texts, and room for the rest.
fn weight(operation: &Operation) -> usize {
    let text = |t: &Option<String>| t.as_ref().map_or(0, String::len);
    let error = operation.error.as_ref().map_or(0, |e| usize::try_from(e.size()).unwrap_or(usize::MAX));
    text(&operation.input) + text(&operation.result) + text(&operation.name) + error + 400
}

fn blank(id: &str, kind: Kind, now: u64) -> Operation {
    Operation {
        id: id.to_owned(),
        parent: None,
        name: None,
        sub_type: None,
        kind,
        status: OperationStatus::Started,
        start_ms: now,
        end_ms: None,
        input: None,
        result: None,
        error: None,
        replay_children: false,
        attempt: 0,
        due_ms: None,
        heartbeat_s: None,
        heartbeat_due_ms: None,
        function: None,
        touched: 0,
    }
}
