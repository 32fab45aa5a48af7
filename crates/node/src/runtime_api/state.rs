//! What the runtime and the extensions of one environment may do next: (state, event) → actions, or why not.
//!
//! Pure: it knows no socket, no process and no clock, and never looks into a payload. A *poll* is a request that waits for
//! something to happen (`…/next`), known here by a number. The states and their names are those that AWS's emulator shows in
//! its error texts.

use std::collections::VecDeque;

/// Extensions of one environment, at most (AWS's limit).
pub const MAX_EXTENSIONS: usize = 10;
/// Idle `/next` requests of one environment, at most, for each call that it may serve at once. AWS's Node.js client opens
/// eight for each processor, whatever the limit of its environment says.
pub const POLLS_PER_CALL: usize = 4;
/// And at least this many.
pub const MIN_POLLS: usize = 64;

/// Where the runtime stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// It runs and has asked for nothing yet.
    Started,
    /// It said that it cannot initialise.
    InitError,
    /// It waits for an invocation.
    Ready,
    /// It has one.
    Running,
    /// It is sending its answer.
    Response,
    /// It is sending an error.
    ErrorResponse,
    /// It has answered and not asked for the next.
    ResponseSent,
    /// It has been restored.
    Restoring,
    /// It said that it could not be restored.
    RestoreError,
}

impl Runtime {
    /// As AWS's emulator names it.
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Started => "Started",
            Runtime::InitError => "InitError",
            Runtime::Ready => "Ready",
            Runtime::Running => "Running",
            Runtime::Response => "InvocationResponse",
            Runtime::ErrorResponse => "InvocationErrorResponse",
            Runtime::ResponseSent => "RuntimeResponseSentState",
            Runtime::Restoring => "Restoring",
            Runtime::RestoreError => "RuntimeRestoreErrorState",
        }
    }
}

/// Where an extension stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its program runs (external ones only).
    Started,
    /// It has registered.
    Registered,
    /// It waits for an event.
    Ready,
    /// It has one.
    Running,
    /// It said that it cannot initialise.
    InitError,
    /// It said that it is going to end.
    ExitError,
    /// It has ended.
    Exited,
}

impl Stage {
    /// As AWS's emulator names it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Started => "Started",
            Stage::Registered => "Registered",
            Stage::Ready => "Ready",
            Stage::Running => "Running",
            Stage::InitError => "InitError",
            Stage::ExitError => "ExitError",
            Stage::Exited => "Exited",
        }
    }
}

/// One extension.
#[derive(Debug, Clone)]
pub struct Extension {
    /// Its name; an external one's is its file's.
    pub name: String,
    /// What it shows to be recognised, unguessable.
    pub id: String,
    /// Whether it is a program of its own.
    pub external: bool,
    /// Where it stands.
    pub stage: Stage,
    invoke: bool,
    /// Whether it wants to hear of the end.
    pub shutdown: bool,
    poll: Option<u64>,
}

impl Extension {
    /// The events that it asked for.
    pub fn events(&self) -> Vec<&'static str> {
        [("INVOKE", self.invoke), ("SHUTDOWN", self.shutdown)]
            .into_iter()
            .filter(|(_, on)| *on)
            .map(|(e, _)| e)
            .collect()
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The environment begins: these external extensions are started, with the ids that they will get.
    Begin(Vec<(String, String)>),
    /// The pool has a call.
    Call(String),
    /// Initialisation has taken as long as it may before calls are let in to wait for it.
    WindowOver,
    /// `GET /runtime/invocation/next`.
    Next(u64),
    /// `GET /runtime/restore/next`.
    RestoreNext(u64),
    /// `POST /runtime/init/error`.
    InitError,
    /// `POST /runtime/restore/error`.
    RestoreError,
    /// `POST /runtime/invocation/{id}/response` begins.
    Respond(String),
    /// `POST /runtime/invocation/{id}/error` begins.
    RespondError(String),
    /// The answer to a call has been taken.
    Sent(String),
    /// `POST /extension/register`, with the id that an internal extension will get.
    Register(String, Vec<String>, String),
    /// `GET /extension/event/next`.
    ExtensionNext(String, u64),
    /// `POST /extension/init/error`.
    ExtensionInitError(String),
    /// `POST /extension/exit/error`.
    ExtensionExitError(String),
    /// The program of an external extension has ended.
    ExtensionEnded(String),
    /// Whoever waited has gone away.
    PollGone(u64),
    /// This call was given to a poll of the runtime that had gone away.
    NotTaken(String),
    /// The environment ends: extensions are told.
    Shutdown,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the runtime's program.
    StartRuntime,
    /// Tell the pool that the environment takes calls.
    Ready,
    /// Initialisation is over: nobody may register or subscribe any more.
    InitDone,
    /// Answer this poll of the runtime with this call.
    Give(u64, String),
    /// Answer this poll of an extension with the event of this call.
    Announce(u64, String),
    /// Answer this poll of an extension with the end.
    SayShutdown(u64),
    /// Answer this poll with "restored".
    Restored(u64),
    /// The runtime and everybody who wanted to know are done with this call.
    CallDone(String),
    /// The extension at this place has registered.
    Registered(usize),
    /// The environment cannot go on: an error type of AWS's, and the extension's name.
    Failed(&'static str, String),
}

/// Why not: what http answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misuse {
    /// The runtime may not do this now: from, to.
    Runtime(&'static str, &'static str),
    /// The extension may not do this now: from, to, who.
    Extension(&'static str, &'static str, String),
    /// No such call is open.
    UnknownCall,
    /// No extension has this id.
    UnknownExtension,
    /// An event that this kind of extension cannot ask for, and why.
    EventType(String, &'static str),
    /// Too late to register.
    RegistrationClosed,
    /// Another extension has this name.
    NameTaken,
    /// As many extensions as there may be.
    TooManyExtensions,
    /// As many requests wait as may.
    TooManyPolls,
}

type Step = Result<Vec<Action>, Misuse>;

/// One environment.
#[derive(Debug)]
pub struct State {
    /// Calls that it may serve at once.
    calls: usize,
    snap_start: bool,
    runtime: Runtime,
    extensions: Vec<Extension>,
    registration: bool,
    said_ready: bool,
    init_done: bool,
    /// The call that is served, where only one is at a time.
    serving: Option<String>,
    /// The last call that the runtime was given.
    last: Option<String>,
    /// Calls that wait for the runtime.
    waiting: VecDeque<String>,
    /// Idle polls of the runtime.
    polls: VecDeque<u64>,
    /// Calls that were given and not answered, where several are served at once.
    open: Vec<String>,
    shutting_down: bool,
}

impl State {
    /// Before anything has happened. `calls` is how many it may serve at once.
    pub fn new(calls: usize, snap_start: bool) -> Self {
        State {
            calls: calls.max(1),
            snap_start,
            runtime: Runtime::Started,
            extensions: Vec::new(),
            registration: true,
            said_ready: false,
            init_done: false,
            serving: None,
            last: None,
            waiting: VecDeque::new(),
            polls: VecDeque::new(),
            open: Vec::new(),
            shutting_down: false,
        }
    }

    /// The extensions.
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// Whether a call is over only when extensions say so too, by asking for the next event.
    pub fn told_of_calls(&self) -> bool {
        self.extensions.iter().any(|e| e.invoke)
    }

    /// Takes what happened.
    pub fn on(&mut self, event: Event) -> Step {
        match event {
            Event::Begin(extensions) => self.begin(extensions),
            Event::Call(id) => {
                self.waiting.push_back(id);
                Ok(self.go_on())
            }
            Event::WindowOver => Ok(self.say_ready()),
            Event::Next(poll) => self.next(poll),
            Event::RestoreNext(poll) => self.restore_next(poll),
            Event::InitError => self.init_error(),
            Event::RestoreError => self.restore_error(),
            Event::Respond(id) => self.respond(&id, Runtime::Response),
            Event::RespondError(id) => self.respond(&id, Runtime::ErrorResponse),
            Event::Sent(id) => Ok(self.sent(&id)),
            Event::Register(name, events, id) => self.register(name, &events, id),
            Event::ExtensionNext(id, poll) => self.extension_next(&id, poll),
            Event::ExtensionInitError(id) => self.extension_error(&id, Stage::InitError, "Extension.InitError"),
            Event::ExtensionExitError(id) => self.extension_error(&id, Stage::ExitError, "Extension.ExitError"),
            Event::ExtensionEnded(name) => Ok(self.extension_ended(&name)),
            Event::PollGone(poll) => {
                self.polls.retain(|p| *p != poll);
                for extension in self.extensions.iter_mut().filter(|e| e.poll == Some(poll)) {
                    extension.poll = None;
                }
                Ok(Vec::new())
            }
            Event::NotTaken(id) => Ok(self.not_taken(id)),
            Event::Shutdown => Ok(self.shut_down()),
        }
    }

    fn begin(&mut self, extensions: Vec<(String, String)>) -> Step {
        if extensions.len() > MAX_EXTENSIONS {
            return Ok(vec![Action::Failed("Extension.LaunchError", extensions[MAX_EXTENSIONS].0.clone())]);
        }
        let external = |(name, id)| Extension {
            name,
            id,
            external: true,
            stage: Stage::Started,
            invoke: false,
            shutdown: false,
            poll: None,
        };
        self.extensions = extensions.into_iter().map(external).collect();
        Ok(if self.extensions.is_empty() { vec![Action::StartRuntime] } else { Vec::new() })
    }

    fn say_ready(&mut self) -> Vec<Action> {
        if std::mem::replace(&mut self.said_ready, true) { Vec::new() } else { vec![Action::Ready] }
    }

    fn concurrent(&self) -> bool {
        self.calls > 1
    }

    // ── The runtime ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn next(&mut self, poll: u64) -> Step {
        if self.polls.len() >= (self.calls * POLLS_PER_CALL).max(MIN_POLLS) {
            return Err(Misuse::TooManyPolls);
        }
        match self.runtime {
            Runtime::Started | Runtime::Restoring | Runtime::Ready | Runtime::ResponseSent => {}
            // Asked again in the middle of a call, it is given the same call again.
            Runtime::Running => {
                return Ok(self.serving.iter().map(|id| Action::Give(poll, id.clone())).collect());
            }
            other => return Err(Misuse::Runtime(other.name(), Runtime::Ready.name())),
        }
        self.runtime = Runtime::Ready;
        self.registration = false;
        self.polls.push_back(poll);
        Ok(self.go_on())
    }

    fn restore_next(&mut self, poll: u64) -> Step {
        if !self.snap_start || self.runtime != Runtime::Started {
            return Err(Misuse::Runtime(self.runtime.name(), Runtime::Ready.name()));
        }
        // Nothing is kept of such a process: it is restored as soon as it could be snapshotted.
        self.runtime = Runtime::Restoring;
        Ok(vec![Action::Restored(poll)])
    }

    fn init_error(&mut self) -> Step {
        match self.runtime {
            Runtime::Started => {
                self.runtime = Runtime::InitError;
                Ok(Vec::new())
            }
            Runtime::Restoring => self.restore_error(),
            other => Err(Misuse::Runtime(other.name(), Runtime::InitError.name())),
        }
    }

    fn restore_error(&mut self) -> Step {
        if self.runtime != Runtime::Restoring {
            return Err(Misuse::Runtime(self.runtime.name(), Runtime::RestoreError.name()));
        }
        self.runtime = Runtime::RestoreError;
        Ok(Vec::new())
    }

    fn respond(&mut self, id: &str, to: Runtime) -> Step {
        if self.concurrent() {
            let at = self.open.iter().position(|open| open == id).ok_or(Misuse::UnknownCall)?;
            self.open.swap_remove(at);
            return Ok(Vec::new());
        }
        if self.last.as_deref() != Some(id) {
            return Err(Misuse::UnknownCall);
        }
        if self.runtime != Runtime::Running {
            return Err(Misuse::Runtime(self.runtime.name(), to.name()));
        }
        self.runtime = to;
        Ok(Vec::new())
    }

    fn sent(&mut self, id: &str) -> Vec<Action> {
        if self.concurrent() {
            return vec![Action::CallDone(id.to_owned())];
        }
        if matches!(self.runtime, Runtime::Response | Runtime::ErrorResponse) {
            self.runtime = Runtime::ResponseSent;
        }
        Vec::new()
    }

    /// Somebody else is given the call, the first who can be.
    fn not_taken(&mut self, id: String) -> Vec<Action> {
        if self.concurrent() {
            let Some(at) = self.open.iter().position(|open| *open == id) else { return Vec::new() };
            self.open.swap_remove(at);
            self.waiting.push_front(id);
            return self.go_on();
        }
        // Asked again, the runtime is given the same call; it may have asked already.
        let runs = self.runtime == Runtime::Running && self.serving.as_ref() == Some(&id);
        let poll = if runs { self.polls.pop_front() } else { None };
        poll.map(|poll| Action::Give(poll, id)).into_iter().collect()
    }

    // ── Extensions ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn register(&mut self, name: String, events: &[String], id: String) -> Step {
        let found = self.extensions.iter().position(|e| e.external && e.name == name);
        for event in events {
            match event.as_str() {
                "INVOKE" if !self.concurrent() => {}
                "SHUTDOWN" if found.is_some() => {}
                "SHUTDOWN" => {
                    return Err(Misuse::EventType(event.clone(), "ShutdownEventNotSupportedForInternalExtension"));
                }
                _ => return Err(Misuse::EventType(event.clone(), "ErrorInvalidEventType")),
            }
        }
        let wants = |what: &str| events.iter().any(|e| e == what);
        let (invoke, shutdown) = (wants("INVOKE"), wants("SHUTDOWN"));
        let Some(at) = found else {
            if !self.registration {
                return Err(Misuse::RegistrationClosed);
            }
            if self.extensions.len() >= MAX_EXTENSIONS {
                return Err(Misuse::TooManyExtensions);
            }
            if self.extensions.iter().any(|e| e.name == name) {
                return Err(Misuse::NameTaken);
            }
            let stage = Stage::Registered;
            self.extensions.push(Extension { name, id, external: false, stage, invoke, shutdown, poll: None });
            return Ok(vec![Action::Registered(self.extensions.len() - 1)]);
        };
        let extension = &mut self.extensions[at];
        if extension.stage != Stage::Started {
            return Err(Misuse::Extension(extension.stage.name(), Stage::Registered.name(), name));
        }
        (extension.stage, extension.invoke, extension.shutdown) = (Stage::Registered, invoke, shutdown);
        let mut actions = vec![Action::Registered(at)];
        if self.extensions.iter().all(|e| e.stage != Stage::Started) {
            actions.push(Action::StartRuntime);
        }
        Ok(actions)
    }

    fn extension_next(&mut self, id: &str, poll: u64) -> Step {
        let shutting_down = self.shutting_down;
        let extension = self.extensions.iter_mut().find(|e| e.id == id).ok_or(Misuse::UnknownExtension)?;
        let may = match extension.stage {
            Stage::Registered | Stage::Running => true,
            // Whoever waited for it has gone away.
            Stage::Ready => extension.poll.is_none(),
            _ => false,
        };
        if !may {
            return Err(Misuse::Extension(extension.stage.name(), Stage::Ready.name(), id.to_owned()));
        }
        extension.stage = Stage::Ready;
        if shutting_down && extension.shutdown {
            extension.stage = Stage::Running;
            return Ok(vec![Action::SayShutdown(poll)]);
        }
        extension.poll = Some(poll);
        Ok(self.go_on())
    }

    fn extension_error(&mut self, id: &str, to: Stage, kind: &'static str) -> Step {
        let extension = self.extensions.iter_mut().find(|e| e.id == id).ok_or(Misuse::UnknownExtension)?;
        let may = match to {
            Stage::InitError => matches!(extension.stage, Stage::Registered | Stage::InitError),
            _ => matches!(extension.stage, Stage::Registered | Stage::Ready | Stage::Running | Stage::ExitError),
        };
        if !may {
            return Err(Misuse::Extension(extension.stage.name(), to.name(), id.to_owned()));
        }
        let again = extension.stage == to;
        extension.stage = to;
        let name = extension.name.clone();
        Ok(if again { Vec::new() } else { vec![Action::Failed(kind, name)] })
    }

    fn extension_ended(&mut self, name: &str) -> Vec<Action> {
        let Some(extension) = self.extensions.iter_mut().find(|e| e.external && e.name == name) else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut extension.stage, Stage::Exited);
        if self.shutting_down || matches!(before, Stage::InitError | Stage::ExitError | Stage::Exited) {
            return Vec::new();
        }
        vec![Action::Failed("Extension.Crash", name.to_owned())]
    }

    // ── Both ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Does what has become possible: the end of initialisation, the end of a call, the next call.
    fn go_on(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.shutting_down {
            return actions;
        }
        if !self.init_done {
            let extensions = self.extensions.iter().all(|e| e.stage == Stage::Ready);
            if self.runtime != Runtime::Ready || !extensions {
                return actions;
            }
            self.init_done = true;
            actions.push(Action::InitDone);
            actions.extend(self.say_ready());
        }
        if self.concurrent() {
            while let (Some(poll), false) = (self.polls.front().copied(), self.waiting.is_empty()) {
                self.polls.pop_front();
                if let Some(id) = self.waiting.pop_front() {
                    self.open.push(id.clone());
                    actions.push(Action::Give(poll, id));
                }
            }
            return actions;
        }
        let idle = self.runtime == Runtime::Ready
            && self.extensions.iter().all(|e| !e.invoke || !matches!(e.stage, Stage::Running | Stage::Registered));
        if let (true, Some(id)) = (idle, self.serving.as_ref()) {
            actions.push(Action::CallDone(id.clone()));
            self.serving = None;
        }
        if idle
            && !self.waiting.is_empty()
            && let Some(poll) = self.polls.pop_front()
            && let Some(id) = self.waiting.pop_front()
        {
            self.runtime = Runtime::Running;
            self.serving = Some(id.clone());
            self.last = Some(id.clone());
            actions.push(Action::Give(poll, id.clone()));
            for extension in self.extensions.iter_mut().filter(|e| e.invoke && e.stage == Stage::Ready) {
                if let Some(poll) = extension.poll.take() {
                    extension.stage = Stage::Running;
                    actions.push(Action::Announce(poll, id.clone()));
                }
            }
        }
        actions
    }

    fn shut_down(&mut self) -> Vec<Action> {
        self.shutting_down = true;
        let mut actions = Vec::new();
        for extension in self.extensions.iter_mut().filter(|e| e.shutdown && e.stage == Stage::Ready) {
            if let Some(poll) = extension.poll.take() {
                extension.stage = Stage::Running;
                actions.push(Action::SayShutdown(poll));
            }
        }
        actions
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
