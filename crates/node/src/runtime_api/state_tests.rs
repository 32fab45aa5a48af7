//! Tables for `state`: rows of events with what follows from each.

use super::*;

/// A row: what happens, and what follows.
type Row = (Event, Step);

fn call(id: &str) -> Event {
    Event::Call(id.into())
}
fn give(poll: u64, id: &str) -> Action {
    Action::Give(poll, id.into())
}
fn announce(poll: u64, id: &str) -> Action {
    Action::Announce(poll, id.into())
}
fn respond(id: &str) -> Event {
    Event::Respond(id.into())
}
fn sent(id: &str) -> Event {
    Event::Sent(id.into())
}
fn register(name: &str, events: &[&str]) -> Event {
    Event::Register(name.into(), events.iter().map(|e| (*e).into()).collect(), format!("id-{name}"))
}
fn extension_next(name: &str, poll: u64) -> Event {
    Event::ExtensionNext(format!("id-{name}"), poll)
}
fn external(names: &[&str]) -> Event {
    Event::Begin(names.iter().map(|n| ((*n).into(), format!("id-{n}"))).collect())
}
fn none() -> Step {
    Ok(Vec::new())
}
fn no(from: Runtime, to: Runtime) -> Step {
    Err(Misuse::Runtime(from.name(), to.name()))
}

#[track_caller]
fn run(mut state: State, rows: Vec<Row>) -> State {
    for (at, (event, follows)) in rows.into_iter().enumerate() {
        assert_eq!(state.on(event.clone()), follows, "row {at}: {event:?}");
    }
    state
}

/// A runtime that has asked for its first call.
fn ready() -> Vec<Row> {
    vec![(external(&[]), Ok(vec![Action::StartRuntime])), (Event::Next(1), Ok(vec![Action::InitDone, Action::Ready]))]
}

#[test]
fn one_call_after_the_other() {
    let mut rows = ready();
    rows.extend([
        (call("a"), Ok(vec![give(1, "a")])),
        (call("b"), none()),
        (respond("a"), none()),
        (sent("a"), none()),
        (Event::Next(2), Ok(vec![Action::CallDone("a".into()), give(2, "b")])),
        (Event::RespondError("b".into()), none()),
        (sent("b"), none()),
        (Event::Next(3), Ok(vec![Action::CallDone("b".into())])),
    ]);
    run(State::new(1, false), rows);
}

#[test]
fn misuse_is_told_as_the_emulator_tells_it() {
    use Runtime::{ErrorResponse, InitError, Ready, Response, ResponseSent};
    let mut rows = ready();
    rows.extend([
        (Event::InitError, no(Ready, InitError)),
        (respond("a"), Err(Misuse::UnknownCall)),
        (call("a"), Ok(vec![give(1, "a")])),
        (respond("b"), Err(Misuse::UnknownCall)),
        // Asked again in the middle of a call, it is given the same call again.
        (Event::Next(2), Ok(vec![give(2, "a")])),
        (respond("a"), none()),
        (respond("a"), no(Response, Response)),
        (Event::Next(3), no(Response, Ready)),
        (sent("a"), none()),
        (respond("a"), no(ResponseSent, Response)),
        (Event::RespondError("a".into()), no(ResponseSent, ErrorResponse)),
        (Event::Next(4), Ok(vec![Action::CallDone("a".into())])),
        (respond("a"), no(Ready, Response)),
    ]);
    run(State::new(1, false), rows);
}

#[test]
fn a_failed_initialisation_is_the_end_of_the_runtime() {
    let rows = vec![
        (external(&[]), Ok(vec![Action::StartRuntime])),
        (Event::InitError, none()),
        (Event::InitError, no(Runtime::InitError, Runtime::InitError)),
        (Event::Next(1), no(Runtime::InitError, Runtime::Ready)),
    ];
    run(State::new(1, false), rows);
}

#[test]
fn a_slow_initialisation_lets_its_first_call_wait() {
    let rows = vec![
        (external(&[]), Ok(vec![Action::StartRuntime])),
        (Event::WindowOver, Ok(vec![Action::Ready])),
        (call("a"), none()),
        (Event::Next(1), Ok(vec![Action::InitDone, give(1, "a")])),
        (Event::WindowOver, none()),
    ];
    run(State::new(1, false), rows);
}

#[test]
fn whoever_stops_waiting_is_not_given_a_call() {
    let mut rows = ready();
    rows.extend([(Event::PollGone(1), none()), (call("a"), none()), (Event::Next(2), Ok(vec![give(2, "a")]))]);
    run(State::new(1, false), rows);
}

#[test]
fn external_extensions_register_before_the_runtime_starts() {
    let rows = vec![
        (external(&["one", "two"]), none()),
        (register("one", &["INVOKE", "SHUTDOWN"]), Ok(vec![Action::Registered(0)])),
        (register("one", &["INVOKE"]), Err(Misuse::Extension("Registered", "Registered", "one".into()))),
        (register("two", &[]), Ok(vec![Action::Registered(1), Action::StartRuntime])),
        (extension_next("one", 1), none()),
        (Event::Next(2), none()),
        (register("late", &["INVOKE"]), Err(Misuse::RegistrationClosed)),
        // Initialisation ends when everybody has asked for what comes.
        (extension_next("two", 3), Ok(vec![Action::InitDone, Action::Ready])),
        (call("a"), Ok(vec![give(2, "a"), announce(1, "a")])),
        (respond("a"), none()),
        (sent("a"), none()),
        // Neither the runtime nor the extension alone ends the call.
        (Event::Next(4), none()),
        (call("b"), none()),
        (extension_next("one", 5), Ok(vec![Action::CallDone("a".into()), give(4, "b"), announce(5, "b")])),
        (extension_next("two", 6), Err(Misuse::Extension("Ready", "Ready", "id-two".into()))),
        (extension_next("nobody", 6), Err(Misuse::UnknownExtension)),
    ];
    run(State::new(1, false), rows);
}

#[test]
fn registrations_are_checked() {
    let event = |event: &str, why| Err(Misuse::EventType(event.into(), why));
    let mut rows = vec![
        (external(&["ext"]), none()),
        (register("ext", &["FOO"]), event("FOO", "ErrorInvalidEventType")),
        (register("int", &["SHUTDOWN"]), event("SHUTDOWN", "ShutdownEventNotSupportedForInternalExtension")),
        (register("int", &["INVOKE"]), Ok(vec![Action::Registered(1)])),
        (register("int", &["INVOKE"]), Err(Misuse::NameTaken)),
    ];
    for i in 2..MAX_EXTENSIONS {
        rows.push((register(&format!("int{i}"), &[]), Ok(vec![Action::Registered(i)])));
    }
    rows.push((register("more", &[]), Err(Misuse::TooManyExtensions)));
    run(State::new(1, false), rows);
    let eleven: Vec<String> = (0..11).map(|i| i.to_string()).collect();
    let eleven: Vec<&str> = eleven.iter().map(String::as_str).collect();
    let failed = Ok(vec![Action::Failed("Extension.LaunchError", "10".into())]);
    run(State::new(1, false), vec![(external(&eleven), failed)]);
}

#[test]
fn an_internal_extension_that_never_asks_holds_initialisation_up() {
    let rows = vec![
        (external(&[]), Ok(vec![Action::StartRuntime])),
        (register("int", &["INVOKE"]), Ok(vec![Action::Registered(0)])),
        (Event::Next(1), none()),
        (Event::WindowOver, Ok(vec![Action::Ready])),
        (call("a"), none()),
        (extension_next("int", 2), Ok(vec![Action::InitDone, give(1, "a"), announce(2, "a")])),
    ];
    run(State::new(1, false), rows);
}

#[test]
fn extensions_fail_once() {
    let failed = |kind| Ok(vec![Action::Failed(kind, "one".into())]);
    let start = || {
        vec![
            (external(&["one"]), none()),
            (register("one", &["SHUTDOWN"]), Ok(vec![Action::Registered(0), Action::StartRuntime])),
        ]
    };
    let mut rows = start();
    rows.extend([
        (Event::ExtensionInitError("id-one".into()), failed("Extension.InitError")),
        (Event::ExtensionInitError("id-one".into()), none()),
        (Event::ExtensionEnded("one".into()), none()),
    ]);
    run(State::new(1, false), rows);
    let mut rows = start();
    rows.extend([
        (extension_next("one", 1), none()),
        (Event::ExtensionInitError("id-one".into()), Err(Misuse::Extension("Ready", "InitError", "id-one".into()))),
        (Event::ExtensionExitError("id-one".into()), failed("Extension.ExitError")),
        (Event::ExtensionEnded("one".into()), none()),
    ]);
    run(State::new(1, false), rows);
    let mut rows = start();
    rows.push((Event::ExtensionEnded("one".into()), failed("Extension.Crash")));
    run(State::new(1, false), rows);
}

#[test]
fn the_end_is_told_to_who_asked_for_it_and_is_no_crash() {
    let rows = vec![
        (external(&["one", "two"]), none()),
        (register("one", &["SHUTDOWN"]), Ok(vec![Action::Registered(0)])),
        (register("two", &["INVOKE", "SHUTDOWN"]), Ok(vec![Action::Registered(1), Action::StartRuntime])),
        (extension_next("one", 1), none()),
        (extension_next("two", 2), none()),
        (Event::Next(3), Ok(vec![Action::InitDone, Action::Ready])),
        (call("a"), Ok(vec![give(3, "a"), announce(2, "a")])),
        (Event::Shutdown, Ok(vec![Action::SayShutdown(1)])),
        // The other one is busy, and hears of it when it asks.
        (extension_next("two", 4), Ok(vec![Action::SayShutdown(4)])),
        (Event::ExtensionEnded("one".into()), none()),
    ];
    run(State::new(1, false), rows);
}

#[test]
fn several_calls_at_once() {
    let rows = vec![
        (external(&[]), Ok(vec![Action::StartRuntime])),
        (register("int", &["INVOKE"]), Err(Misuse::EventType("INVOKE".into(), "ErrorInvalidEventType"))),
        (Event::Next(1), Ok(vec![Action::InitDone, Action::Ready])),
        (Event::Next(2), none()),
        // Another worker of the same runtime cannot fail the initialisation of all.
        (Event::InitError, no(Runtime::Ready, Runtime::InitError)),
        (call("a"), Ok(vec![give(1, "a")])),
        (call("b"), Ok(vec![give(2, "b")])),
        (call("c"), none()),
        (respond("b"), none()),
        (respond("b"), Err(Misuse::UnknownCall)),
        (sent("b"), Ok(vec![Action::CallDone("b".into())])),
        (Event::Next(3), Ok(vec![give(3, "c")])),
        (respond("a"), none()),
        (respond("c"), none()),
        (respond("d"), Err(Misuse::UnknownCall)),
    ];
    run(State::new(2, false), rows);
}

#[test]
fn idle_polls_are_bounded() {
    let mut state = run(State::new(2, false), ready());
    for poll in 2..=MIN_POLLS as u64 {
        assert_eq!(state.on(Event::Next(poll)), none());
    }
    assert_eq!(state.on(Event::Next(1000)), Err(Misuse::TooManyPolls));
}

#[test]
fn a_restore_follows_at_once() {
    let rows = vec![
        (external(&[]), Ok(vec![Action::StartRuntime])),
        (Event::RestoreError, no(Runtime::Started, Runtime::RestoreError)),
        (Event::RestoreNext(1), Ok(vec![Action::Restored(1)])),
        (Event::RestoreNext(2), no(Runtime::Restoring, Runtime::Ready)),
        (Event::Next(3), Ok(vec![Action::InitDone, Action::Ready])),
        (Event::RestoreNext(4), no(Runtime::Ready, Runtime::Ready)),
    ];
    run(State::new(1, true), rows);
    let failed = vec![
        (external(&[]), Ok(vec![Action::StartRuntime])),
        (Event::RestoreNext(1), Ok(vec![Action::Restored(1)])),
        (Event::InitError, none()),
        (Event::Next(2), no(Runtime::RestoreError, Runtime::Ready)),
    ];
    run(State::new(1, true), failed);
}

#[test]
fn a_call_that_nobody_took_is_given_to_the_next_who_asks() {
    let not_taken = |id: &str| Event::NotTaken(id.into());
    let mut rows = ready();
    rows.extend([
        (call("a"), Ok(vec![give(1, "a")])),
        (call("b"), none()),
        // It comes before those that came after it, and may be answered only by whoever takes it.
        (not_taken("a"), none()),
        (respond("a"), Err(Misuse::UnknownCall)),
        (Event::Next(2), Ok(vec![give(2, "a")])),
        (Event::Next(3), Ok(vec![give(3, "b")])),
        (Event::Next(4), none()),
        (not_taken("b"), Ok(vec![give(4, "b")])),
        (respond("b"), none()),
        (not_taken("b"), none()),
    ]);
    run(State::new(4, false), rows);
    // One call at a time: another poll that waits gets it, or the next.
    let mut rows = ready();
    rows.extend([
        (Event::Next(2), none()),
        (call("a"), Ok(vec![give(1, "a")])),
        (not_taken("a"), Ok(vec![give(2, "a")])),
        (not_taken("a"), none()),
        (Event::Next(3), Ok(vec![give(3, "a")])),
        (respond("a"), none()),
        (not_taken("a"), none()),
    ]);
    run(State::new(1, false), rows);
}
