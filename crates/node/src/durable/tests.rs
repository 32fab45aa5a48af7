//! Durable executions without boxes: the machine under arbitrary checkpoints, timers, answers and ends, and the whole with a
//! host that plays the function, over servers that end at any moment.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use offshoot_model::invocation::FailureCause;
use offshoot_model::{Answer, FunctionError, Phases, Report, RuntimeName, StartKind};
use proptest::prelude::*;
use serde_json::json;

use super::machine::{Ending, Fresh};
use super::tokens::Token;
use super::types::*;
use super::*;
use crate::recursion;

const ID: &str = "01234567-89ab-4def-8123-456789abcdef";

fn head(timeout_s: u64) -> Head {
    let arn = format!("arn:aws:lambda:r:1:function:f:$LATEST/durable-execution/n/{ID}");
    let blank = Head::blank(ID.into(), arn, FunctionName::parse("f").unwrap(), 1000);
    Head { name: "n".into(), version: "$LATEST".into(), timeout_s, retention_days: 1, ..blank }
}

fn update(id: &str, kind: Kind, action: Action) -> Update {
    Update {
        id: id.into(),
        parent_id: None,
        name: None,
        kind,
        sub_type: None,
        action,
        payload: None,
        error: None,
        context_options: None,
        step_options: None,
        wait_options: None,
        callback_options: None,
        chained_invoke_options: None,
    }
}

fn anywhere(_: &str) -> Result<(), ErrorObject> {
    Ok(())
}

fn checkpoint(
    execution: &mut Execution,
    updates: Vec<Update>,
    now: u64,
) -> Result<Vec<(String, OperationStatus)>, String> {
    let done = execution.checkpoint(updates, None, &anywhere, now)?;
    Ok(done.operations.iter().map(|o| (o.id.clone(), o.status)).collect())
}

fn begun(timeout_s: u64) -> Execution {
    let mut execution = Execution::start(head(timeout_s), "{}".into());
    execution.begin("ffffffff-ffff-4fff-bfff-ffffffffffff", 1000);
    execution
}

fn wait(id: &str, seconds: i64) -> Update {
    Update { wait_options: Some(WaitOptions { wait_seconds: Some(seconds) }), ..update(id, Kind::Wait, Action::Start) }
}

fn pause_request(stops_clock: bool) -> PauseRequest {
    PauseRequest { reason: None, stops_clock, client_token: None }
}

fn said(text: &str) -> Ending {
    Ending::Said(text.as_bytes().to_vec())
}

#[test]
fn a_wait_suspends_and_wakes() {
    let mut execution = begun(100);
    let told = checkpoint(&mut execution, vec![wait("w", 5)], 2000).unwrap();
    assert_eq!(told, [("w".to_owned(), OperationStatus::Started)]);
    execution.finish(said(r#"{"Status":"PENDING"}"#), 2100);
    assert!(!execution.wants_invocation(2100));
    assert_eq!(execution.next_due(true), Some(7000));
    execution.fire(6999);
    assert!(!execution.wants_invocation(6999));
    execution.fire(7000);
    assert!(execution.wants_invocation(7000));
    assert_eq!(execution.begin("a", 7000).updated, ["w"]);
    execution.finish(said(r#"{"Status":"SUCCEEDED","Result":"1"}"#), 7100);
    assert_eq!((execution.head.status, execution.head.result.as_deref()), (Status::Succeeded, Some("1")));
    assert_eq!(execution.next_due(true), None);
}

#[test]
fn news_that_came_too_late_is_told_at_once() {
    let mut execution = begun(100);
    checkpoint(&mut execution, vec![update("c", Kind::Callback, Action::Start)], 2000).unwrap();
    execution.answer("c", Ok("yes".into()), 2001).unwrap();
    assert_eq!(execution.answer("c", Ok("yes".into()), 2002), Err(NoCallback::Over));
    assert_eq!(execution.answer("d", Ok("yes".into()), 2002), Err(NoCallback::Unknown));
    execution.finish(said(r#"{"Status":"PENDING"}"#), 2100);
    assert!(execution.wants_invocation(2100));
}

#[test]
fn steps_are_tried_again_when_they_say_so() {
    let mut execution = begun(100);
    checkpoint(&mut execution, vec![update("s", Kind::Step, Action::Start)], 2000).unwrap();
    let retry = || Update {
        step_options: Some(StepOptions { next_attempt_delay_seconds: Some(3) }),
        error: Some(ErrorObject::new("E", "m")),
        ..update("s", Kind::Step, Action::Retry)
    };
    checkpoint(&mut execution, vec![retry()], 2000).unwrap();
    assert_eq!(
        checkpoint(&mut execution, vec![retry()], 2000).unwrap_err(),
        "Invalid current STEP state to re-attempt."
    );
    assert_eq!(execution.operation("s").map(|o| (o.status, o.attempt)), Some((OperationStatus::Pending, 1)));
    assert!(checkpoint(&mut execution, vec![update("s", Kind::Step, Action::Start)], 2001).is_err());
    execution.finish(said(r#"{"Status":"PENDING"}"#), 2001);
    execution.fire(5000);
    execution.begin("a", 5000);
    checkpoint(&mut execution, vec![update("s", Kind::Step, Action::Start)], 5000).unwrap();
    let fail = Update { error: Some(ErrorObject::new("E", "m")), ..update("s", Kind::Step, Action::Fail) };
    checkpoint(&mut execution, vec![fail], 5000).unwrap();
    assert_eq!(execution.operation("s").map(|o| (o.status, o.attempt)), Some((OperationStatus::Failed, 2)));
    let kinds: Vec<String> =
        execution.fresh.events.iter().map(|(_, e)| e["EventType"].as_str().unwrap_or_default().to_owned()).collect();
    let wanted = ["ExecutionStarted", "StepStarted", "StepFailed", "InvocationCompleted", "StepStarted", "StepFailed"];
    assert_eq!(kinds, wanted);
}

#[test]
fn a_pause_takes_effect_at_the_next_checkpoint() {
    let mut execution = begun(100);
    execution.pause(pause_request(true), 2000).unwrap();
    assert_eq!(execution.head.status, Status::Pausing);
    let done = execution.checkpoint(vec![wait("w", 5)], None, &anywhere, 3000).unwrap();
    assert_eq!((done.token, execution.head.status), (None, Status::Paused));
    let held = Token { execution: ID.into(), invocation: execution.invocation().unwrap().into(), sequence: 1 };
    assert!(!execution.is_current(&held), "its token is revoked");
    execution.finish(said(r#"{"Status":"PENDING"}"#), 3100);
    // Waits end meanwhile; the function is not invoked, and the execution's time stands still.
    execution.fire(8000);
    assert_eq!(execution.operation("w").map(|o| o.status), Some(OperationStatus::Succeeded));
    assert!(!execution.wants_invocation(8000) && execution.next_due(true) == Some(execution.deadline()));
    execution.fire(900_000);
    assert_eq!(execution.head.status, Status::Paused);
    assert_eq!(execution.pause(pause_request(true), 900_000), Err("The durable execution is paused already."));
    execution.resume(Some("done".into()), Some("t".into()), 903_000).unwrap();
    assert_eq!(execution.resume(Some("done".into()), Some("t".into()), 903_000), Ok(()), "the same request again");
    assert_eq!(execution.resume(None, None, 903_000), Err("The durable execution is not paused."));
    assert!(execution.wants_invocation(903_000));
    assert_eq!(execution.deadline(), 1000 + 100_000 + 900_000);
    let told: Vec<&str> = execution.fresh.events.iter().map(|(_, e)| e["EventType"].as_str().unwrap()).collect();
    assert!(told.contains(&"ExecutionPaused") && told.contains(&"ExecutionResumed"), "{told:?}");
}

#[test]
fn a_pause_can_be_taken_back_and_an_interrupted_invocation_is_made_again() {
    // Taken back before a checkpoint: nothing has happened.
    let mut execution = begun(100);
    execution.pause(pause_request(true), 2000).unwrap();
    execution.resume(None, None, 2100).unwrap();
    assert!(checkpoint(&mut execution, vec![wait("w", 5)], 2200).is_ok() && execution.head.status == Status::Running);
    // An invocation that suspends takes the pause with it; its wait goes on, and so does the clock if it is to.
    execution.pause(pause_request(false), 2300).unwrap();
    execution.finish(said(r#"{"Status":"PENDING"}"#), 2400);
    assert_eq!((execution.head.status, execution.deadline()), (Status::Paused, 101_000));
    execution.resume(None, None, 2500).unwrap();
    assert!(!execution.wants_invocation(2500), "it still waits");
    execution.fire(7200);
    execution.begin("b", 7200);
    // One that was cut off at a checkpoint is made again, whatever it says of that.
    for ending in [Ending::Failed(ErrorObject::default()), said(r#"{"Status":"FAILED"}"#), said("nonsense")] {
        execution.pause(pause_request(true), 7300).unwrap();
        execution.checkpoint(vec![], None, &anywhere, 7300).unwrap();
        execution.finish(ending, 7400);
        assert_eq!((execution.head.failures, execution.wants_invocation(7400)), (0, false));
        execution.resume(None, None, 7400).unwrap();
        assert!(execution.wants_invocation(7400));
        execution.begin("b", 7400);
    }
    execution.finish(Ending::Setback, 7450);
    execution.head.not_before_ms = 7500;
    // One that ends while it is to be paused has ended.
    execution.begin("c", 7500);
    execution.pause(pause_request(true), 7600).unwrap();
    execution.finish(said(r#"{"Status":"SUCCEEDED"}"#), 7700);
    assert_eq!((execution.head.status, execution.head.pause.is_none()), (Status::Succeeded, true));
    assert_eq!(execution.resume(None, None, 7800), Err("The durable execution is over."));
}

#[test]
fn invocations_that_fail_are_made_again_a_few_times() {
    let mut execution = begun(100);
    let failed = || Ending::Failed(ErrorObject::new("E", "m"));
    for attempt in 1..machine::MAX_FAILURES {
        execution.finish(failed(), 2000);
        assert!(!execution.ended() && !execution.wants_invocation(2000), "{attempt}");
        assert!(execution.wants_invocation(2000 + machine::BACKOFF_MS));
        execution.begin("a", 2000);
    }
    // What the platform could not do spends no attempt.
    execution.finish(Ending::Setback, 2000);
    assert!(!execution.ended() && execution.next_due(true).is_some_and(|at| at > 2000));
    execution.begin("a", 9000);
    execution.finish(failed(), 9000);
    assert_eq!(execution.head.status, Status::Failed);
    assert_eq!(execution.head.error.as_ref().and_then(|e| e.error_type.as_deref()), Some("E"));
}

#[test]
fn pending_with_nothing_to_wait_for_is_an_error_in_the_end() {
    let mut execution = begun(1000);
    for _ in 1..machine::MAX_IDLE {
        execution.finish(said(r#"{"Status":"PENDING"}"#), 2000);
        assert!(!execution.ended());
        execution.begin("a", 2000);
    }
    execution.finish(said(r#"{"Status":"PENDING"}"#), 2000);
    let error = execution.head.error.unwrap();
    assert_eq!(error.error_message.unwrap(), "Cannot return PENDING status with no pending operations.");
}

#[test]
fn time_ends_executions_and_callbacks() {
    let mut execution = begun(10);
    let callback = |id: &str, timeout: i64, heartbeat: i64| Update {
        callback_options: Some(CallbackOptions {
            timeout_seconds: Some(timeout),
            heartbeat_timeout_seconds: Some(heartbeat),
        }),
        ..update(id, Kind::Callback, Action::Start)
    };
    checkpoint(&mut execution, vec![callback("t", 3, 0), callback("h", 9, 2), callback("o", 0, 0)], 1000).unwrap();
    execution.heartbeat("h", 2500).unwrap();
    execution.fire(4000);
    let error = |e: &Execution, id: &str| e.operation(id).and_then(|o| o.error.clone()?.error_type);
    assert_eq!(error(&execution, "t").as_deref(), Some("Callback.Timeout"));
    assert_eq!(error(&execution, "h"), None);
    execution.fire(4500);
    assert_eq!(error(&execution, "h").as_deref(), Some("Callback.Heartbeat"));
    assert_eq!(execution.next_due(false), Some(11_000));
    execution.fire(11_000);
    assert_eq!(execution.head.status, Status::TimedOut);
    assert_eq!(execution.answer("o", Ok(String::new()), 11_001), Err(NoCallback::Over));
    assert_eq!(execution.stop(None, 12_000), 11_000, "what is over is not stopped");
}

#[test]
fn checkpoints_are_refused_whole_and_in_words() {
    let named = |name: &str, u: Update| Update { name: Some(name.into()), ..u };
    let under = |parent: &str, u: Update| Update { parent_id: Some(parent.into()), ..u };
    let paid = |text: &str, u: Update| Update { payload: Some(text.into()), ..u };
    let wrong = |u: Update| Update { error: Some(ErrorObject::new("E", "m")), ..u };
    let (start, succeed, fail) = (Action::Start, Action::Succeed, Action::Fail);
    let cases: Vec<(Vec<Update>, &str)> = vec![
        (vec![update("e", Kind::Execution, succeed), update("e", Kind::Execution, succeed)], "multiple EXECUTION"),
        (vec![update("e", Kind::Execution, succeed), wait("w", 1)], "must be the last"),
        (vec![update("e", Kind::Execution, start)], "Invalid EXECUTION action"),
        (vec![wrong(update("e", Kind::Execution, succeed))], "Cannot provide an Error"),
        (vec![wait("w", 1), wait("w", 1)], "multiple operations with the same ID"),
        (vec![under("none", wait("w", 1))], "Invalid parent"),
        (vec![update("s", Kind::Step, start), under("s", wait("w", 1))], "Invalid parent"),
        (vec![wait("w", 0)], "WaitSeconds is 0"),
        (vec![wait("", 1)], "Id has 1 to 64"),
        (vec![wait(&"x".repeat(65), 1)], "Id has 1 to 64"),
        (vec![named("\n", wait("w", 1))], "printable"),
        (vec![update("w", Kind::Wait, Action::Cancel)], "Cannot cancel"),
        (vec![update("c", Kind::Callback, succeed)], "Invalid action"),
        (vec![update("i", Kind::ChainedInvoke, start)], "requires ChainedInvokeOptions"),
        (vec![update("s", Kind::Step, Action::Retry)], "Invalid StepOptions"),
        (vec![paid("p", update("s", Kind::Step, fail))], "Cannot provide a Payload"),
        (vec![update("c", Kind::Context, Action::Retry)], "Invalid action"),
        (vec![update("held", Kind::Wait, start)], "Inconsistent operation type"),
        (vec![named("other", update("held", Kind::Step, succeed))], "Inconsistent operation name"),
        (vec![paid(&"x".repeat(check::MAX_PAYLOAD + 1), update("s", Kind::Step, succeed))], "Payload size"),
    ];
    let mut execution = begun(100);
    checkpoint(&mut execution, vec![named("n", update("held", Kind::Step, start))], 1000).unwrap();
    let before = (execution.head.clone(), execution.operations().len());
    for (updates, wanted) in cases {
        let shown = format!("{updates:.80?}");
        let mut all = vec![wait("fine", 1)];
        all.extend(updates);
        // An EXECUTION update has to be the last; what is fine goes before it.
        let said = checkpoint(&mut execution, all, 1000).unwrap_err();
        assert!(said.contains(wanted), "{shown}: {said}");
        assert_eq!((execution.head.clone(), execution.operations().len()), before, "{shown} left something");
    }
    let many = (0..check::MAX_OPERATIONS).map(|n| wait(&n.to_string(), 1)).collect();
    assert!(checkpoint(&mut execution, many, 1000).unwrap_err().contains("at most 3000 operations"));
}

#[test]
fn what_a_finished_context_holds_is_not_replayed() {
    let mut execution = begun(100);
    let under = |parent: &str, u: Update| Update { parent_id: Some(parent.into()), ..u };
    let context = |id: &str, replay: bool| Update {
        context_options: Some(ContextOptions { replay_children: replay }),
        ..update(id, Kind::Context, Action::Succeed)
    };
    let start = |id: &str| update(id, Kind::Context, Action::Start);
    let step = |id: &str| update(id, Kind::Step, Action::Start);
    let all =
        vec![start("a"), under("a", step("in-a")), start("b"), under("b", start("deep")), under("deep", step("in-b"))];
    checkpoint(&mut execution, all, 1000).unwrap();
    checkpoint(&mut execution, vec![context("a", false), context("b", true)], 1000).unwrap();
    let page = execution.page(0, 100, 1 << 20);
    let ids: Vec<&str> = page.operations.iter().map(|o| o.id.as_str()).collect();
    assert_eq!(ids, [ID, "a", "b", "deep", "in-b"]);
    let first = execution.page(0, 2, 1 << 20);
    assert_eq!((first.operations.len(), first.next), (2, Some(3)));
    assert_eq!(execution.page(3, 100, 1).operations.len(), 1, "one always fits");
}

// ── Arbitrary histories ──────────────────────────────────────────────────────────────────────────────────────────────

#[derive(Debug, Clone)]
enum Happens {
    Checkpoint(Vec<(u8, u8, u8)>),
    Time(u64),
    Answer(u8, bool),
    Chained(u8, bool),
    Finish(u8),
    Stop,
    Pause(bool),
    Resume,
    Begin,
    Restart,
}

fn happens() -> impl Strategy<Value = Happens> {
    let updates = proptest::collection::vec((0u8..6, 0u8..6, 0u8..5), 0..4);
    prop_oneof![
        8 => updates.prop_map(Happens::Checkpoint),
        4 => (1u64..4000).prop_map(Happens::Time),
        2 => (0u8..6, any::<bool>()).prop_map(|(id, good)| Happens::Answer(id, good)),
        2 => (0u8..6, any::<bool>()).prop_map(|(id, good)| Happens::Chained(id, good)),
        3 => (0u8..8).prop_map(Happens::Finish),
        1 => Just(Happens::Stop),
        2 => any::<bool>().prop_map(Happens::Pause),
        3 => Just(Happens::Resume),
        6 => Just(Happens::Begin),
        2 => Just(Happens::Restart),
    ]
}

fn made(id: u8, kind: u8, action: u8) -> Update {
    let kinds = [Kind::Execution, Kind::Context, Kind::Step, Kind::Wait, Kind::Callback, Kind::ChainedInvoke];
    let actions = [Action::Start, Action::Succeed, Action::Fail, Action::Retry, Action::Cancel];
    Update {
        step_options: Some(StepOptions { next_attempt_delay_seconds: Some(1) }),
        wait_options: Some(WaitOptions { wait_seconds: Some(1) }),
        chained_invoke_options: Some(ChainedInvokeOptions { function_name: Some("g".into()), tenant_id: None }),
        ..update(&format!("op-{id}"), kinds[usize::from(kind)], actions[usize::from(action)])
    }
}

/// What was written, as a server would read it back.
#[derive(Default)]
struct Disk {
    head: Option<Head>,
    operations: HashMap<usize, Operation>,
    events: Vec<u64>,
}

impl Disk {
    fn write(&mut self, execution: &mut Execution) {
        let Fresh { operations, events } = std::mem::take(&mut execution.fresh);
        for at in operations {
            self.operations.insert(at, Operation::clone(&execution.operations()[at]));
        }
        self.events.extend(events.into_iter().map(|(n, _)| n));
        self.head = Some(execution.head.clone());
    }
    fn read(&self) -> Execution {
        let count = self.operations.len();
        Execution::restored(self.head.clone().unwrap(), (0..count).map(|at| self.operations[&at].clone()).collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_rules_hold(story in proptest::collection::vec(happens(), 1..60)) {
        let (mut now, mut invocations) = (1000u64, 0u64);
        let mut execution = Execution::start(head(60), "{}".into());
        let mut disk = Disk::default();
        disk.write(&mut execution);
        for event in story {
            let (ended, finals) = (execution.ended(), finals(&execution));
            match event {
                Happens::Checkpoint(updates) if execution.invocation().is_some() && !ended => {
                    execution.fire(now);
                    if execution.ended() {
                        continue;
                    }
                    let before = (execution.head.clone(), execution.operations().len());
                    let updates: Vec<Update> =
                        updates.into_iter().map(|(id, kind, action)| made(id, kind, action)).collect();
                    let most: u64 = updates.iter().map(check::most).sum();
                    match checkpoint(&mut execution, updates, now) {
                        Err(_) => prop_assert_eq!(&before, &(execution.head.clone(), execution.operations().len())),
                        Ok(_) => prop_assert!(
                            before.0.status == Status::Pausing || execution.head.written - before.0.written <= most,
                            "counted low"
                        ),
                    }
                }
                Happens::Checkpoint(_) => {}
                Happens::Time(ms) => { now += ms; execution.fire(now); }
                Happens::Answer(id, good) => {
                    let answer = if good { Ok("x".to_owned()) } else { Err(ErrorObject::default()) };
                    execution.answer(&format!("op-{id}"), answer, now).ok();
                }
                Happens::Chained(id, good) => {
                    let status = if good { OperationStatus::Succeeded } else { OperationStatus::Failed };
                    let answer = if good { Ok("x".to_owned()) } else { Err(ErrorObject::default()) };
                    execution.chained(&format!("op-{id}"), status, answer, now);
                }
                Happens::Finish(how) => execution.finish(match how {
                    0 => said(r#"{"Status":"SUCCEEDED"}"#),
                    1 => Ending::Failed(ErrorObject::default()),
                    2 => Ending::Setback,
                    3 => said("nonsense"),
                    _ => said(r#"{"Status":"PENDING"}"#),
                }, now),
                Happens::Stop => { execution.stop(None, now); }
                Happens::Pause(stops_clock) => {
                    let done = execution.pause(pause_request(stops_clock), now);
                    prop_assert!(done.is_err() || matches!(execution.head.status, Status::Pausing | Status::Paused));
                }
                Happens::Resume => {
                    let done = execution.resume(None, None, now);
                    prop_assert!(done.is_err() || execution.head.status == Status::Running);
                }
                Happens::Begin if execution.wants_invocation(now) => {
                    invocations += 1;
                    execution.begin(&format!("00000000-0000-4000-8000-{invocations:012}"), now);
                }
                Happens::Begin => {}
                Happens::Restart => {
                    // Nothing is lost but the invocation that ran, and that is made again.
                    disk.write(&mut execution);
                    let running = execution.invocation().is_some();
                    let before = (execution.head.clone(), execution.operations().to_vec());
                    execution = disk.read();
                    prop_assert_eq!(&before, &(execution.head.clone(), execution.operations().to_vec()));
                    prop_assert!(!running || execution.ended() || execution.head.ready);
                }
            }
            disk.write(&mut execution);
            // What is over stays as it was.
            for (id, operation) in finals {
                prop_assert_eq!(execution.operation(&id).map(|o| Operation::clone(o)), Some(operation));
            }
            prop_assert!(!ended || execution.ended());
            prop_assert!(execution.head.status != Status::Paused || !execution.wants_invocation(u64::MAX));
            // What is not over is invoked, or woken by time, or waits for somebody outside, and ends at its deadline.
            if !execution.ended() {
                prop_assert!(execution.next_due(true).is_some_and(|at| at <= execution.deadline()));
            }
        }
        let numbers: Vec<u64> = (1..=execution.head.events).collect();
        prop_assert_eq!(&disk.events, &numbers, "the history has gaps");
        let ids: HashSet<&str> = execution.operations().iter().map(|o| o.id.as_str()).collect();
        prop_assert_eq!(ids.len(), execution.operations().len());
        execution.fire(execution.deadline());
        prop_assert!(execution.ended());
    }

    #[test]
    fn what_an_update_may_add_is_not_counted_low(text in "[\"\\\\\\x00-\\x1fa-zé]{0,300}", started in any::<bool>(), kind in 1u8..6, action in 0u8..5) {
        let mut execution = begun(60);
        let first = made(1, kind, 0);
        if started {
            checkpoint(&mut execution, vec![first], 2000).unwrap();
        }
        let failed = matches!(action, 2 | 3);
        let update = Update {
            name: (!started).then(|| "n".repeat(200)),
            sub_type: (!started).then(|| "Step".into()),
            payload: (!failed).then(|| text.clone()),
            error: failed.then(|| ErrorObject { error_data: Some(text.clone()), ..ErrorObject::new("E", text.clone()) }),
            ..made(1, kind, action)
        };
        let (before, most) = (execution.head.written, check::most(&update));
        let nobody = |_: &str| Err(ErrorObject::new("ResourceNotFoundException", "Function not found: g"));
        let done = execution.checkpoint(vec![update], None, if started { &anywhere } else { &nobody }, 2000);
        if done.is_ok() {
            let added = execution.head.written - before;
            prop_assert!(added <= most, "{added} of {most}");
        }
    }

    #[test]
    fn no_token_is_taken_for_another(execution in "[0-9a-f]{32}", invocation in "[0-9a-f]{32}", sequence in any::<u64>()) {
        let text = format!("{execution}{invocation}{sequence:016x}");
        let token = Token::parse(&text).unwrap();
        prop_assert_eq!(token.text(), text);
        prop_assert_eq!(token.sequence, sequence);
    }
}

fn finals(execution: &Execution) -> Vec<(String, Operation)> {
    let done = execution.operations().iter().filter(|o| o.status.is_final());
    done.map(|o| (o.id.clone(), Operation::clone(o))).collect()
}

// ── The whole, with a host that plays the function ───────────────────────────────────────────────────────────────────

/// What a function does with an invocation: its own door to its execution, and its event.
type Play = Box<dyn Fn(Durable, Value) -> Boxed<'static, Result<Vec<u8>, Error>> + Send + Sync>;

/// What was run, with its trace.
type Ran = Arc<Mutex<Vec<(String, String)>>>;

struct Stage {
    place: Place,
    play: Play,
    durable: Mutex<Option<Gate>>,
    config: DurableConfig,
    ran: Ran,
}

impl Host for Stage {
    fn meant(&self, function: &FunctionName, _: Option<&str>) -> Option<Meant> {
        let durable = (function.as_str() != "plain").then_some(self.config);
        (function.as_str() != "nobody").then(|| Meant { version: "$LATEST".into(), durable })
    }
    fn is_durable(&self, function: &FunctionName) -> bool {
        function.as_str() != "plain"
    }
    fn run(&self, invocation: Invocation<Bytes>) -> Boxed<'_, Result<Outcome<Bytes>, Error>> {
        let event: Value = serde_json::from_slice(&invocation.payload).unwrap();
        let trace = invocation.context.as_ref().and_then(|c| c.trace.clone()).unwrap_or_default();
        self.ran.lock().unwrap().push((invocation.function.to_string(), trace));
        let durable = self.durable.lock().unwrap().clone().unwrap().durable().unwrap();
        let playing = (self.play)(durable, event);
        Box::pin(async move {
            let result = match playing.await {
                Ok(body) => Answer::Reply { http: None, body: Bytes::from(body) },
                Err(error) if error.kind == ErrorKind::Internal => {
                    let body = json!({"errorMessage": error.message}).to_string();
                    Answer::Failed(FunctionError { cause: FailureCause::Handler, body })
                }
                Err(error) => return Err(error),
            };
            Ok(Outcome {
                result,
                start: StartKind::Warm,
                version: None,
                runtime: RuntimeName::parse("python3.11").unwrap(),
                phases: Phases::default(),
                report: Report::default(),
                log_tail: Vec::new(),
            })
        })
    }
    fn runtime(&self, _: &FunctionName) -> Option<RuntimeName> {
        Some(RuntimeName::parse("python3.11").unwrap())
    }
    fn place(&self) -> &Place {
        &self.place
    }
    fn next_trace(&self, function: &FunctionName, trace: &str) -> Result<String, Error> {
        // As the catalogue does it, for functions that may not call themselves.
        let arn = self.place.function(function.as_str(), None);
        match recursion::runs(Some(trace), &arn) {
            0..recursion::MAX_RUNS => Ok(recursion::next_trace(trace, &arn)),
            _ => Err(Error::new(ErrorKind::RecursiveInvocation, "a loop")),
        }
    }
}

fn stage(dir: &Path, play: Play) -> Durable {
    stage_that_tells(dir, play).0
}

/// The same, with what it runs.
fn stage_that_tells(dir: &Path, play: Play) -> (Durable, Ran) {
    let config = DurableConfig { execution_timeout: 60, retention_period_in_days: 1 };
    let ran: Ran = Arc::default();
    let stage = Arc::new(Stage { place: Place::default(), play, durable: Mutex::new(None), config, ran: ran.clone() });
    let durable = Durable::start(Opened::open(dir).unwrap(), stage.clone(), 4);
    *stage.durable.lock().unwrap() = Some(durable.gate());
    (durable, ran)
}

/// Ends a server as if by force, and waits until it has let go of its file.
async fn end(durable: Durable) {
    durable.abandon();
    durable.settled(Duration::from_secs(5)).await;
    let core = Arc::downgrade(&durable.core);
    drop(durable);
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while core.strong_count() > 0 {
        assert!(tokio::time::Instant::now() < until, "somebody holds on to a server that has ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn start(function: &str, name: Option<&str>) -> Start {
    Start {
        function: FunctionName::parse(function).unwrap(),
        qualifier: Some("$LATEST".into()),
        name: name.map(str::to_owned),
        input: Bytes::from_static(b"{}"),
        trace: None,
    }
}

/// A function that counts to so many in steps, one to an invocation, each after a callback that nobody answers in time.
fn counts(to: usize) -> Play {
    Box::new(move |durable, event| {
        Box::pin(async move {
            let arn = event["DurableExecutionArn"].as_str().unwrap().to_owned();
            let mut token = event["CheckpointToken"].as_str().unwrap().to_owned();
            let operations = event["InitialExecutionState"]["Operations"].as_array().unwrap().clone();
            let done = operations.iter().filter(|o| o["Type"] == "STEP" && o["Status"] == "SUCCEEDED").count();
            if done == to {
                return Ok(json!({"Status": "SUCCEEDED", "Result": done.to_string()}).to_string().into_bytes());
            }
            for updates in [
                json!([{"Id": format!("s{done}"), "Type": "STEP", "Action": "START"}]),
                json!([
                    {"Id": format!("s{done}"), "Type": "STEP", "Action": "SUCCEED", "Payload": "1"},
                    {"Id": format!("w{done}"), "Type": "WAIT", "Action": "START", "WaitOptions": {"WaitSeconds": 1}},
                ]),
            ] {
                let body = json!({"CheckpointToken": token, "Updates": updates}).to_string();
                let answer = match durable.checkpoint(Caller::Api, &arn, body.as_bytes()).await {
                    Ok(answer) => answer,
                    Err(refused) => return Err(Error::new(ErrorKind::Internal, format!("{refused:?}"))),
                };
                match answer["CheckpointToken"].as_str() {
                    Some(next) => token = next.to_owned(),
                    // Its execution is paused.
                    None => return Ok(br#"{"Status":"PENDING"}"#.to_vec()),
                }
            }
            Ok(br#"{"Status":"PENDING"}"#.to_vec())
        })
    })
}

#[tokio::test]
async fn executions_go_on_with_the_next_server() {
    let dir = tempfile::tempdir().unwrap();
    let durable = stage(dir.path(), counts(3));
    let mut arns = Vec::new();
    for n in 0..8 {
        arns.push(durable.begin(start("f", Some(&format!("n{n}")))).await.unwrap().arn);
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    end(durable).await;
    let durable = stage(dir.path(), counts(3));
    for (n, arn) in arns.iter().enumerate() {
        let (found, head) = durable.invoke(start("f", Some(&format!("n{n}")))).await.unwrap();
        assert_eq!(&found.arn, arn, "the same name is the same execution");
        assert_eq!((head.status, head.result.as_deref()), (Status::Succeeded, Some("3")));
        let (history, _) = durable.history(arn, None, false, 1000, true).await.unwrap();
        let succeeded = history.iter().filter(|e| e["EventType"] == "StepSucceeded").count();
        assert_eq!(succeeded, 3);
    }
    let other = Start { input: Bytes::from_static(b"[]"), ..start("f", Some("n1")) };
    assert!(matches!(durable.begin(other).await, Err(Refused::AlreadyStarted(_))));
    let listed = durable.list(Filter { limit: 5, ..Filter::default() }).await.unwrap();
    assert_eq!(listed.len(), 5);
    assert!(listed.windows(2).all(|pair| pair[0].0 > pair[1].0), "newest first");
}

#[tokio::test]
async fn what_cannot_begin_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let durable = stage(dir.path(), counts(0));
    for (asked, wanted) in [
        (start("plain", None), "is not durable"),
        (start("nobody", None), "Function not found"),
        (start("f", Some("")), "1 to 64"),
        (start("f", Some("ä")), "1 to 64"),
        (Start { input: Bytes::from_static(b"\xff"), ..start("f", None) }, "UTF-8"),
    ] {
        let said = format!("{:?}", durable.begin(asked).await.unwrap_err());
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let unqualified = Start { qualifier: None, ..start("f", None) };
    let (started, head) = durable.invoke(unqualified).await.unwrap();
    assert!(started.arn.contains(":f:$LATEST/"), "{}", started.arn);
    assert_eq!((head.status, head.result.as_deref()), (Status::Succeeded, Some("0")));
    assert!(matches!(durable.get(&started.arn.replace(":f:", ":g:")).await, Err(Refused::NotFound(_))));
    assert!(matches!(durable.get("x").await, Err(Refused::Invalid(_))));
    durable.close();
    assert!(
        matches!(durable.begin(start("f", None)).await, Err(Refused::Platform(e)) if e.kind == ErrorKind::ShuttingDown)
    );
}

#[tokio::test]
async fn old_executions_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let durable = stage(dir.path(), counts(0));
    let (started, head) = durable.invoke(start("f", Some("old"))).await.unwrap();
    let sweep = |at: u64| durable.core.ledger.write(move |db| rows::sweep(db, at, 10), |_| {});
    let over = head.ended_ms.unwrap() + 86_400_000;
    assert_eq!(sweep(over - 1).await.unwrap().1, 0);
    assert_eq!(sweep(over).await.unwrap().1, 1);
    assert!(matches!(durable.get(&started.arn).await, Err(Refused::NotFound(_))));
    assert_ne!(durable.begin(start("f", Some("old"))).await.unwrap().arn, started.arn, "the name is free again");
}

/// An update that begins a chained invoke.
fn call(id: &str, function: &str) -> Value {
    json!({"Id": id, "Type": "CHAINED_INVOKE", "Action": "START", "Payload": "{}",
           "ChainedInvokeOptions": {"FunctionName": function}})
}

/// The chained invokes of an execution, as an invocation is told of them.
fn calls(event: &Value) -> Vec<&Value> {
    let operations = event["InitialExecutionState"]["Operations"].as_array().unwrap();
    operations.iter().filter(|o| o["Type"] == "CHAINED_INVOKE").collect()
}

#[tokio::test]
async fn chained_invokes_are_carried_out_by_the_next_server_too() {
    let dir = tempfile::tempdir().unwrap();
    // The parent calls `child`, which is durable, and `plain`, which is not; both answer only once `open` is set.
    fn play(open: Arc<AtomicBool>) -> Play {
        Box::new(move |durable, event| {
            let open = open.clone();
            Box::pin(async move {
                let Some(arn) = event["DurableExecutionArn"].as_str().map(str::to_owned) else {
                    return match open.load(Ordering::Acquire) {
                        true => Ok(b"\"plain\"".to_vec()),
                        false => Err(Error::new(ErrorKind::Throttled, "not yet")),
                    };
                };
                if arn.contains(":child:") {
                    return match open.load(Ordering::Acquire) {
                        true => Ok(br#"{"Status":"SUCCEEDED","Result":"\"child\""}"#.to_vec()),
                        false => Err(Error::new(ErrorKind::Throttled, "not yet")),
                    };
                }
                let calls = calls(&event);
                if calls.is_empty() {
                    let updates = json!([call("a", "child:$LATEST"), call("b", "plain"), call("c", "nobody")]);
                    let body = json!({"CheckpointToken": event["CheckpointToken"], "Updates": updates}).to_string();
                    let answer = durable.checkpoint(Caller::Api, &arn, body.as_bytes()).await.unwrap();
                    let third = &answer["NewExecutionState"]["Operations"][2];
                    assert_eq!(third["Status"], "FAILED", "{answer}");
                    assert_eq!(third["ChainedInvokeDetails"]["Error"]["ErrorType"], "ResourceNotFoundException");
                    return Ok(br#"{"Status":"PENDING"}"#.to_vec());
                }
                if calls.iter().any(|o| o["Status"] == "STARTED") {
                    return Ok(br#"{"Status":"PENDING"}"#.to_vec());
                }
                let answers: Vec<String> =
                    calls.iter().map(|o| o["ChainedInvokeDetails"]["Result"].to_string()).collect();
                Ok(json!({"Status": "SUCCEEDED", "Result": answers.join(" ")}).to_string().into_bytes())
            })
        })
    }
    let durable = stage(dir.path(), play(Arc::default()));
    let arn = durable.begin(start("f", Some("parent"))).await.unwrap().arn;
    tokio::time::sleep(Duration::from_millis(300)).await;
    end(durable).await;
    let durable = stage(dir.path(), play(Arc::new(AtomicBool::new(true))));
    let (found, head) = durable.invoke(start("f", Some("parent"))).await.unwrap();
    assert_eq!(found.arn, arn);
    assert_eq!(head.result.as_deref(), Some(r#""\"child\"" "\"plain\"" null"#));
    let children = durable.list(Filter { limit: 10, ..Filter::default() }).await.unwrap();
    assert_eq!(children.len(), 2, "one execution for the parent and one for the child, in both lives");
}

/// Waits until this is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many executions are in memory whole.
fn in_memory(durable: &Durable) -> usize {
    let cells = durable.core.cells.lock().unwrap();
    let is_held = |cell: Arc<Cell>| cell.held.try_lock().is_ok_and(|held| held.is_some());
    cells.values().filter_map(Weak::upgrade).filter(|cell| is_held(cell.clone())).count()
}

/// A function that waits until this is set, and ends.
fn waits_for(open: watch::Sender<bool>) -> Play {
    Box::new(move |_, _| {
        let mut opened = open.subscribe();
        Box::pin(async move {
            opened.wait_for(|open| *open).await.unwrap();
            Ok(br#"{"Status":"SUCCEEDED"}"#.to_vec())
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executions_that_wait_for_a_turn_are_not_in_memory() {
    const INPUT: usize = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let mut open = watch::Sender::new(false);
    let mut durable = stage(dir.path(), waits_for(open.clone()));
    let mut callers = Vec::new();
    for n in 0..40 {
        let input = Bytes::from(format!("\"{}\"", "x".repeat(INPUT)));
        let start = Start { input, ..start("f", Some(&format!("n{n}"))) };
        let durable = durable.clone();
        // Somebody waits for the end of each.
        callers.push(tokio::spawn(async move { durable.invoke(start).await }));
    }
    for restarted in [false, true] {
        if restarted {
            for caller in callers.drain(..) {
                caller.abort();
                caller.await.ok();
            }
            durable.abandon();
            open.send_replace(true);
            end(durable).await;
            open = watch::Sender::new(false);
            durable = stage(dir.path(), waits_for(open.clone()));
        }
        until("four run, and nothing else is done", || {
            let turns = durable.core.turns.available_permits();
            let [brief, driven, _] = durable.core.memory.taken();
            turns == 0 && brief == 0 && driven >= 4 * INPUT / 1024 && durable.core.drivers.count() == 40
        })
        .await;
        assert_eq!(in_memory(&durable), 4, "those that have a turn");
        let [_, driven, _] = durable.core.memory.taken();
        assert!(driven < 4 * (3 * INPUT / 1024), "{driven} KiB for four");
    }
    open.send_replace(true);
    until("all are let go of", || durable.core.drivers.count() == 0 && durable.core.memory.taken() == [0, 0, 0]).await;
    let ended = Filter { statuses: vec![Status::Succeeded], limit: 100, ..Filter::default() };
    assert_eq!(durable.list(ended).await.unwrap().len(), 40);
    assert_eq!(in_memory(&durable), 0);
}

#[tokio::test]
async fn a_stop_that_comes_while_an_execution_begins_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let durable = stage(dir.path(), waits_for(watch::Sender::new(false)));
    let core = durable.core.clone();
    // The disk is busy: what follows waits for it side by side.
    let busy = {
        let core = core.clone();
        tokio::spawn(async move {
            let slow = |_: &rusqlite::Connection| {
                std::thread::sleep(Duration::from_millis(300));
                Ok(())
            };
            core.ledger.write(slow, |_| {}).await.unwrap()
        })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let entering = {
        let core = core.clone();
        let head = Head { started_ms: now_ms(), ..head(60) };
        tokio::spawn(async move { core.enter(Execution::start(head, "{}".into())).await.map(|started| started.id) })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    core.change(ID, None, |execution, now| Ok(execution.stop(None, now))).await.unwrap();
    busy.await.unwrap();
    assert_eq!(entering.await.unwrap().unwrap(), ID);
    assert_eq!(core.look(ID, |execution| execution.head.status).await.unwrap(), Status::Stopped);
    let id = ID.to_owned();
    assert_eq!(core.ledger.read(move |db| rows::head(db, &id)).await.unwrap().unwrap().status, Status::Stopped);
    until("nobody drives it", || core.drivers.count() == 0).await;
}

/// A checkpoint of an invocation, as its function makes one.
async fn ask(durable: &Durable, arn: &str, token: &Value, updates: Value) -> Result<Value, Refused> {
    let body = json!({"CheckpointToken": token, "Updates": updates}).to_string();
    durable.checkpoint(Caller::Api, arn, body.as_bytes()).await
}

#[tokio::test]
async fn answers_come_in_pages_that_are_not_too_large() {
    const EACH: usize = 900_000;
    const COUNT: usize = 12;
    let dir = tempfile::tempdir().unwrap();
    let play: Play = Box::new(|durable, event| {
        Box::pin(async move {
            let arn = event["DurableExecutionArn"].as_str().unwrap().to_owned();
            let id = id_of(&arn).unwrap();
            let name = |n: usize| format!("c{n}");
            let starts: Vec<Value> =
                (0..COUNT).map(|n| json!({"Id": name(n), "Type": "CALLBACK", "Action": "START"})).collect();
            let mut answer = ask(&durable, &arn, &event["CheckpointToken"], json!(starts)).await.unwrap();
            for n in 0..COUNT {
                let result = Bytes::from("x".repeat(EACH));
                durable.answer(&tokens::callback(&id, &name(n)), Ok(result)).await.unwrap();
            }
            let ids = |answer: &Value| -> Vec<String> {
                let all = answer["Operations"].as_array().unwrap();
                all.iter().map(|o| o["Id"].as_str().unwrap().to_owned()).collect()
            };
            let wanted: Vec<String> = (0..COUNT).map(name).collect();
            // As AWS's SDK for Python goes on: the first page is the answer's, the others are asked for.
            answer = ask(&durable, &arn, &answer["CheckpointToken"], json!([])).await.unwrap();
            assert!(answer.to_string().len() < (4 << 20) + 10_000, "{}", answer.to_string().len());
            let first = ids(&answer["NewExecutionState"]);
            let mut told = first.clone();
            let mut marker = answer["NewExecutionState"]["NextMarker"].as_str().map(str::to_owned);
            let token = answer["CheckpointToken"].as_str().unwrap();
            while let Some(at) = marker {
                let page = durable.state(Caller::Api, &arn, token, Some(&at), Some(1000)).await.unwrap();
                assert!(page.to_string().len() < (4 << 20) + 10_000);
                told.extend(ids(&page));
                marker = page["NextMarker"].as_str().map(str::to_owned);
            }
            assert_eq!(told, wanted, "by asking for the rest");
            // As its SDK for JavaScript does: it takes what the next answers bring.
            let mut told = first;
            while told.len() < COUNT {
                answer = ask(&durable, &arn, &answer["CheckpointToken"], json!([])).await.unwrap();
                told.extend(ids(&answer["NewExecutionState"]));
            }
            assert_eq!(told, wanted, "by going on");
            assert_eq!(answer["NewExecutionState"]["NextMarker"], Value::Null);
            // Many in little text.
            let many: Vec<Value> =
                (0..1001).map(|n| json!({"Id": format!("s{n}"), "Type": "STEP", "Action": "START"})).collect();
            match ask(&durable, &arn, &answer["CheckpointToken"], json!(many)).await {
                Err(Refused::Invalid(said)) => assert!(said.contains("at most 1000 updates"), "{said}"),
                other => panic!("{other:?}"),
            }
            let fits = ask(&durable, &arn, &answer["CheckpointToken"], json!(many[..1000])).await.unwrap();
            assert_eq!(ids(&fits["NewExecutionState"]).len(), 1000);
            Ok(br#"{"Status":"SUCCEEDED"}"#.to_vec())
        })
    });
    let durable = stage(dir.path(), play);
    let (started, head) = durable.invoke(start("f", None)).await.unwrap();
    assert_eq!((head.status, head.error), (Status::Succeeded, None));
    // Its history is more than an answer holds as well, in either direction.
    let mut numbers = Vec::new();
    for reverse in [false, true] {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = durable.history(&started.arn, after, reverse, 1000, true).await.unwrap();
            let size: usize = page.iter().map(|e| e.to_string().len()).sum();
            assert!(size < (4 << 20) + 1_000_000, "{size}");
            all.extend(page.iter().map(|e| e["EventId"].as_u64().unwrap()));
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        numbers.push(all);
    }
    assert_eq!(numbers[0], (1..=head.events).collect::<Vec<_>>());
    numbers[1].reverse();
    assert_eq!(numbers[0], numbers[1]);
    let (page, next) = durable.history(&started.arn, Some(3), false, 2, true).await.unwrap();
    assert_eq!((page.len(), page[0]["EventId"].as_u64(), next), (2, Some(4), Some(5)));
}

#[tokio::test]
async fn what_comes_to_executions_in_memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let play: Play = Box::new(|durable, event| {
        Box::pin(async move {
            let arn = event["DurableExecutionArn"].as_str().unwrap().to_owned();
            let update = json!([{"Id": "s", "Type": "STEP", "Action": "SUCCEED", "Payload": "1"}]);
            let all = durable.core.memory.growth(usize::MAX).unwrap();
            match ask(&durable, &arn, &event["CheckpointToken"], update.clone()).await {
                Err(Refused::Platform(error)) => assert_eq!(error.kind, ErrorKind::Throttled),
                other => panic!("{other:?}"),
            }
            drop(all);
            ask(&durable, &arn, &event["CheckpointToken"], update).await.unwrap();
            let [_, _, grown] = durable.core.memory.taken();
            assert!(grown > 0, "what it holds is counted as long as it holds it");
            Ok(br#"{"Status":"SUCCEEDED"}"#.to_vec())
        })
    });
    let durable = stage(dir.path(), play);
    let (_, head) = durable.invoke(start("f", None)).await.unwrap();
    assert_eq!((head.status, head.error), (Status::Succeeded, None));
    until("it is let go of", || durable.core.memory.taken() == [0, 0, 0]).await;
}

#[tokio::test]
async fn chained_invokes_are_counted_like_any_call() {
    let dir = tempfile::tempdir().unwrap();
    // Each execution calls a plain function, and then its own function, and answers what came of that.
    let play: Play = Box::new(|durable, event| {
        Box::pin(async move {
            let Some(arn) = event["DurableExecutionArn"].as_str().map(str::to_owned) else {
                return Ok(b"\"plain\"".to_vec());
            };
            let calls = calls(&event);
            if calls.is_empty() {
                let updates = json!([call("a", "plain"), call("b", "f:$LATEST")]);
                ask(&durable, &arn, &event["CheckpointToken"], updates).await.unwrap();
                return Ok(br#"{"Status":"PENDING"}"#.to_vec());
            }
            if calls.iter().any(|o| o["Status"] == "STARTED") {
                return Ok(br#"{"Status":"PENDING"}"#.to_vec());
            }
            let details = &calls[1]["ChainedInvokeDetails"];
            let said = details["Result"].as_str().or(details["Error"]["ErrorType"].as_str()).unwrap();
            Ok(json!({"Status": "SUCCEEDED", "Result": said}).to_string().into_bytes())
        })
    });
    let (durable, ran) = stage_that_tells(dir.path(), play);
    let (_, head) = durable.invoke(start("f", None)).await.unwrap();
    assert_eq!(head.result.as_deref(), Some("RecursiveInvocationException"), "{head:?}");
    let all = durable.list(Filter { limit: 100, ..Filter::default() }).await.unwrap();
    // The first came without a trace and is not counted.
    assert_eq!(all.len(), 1 + recursion::MAX_RUNS as usize);
    let ran = ran.lock().unwrap();
    let arn = Place::default().function("plain", None);
    let plain: Vec<u32> =
        ran.iter().filter(|(f, _)| f == "plain").map(|(_, t)| recursion::runs(Some(t), &arn)).collect();
    assert_eq!(plain, vec![1; 1 + recursion::MAX_RUNS as usize], "a plain function is counted too");
}

#[tokio::test]
async fn a_paused_execution_stays_so_over_servers_and_can_be_deleted_when_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let durable = stage(dir.path(), counts(2));
    let arn = durable.begin(start("f", Some("n"))).await.unwrap().arn;
    durable.pause(&arn, pause_request(true)).await.unwrap();
    until("it is paused", || durable.core.drivers.count() == 0).await;
    assert!(matches!(durable.delete(&arn).await, Err(Refused::Conflict(_))));
    end(durable).await;
    let durable = stage(dir.path(), counts(2));
    let filter = || Filter { statuses: vec![Status::Paused], limit: 9, ..Filter::default() };
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(durable.list(filter()).await.unwrap().len(), 1, "waits that end do not wake its function");
    durable.resume(&arn, None, None).await.unwrap();
    let (_, head) = durable.invoke(start("f", Some("n"))).await.unwrap();
    assert_eq!((head.status, head.result.as_deref()), (Status::Succeeded, Some("2")));
    let before = durable.core.written.load(Ordering::Relaxed);
    durable.delete(&arn).await.unwrap();
    assert_eq!(before - durable.core.written.load(Ordering::Relaxed), head.written);
    assert!(matches!(durable.get(&arn).await, Err(Refused::NotFound(_))));
    assert!(matches!(durable.delete(&arn).await, Err(Refused::NotFound(_))));
    assert_ne!(durable.begin(start("f", Some("n"))).await.unwrap().arn, arn, "its name is free again");
}
