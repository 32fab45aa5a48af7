//! The poller of a queue that speaks SQS's protocol: receives, calls the function, and deletes what it has processed.
//!
//! What was not processed is left alone: the queue shows it again when its visibility timeout has passed, and moves it to its dead-letter
//! queue when that is set. Of FIFO queues the queue itself holds back the rest of a group while one of its messages is in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offshoot_model::{Answer, ErrorKind};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::batch::wait;
use super::events::{self, Record, Told};
use super::metrics::Became;
use super::{CALL_FAILED, Job, OK, PATIENCE, RemoteError, back_off, may_pass, new_id};
use crate::recursion;

/// Messages of one receive, and entries of one delete, at most (SQS).
const PAGE: usize = 10;
/// How long a receive waits for messages (SQS: at most 20 s).
const LONG_POLL: Duration = Duration::from_secs(20);
/// An answer without messages that comes sooner than this was not waited for.
const SOON: Duration = Duration::from_secs(1);
/// The longest that messages are held back for a function that is throttled, when the queue does not say its visibility timeout.
const HOLD: Duration = Duration::from_secs(15);
/// Tries to delete messages.
const DELETES: u32 = 4;

/// A message that was received.
struct Held {
    record: Record,
    handle: String,
    trace: Option<String>,
}

/// Works a queue until it is told to stop; what was handed to the function by then ends well.
pub(super) async fn work(job: Arc<Job>) {
    // A function that may run twice at once is not called ten times.
    let reserved = job.core.parts.host.concurrency(&job.plan.function).unwrap_or(u32::MAX);
    let places = Arc::new(Semaphore::new(job.plan.concurrency.min(reserved).max(1) as usize));
    let (mut calls, mut failures, mut url, mut rest) = (JoinSet::new(), 0u32, None::<Arc<str>>, Vec::new());
    while !job.stopping() {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = job.stopped() => break,
        };
        let Ok(place) = place else { break };
        while calls.try_join_next().is_some() {}
        let began = Instant::now();
        let gathered = match &url {
            None => match find(&job).await {
                Ok(found) => {
                    url = Some(found.into());
                    continue;
                }
                Err(error) => Err(error),
            },
            Some(url) => gather(&job, url, &mut rest).await.map(|batch| (url.clone(), batch)),
        };
        match gathered {
            Ok((url, batch)) => {
                failures = 0;
                job.reached();
                if !batch.is_empty() {
                    let job = job.clone();
                    calls.spawn(async move {
                        handle(&job, &url, batch).await;
                        drop(place);
                    });
                } else if began.elapsed() < SOON {
                    // A server that does not wait is not asked all the time.
                    job.pause(SOON).await;
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                url = None;
                job.trouble(&format!("Connection error. {error}"));
                job.pause(back_off(failures)).await;
            }
        }
    }
    if let Some(url) = &url {
        release(&job, url, &rest).await;
    }
    while calls.join_next().await.is_some() {}
}

/// The queue's URL, which the other operations name it by.
async fn find(job: &Job) -> Result<String, RemoteError> {
    let source = job.source();
    let input = json!({"QueueName": source.name, "QueueOwnerAWSAccountId": source.account});
    let answer = job.call("GetQueueUrl", input, PATIENCE).await?;
    let url = answer.get("QueueUrl").and_then(Value::as_str).map(str::to_owned);
    url.ok_or_else(|| RemoteError { code: None, message: "its answer names no queue".to_owned() })
}

/// Messages for one call: what came with one receive, or within the batching window. `rest` is what did not fit the last time.
async fn gather(job: &Arc<Job>, url: &Arc<str>, rest: &mut Vec<Held>) -> Result<Vec<Held>, RemoteError> {
    let mut held = std::mem::take(rest);
    let room = job.core.parts.event_bytes;
    // The window begins with the first message.
    let mut began = (!held.is_empty()).then(Instant::now);
    while held.len() < job.plan.batch && held.iter().map(|h| h.record.text.len()).sum::<usize>() < room {
        let left = began.map(|began| job.plan.window.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            break;
        }
        let poll = left.unwrap_or(LONG_POLL).min(LONG_POLL);
        let most = (job.plan.batch - held.len()).min(PAGE);
        let mut receiving = {
            let (job, url) = (job.clone(), url.clone());
            tokio::spawn(async move { receive(&job, &url, most, poll).await })
        };
        let received = tokio::select! {
            received = &mut receiving => received.unwrap_or_else(|lost| Err(RemoteError { code: None, message: lost.to_string() })),
            () = job.stopped() => {
                give_back(job.clone(), url.clone(), receiving);
                break;
            }
        };
        let nothing = match received {
            Ok(more) => {
                let nothing = more.is_empty();
                held.extend(sift(job, url, more).await);
                nothing
            }
            // What is held already is not held back by it.
            Err(_) if !held.is_empty() => break,
            Err(error) => return Err(error),
        };
        if held.is_empty() && nothing {
            break;
        }
        if began.is_none() && !held.is_empty() {
            began = Some(Instant::now());
        }
    }
    if job.stopping() {
        release(job, url, &held).await;
        return Ok(Vec::new());
    }
    let fits = events::fitting(held.iter().map(|h| &h.record), room).min(job.plan.batch);
    if held.len() > fits {
        *rest = held.split_off(fits);
    }
    Ok(held)
}

/// Waits, aside, for a receive that nobody wants any more: some servers do not notice that their caller has gone, and would hide what
/// they gave him. (At the end of the server nobody waits: then what such a server gave is shown again when its time has passed.)
fn give_back(job: Arc<Job>, url: Arc<str>, receiving: JoinHandle<Result<Vec<Value>, RemoteError>>) {
    tokio::spawn(async move {
        if let Ok(Ok(messages)) = receiving.await {
            let handles: Vec<&str> = messages.iter().filter_map(|m| m.get("ReceiptHandle")?.as_str()).collect();
            show(&job, &url, &handles).await;
        }
    });
}

async fn receive(job: &Job, url: &str, most: usize, poll: Duration) -> Result<Vec<Value>, RemoteError> {
    let seconds = poll.as_millis().div_ceil(1000) as u64;
    let input = json!({
        "QueueUrl": url, "MaxNumberOfMessages": most, "WaitTimeSeconds": seconds,
        // The second is the older name of the first.
        "MessageSystemAttributeNames": ["All"], "AttributeNames": ["All"], "MessageAttributeNames": ["All"],
    });
    let mut answer = job.call("ReceiveMessage", input, PATIENCE + poll).await?;
    match answer.get_mut("Messages").map(Value::take) {
        Some(Value::Array(mut messages)) => {
            // More than were asked for are nobody's to hold: they stay in the queue.
            messages.truncate(most);
            Ok(messages)
        }
        _ => Ok(Vec::new()),
    }
}

/// Keeps the messages that are for the function; the others are deleted.
async fn sift(job: &Job, url: &str, messages: Vec<Value>) -> Vec<Held> {
    job.count(Became::Polled, messages.len());
    let (mut kept, mut filtered, mut looped) = (Vec::new(), Vec::new(), Vec::new());
    for message in messages {
        let source = job.source();
        let record = events::sqs(&message, &source.arn, &source.region, !job.plan.window.is_zero());
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let trace = record["attributes"].get("AWSTraceHeader").and_then(Value::as_str).map(str::to_owned);
        let passes = job.plan.filter.is_empty() || job.plan.filter.passes(&events::sqs_seen(&record));
        let in_loop = job.core.parts.catalog.loops(&job.plan.function, trace.as_deref());
        let (id, handle) = (text("messageId"), text("receiptHandle"));
        let record = Record { id, text: record.to_string(), arrived_ms: 0, key: String::new() };
        let held = Held { record, handle, trace };
        match (passes, in_loop) {
            (false, _) => filtered.push(held),
            (true, true) => looped.push((held, message)),
            (true, false) => kept.push(held),
        }
    }
    if !filtered.is_empty() {
        job.count(Became::Filtered, filtered.len());
        delete(job, url, &filtered).await;
    }
    if !looped.is_empty() {
        stop_loop(job, url, looped).await;
    }
    kept
}

/// Messages of a chain in which the function has called itself too often: to the queue's dead-letter queue, or away (AWS does the same).
async fn stop_loop(job: &Job, url: &str, looped: Vec<(Held, Value)>) {
    let many = looped.len();
    let letters = match dead_letters(job, url).await {
        Ok(letters) => letters,
        // Whether there is one is not known: they stay in the queue, which counts how often they were received.
        Err(error) => return job.trouble(&format!("The dead-letter queue of a loop's messages is not known. {error}")),
    };
    let where_to = if letters.is_some() {
        "moved to the dead-letter queue"
    } else {
        "deleted: the queue has no dead-letter queue"
    };
    tracing::warn!(
        function = %job.plan.function, source = job.source().arn,
        "{many} messages of a loop in which the function has run {} times are {where_to}", recursion::MAX_RUNS
    );
    let mut gone = Vec::new();
    for (held, message) in looped {
        if let Some(letters) = &letters {
            let mut letter = json!({"QueueUrl": letters, "MessageBody": message["Body"]});
            if let Some(attributes) = message.get("MessageAttributes") {
                letter["MessageAttributes"] = attributes.clone();
            }
            if let Some(group) = message["Attributes"].get("MessageGroupId") {
                letter["MessageGroupId"] = group.clone();
                letter["MessageDeduplicationId"] = message["MessageId"].clone();
            }
            if let Err(error) = job.call("SendMessage", letter, PATIENCE).await {
                // It stays in the queue, which counts how often it was received.
                job.trouble(&format!("A message of a loop could not be moved to the dead-letter queue. {error}"));
                continue;
            }
        }
        gone.push(held);
    }
    job.count(Became::GivenUp, gone.len());
    delete(job, url, &gone).await;
}

/// The URL of the queue's dead-letter queue, if it has one.
async fn dead_letters(job: &Job, url: &str) -> Result<Option<String>, RemoteError> {
    let Some(policy) = attribute(job, url, "RedrivePolicy").await? else { return Ok(None) };
    let policy: Value = serde_json::from_str(&policy).unwrap_or_default();
    let target = policy.get("deadLetterTargetArn").and_then(Value::as_str).unwrap_or_default();
    let mut parts = target.rsplitn(3, ':');
    let (Some(name), Some(account)) = (parts.next(), parts.next()) else { return Ok(None) };
    let input = json!({"QueueName": name, "QueueOwnerAWSAccountId": account});
    let answer = job.call("GetQueueUrl", input, PATIENCE).await?;
    Ok(answer.get("QueueUrl").and_then(Value::as_str).map(str::to_owned))
}

async fn attribute(job: &Job, url: &str, name: &str) -> Result<Option<String>, RemoteError> {
    let input = json!({"QueueUrl": url, "AttributeNames": [name]});
    let answer = job.call("GetQueueAttributes", input, PATIENCE).await?;
    Ok(answer.get("Attributes").and_then(|all| all.get(name)).and_then(Value::as_str).map(str::to_owned))
}

/// One call, and what follows from it.
async fn handle(job: &Job, url: &str, batch: Vec<Held>) {
    let payload = Bytes::from(events::event(batch.iter().map(|h| &h.record)));
    // The longest chain is what counts, when messages of several meet.
    let arn = job.plan.function_arn.splitn(8, ':').take(7).collect::<Vec<_>>().join(":");
    let trace = batch.iter().filter_map(|h| h.trace.as_ref()).max_by_key(|t| recursion::runs(Some(t), &arn)).cloned();
    let Ok(id) = new_id() else { return };
    let (began, mut hold, mut setbacks) = (Instant::now(), None, 0u32);
    loop {
        let error = match job.run(&id, payload.clone(), trace.clone()).await {
            Ok(outcome) => match outcome.result {
                Answer::Reply { body, .. } => return settle(job, url, batch, &body).await,
                Answer::Failed(_) => {
                    job.count(Became::Failed, batch.len());
                    job.say(CALL_FAILED);
                    return;
                }
            },
            Err(error) => error,
        };
        if error.kind == ErrorKind::ShuttingDown {
            return release(job, url, &batch).await;
        }
        let hold = match hold {
            Some(hold) => hold,
            None => {
                let said = attribute(job, url, "VisibilityTimeout").await.ok().flatten().and_then(|s| s.parse().ok());
                *hold.insert(said.map_or(HOLD, |seconds: u64| Duration::from_secs(seconds) / 2))
            }
        };
        setbacks = setbacks.saturating_add(1);
        job.refused(&error);
        // The messages are shown again when their time has passed: by then nobody may still try.
        if !may_pass(&error) || began.elapsed() + wait(setbacks) >= hold {
            job.count(Became::Failed, batch.len());
            // Who cannot be called is not called again at once.
            job.pause(wait(setbacks.max(4))).await;
            return;
        }
        if job.pause(wait(setbacks)).await {
            return release(job, url, &batch).await;
        }
    }
}

/// After the function returned: what it has processed is deleted.
async fn settle(job: &Job, url: &str, batch: Vec<Held>, answer: &[u8]) {
    let failed = if job.plan.reports {
        let ids: Vec<&str> = batch.iter().map(|h| h.record.id.as_str()).collect();
        events::told(answer, &ids)
    } else {
        Told::Nothing
    };
    let (processed, failed) = match failed {
        Told::Nothing => (batch, 0),
        Told::Nonsense => {
            job.count(Became::Failed, batch.len());
            job.trouble(
                "The function's batchItemFailures name no messages of the batch; all of them will be shown again",
            );
            return;
        }
        Told::These(places) => {
            let failed = places.len();
            let kept = batch.into_iter().enumerate().filter(|(at, _)| places.binary_search(at).is_err());
            (kept.map(|(_, held)| held).collect(), failed)
        }
    };
    job.count(Became::Failed, failed);
    job.count(Became::Processed, processed.len());
    if delete(job, url, &processed).await {
        job.say(OK);
    }
}

/// Deletes messages. Answers whether that was done; if not they come again, as SQS allows.
async fn delete(job: &Job, url: &str, messages: &[Held]) -> bool {
    let mut well = true;
    for page in messages.chunks(PAGE) {
        let mut left: Vec<usize> = (0..page.len()).collect();
        for attempt in 1..=DELETES {
            let entry = |at: &usize| json!({"Id": at.to_string(), "ReceiptHandle": page[*at].handle});
            let entries: Vec<Value> = left.iter().map(entry).collect();
            let done = job.call("DeleteMessageBatch", json!({"QueueUrl": url, "Entries": entries}), PATIENCE).await;
            match done {
                Ok(answer) => {
                    let failed = answer.get("Failed").and_then(Value::as_array);
                    let id = |entry: &Value| entry.get("Id")?.as_str()?.parse().ok();
                    left = failed.into_iter().flatten().filter_map(id).filter(|at| *at < page.len()).collect();
                    if left.is_empty() {
                        break;
                    }
                }
                Err(error) if attempt == DELETES => {
                    job.trouble(&format!("Messages could not be deleted and will come again. {error}"));
                }
                Err(_) => {}
            }
            if attempt < DELETES {
                tokio::time::sleep(wait(attempt)).await;
            }
        }
        well &= left.is_empty();
    }
    well
}

/// Gives messages back to the queue at once.
async fn release(job: &Job, url: &str, messages: &[Held]) {
    let handles: Vec<&str> = messages.iter().map(|held| held.handle.as_str()).collect();
    show(job, url, &handles).await;
}

/// Lets the queue show messages again.
async fn show(job: &Job, url: &str, handles: &[&str]) {
    for page in handles.chunks(PAGE) {
        let entry = |(at, handle): (usize, &&str)| json!({"Id": at.to_string(), "ReceiptHandle": handle, "VisibilityTimeout": 0});
        let entries: Vec<Value> = page.iter().enumerate().map(entry).collect();
        let input = json!({"QueueUrl": url, "Entries": entries});
        // If it cannot be told, the queue finds out by itself.
        let _ = job.call("ChangeMessageVisibilityBatch", input, PATIENCE).await;
    }
}
