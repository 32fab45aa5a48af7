//! Works the records that were read from a shard: in lanes by partition key, each in order, with the retries, splits and
//! destinations that the mapping asks for.
//!
//! The position behind the last record that has no unfinished one before it is saved after every call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use offshoot_model::time::rfc3339;
use offshoot_model::{Answer, ErrorKind, RequestId};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::batch::{self, Ended, Piece, wait};
use super::events::{self, Record, Told};
use super::metrics::Became;
use super::store::Position;
use super::{CALL_FAILED, Job, OK, Service, may_pass, new_id};
use crate::pool::tap::now_ms;
use crate::queue::Shipment;

/// Tries to tell a destination of a batch that was given up.
const TELLS: u32 = 12;

/// How far the work came.
pub(super) struct Came {
    /// The sequence number behind which the shard goes on, when that has changed.
    pub saved: Option<String>,
    /// All records are behind us.
    pub whole: bool,
}

/// Which records of a read are behind us.
struct Progress {
    ids: Vec<String>,
    done: Vec<bool>,
    /// Records before this one are all done.
    until: usize,
}

/// The records of one lane, with their places in the read.
struct Lane {
    job: Arc<Job>,
    shard: String,
    records: Vec<Record>,
    places: Vec<usize>,
    progress: Arc<Mutex<Progress>>,
    /// Held while a position is saved, so that an older one never follows a newer.
    saving: Arc<tokio::sync::Mutex<()>>,
}

/// Works records, and returns when all are behind us or the work is to stop.
pub(super) async fn process(job: &Arc<Job>, shard: &str, records: Vec<(Record, bool)>) -> Came {
    let ids: Vec<String> = records.iter().map(|(r, _)| r.id.clone()).collect();
    let done: Vec<bool> = records.iter().map(|(_, passes)| !passes).collect();
    job.count(Became::Filtered, done.iter().filter(|d| **d).count());
    let progress = Arc::new(Mutex::new(Progress { ids, done, until: 0 }));
    let saving = Arc::new(tokio::sync::Mutex::new(()));
    let mut lanes: Vec<Lane> = Vec::new();
    for _ in 0..job.plan.lanes {
        let (progress, saving) = (progress.clone(), saving.clone());
        let (records, places) = (Vec::new(), Vec::new());
        lanes.push(Lane { job: job.clone(), shard: shard.to_owned(), records, places, progress, saving });
    }
    for (place, (record, passes)) in records.into_iter().enumerate() {
        if passes {
            let at = lane_of(&record.key, lanes.len());
            lanes[at].places.push(place);
            lanes[at].records.push(record);
        }
    }
    let mut running = JoinSet::new();
    for lane in lanes {
        running.spawn(async move {
            lane.run().await;
            lane.save().await;
        });
    }
    while running.join_next().await.is_some() {}
    let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let saved = progress.until.checked_sub(1).and_then(|last| progress.ids.get(last)).cloned();
    Came { saved, whole: progress.until == progress.ids.len() }
}

/// Which lane a key belongs to.
fn lane_of(key: &str, lanes: usize) -> usize {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (hash % lanes.max(1) as u64) as usize
}

impl Lane {
    async fn run(&self) {
        let mut from = 0;
        while from < self.records.len() {
            let most = self.records.len().min(from + self.job.plan.batch);
            let fits = events::fitting(self.records[from..most].iter(), self.job.core.parts.event_bytes);
            let to = (from + fits).min(most);
            let mut todo = VecDeque::from([Piece { from, to, failures: 0, setbacks: 0 }]);
            while let Some(piece) = todo.pop_front() {
                if self.job.stopping() {
                    return;
                }
                let Some(again) = self.attempt(piece).await else { return };
                for piece in again.into_iter().rev() {
                    todo.push_front(piece);
                }
            }
            from = to;
        }
    }

    /// One attempt with a piece. Answers what is next, or that the work is to stop.
    async fn attempt(&self, piece: Piece) -> Option<Vec<Piece>> {
        let young = self.young_from(piece);
        if young > piece.from {
            let old = Piece { to: young, ..piece };
            self.give_up(old, "RecordAgeExceeded", &new_id().ok()?, None).await?;
            return Some(if young < piece.to { vec![Piece { from: young, ..piece }] } else { Vec::new() });
        }
        let id = new_id().ok()?;
        let records = &self.records[piece.from..piece.to];
        let payload = Bytes::from(events::event(records.iter()));
        let (ended, context) = match self.job.run(&id, payload, None).await {
            Ok(outcome) => {
                let version = outcome.version.map_or_else(|| "$LATEST".to_owned(), |n| n.to_string());
                let ended = match &outcome.result {
                    Answer::Reply { body, .. } => self.read_answer(piece, body),
                    Answer::Failed(_) => Ended::Failed(None),
                };
                let failed = matches!(outcome.result, Answer::Failed(_)).then_some("Unhandled");
                let context = json!({"statusCode": 200, "executedVersion": version, "functionError": failed});
                (ended, Some(context))
            }
            // Not made, and to be made by the next server.
            Err(error) if error.kind == ErrorKind::ShuttingDown => return None,
            Err(error) => {
                self.job.refused(&error);
                (
                    if may_pass(&error) || error.kind == ErrorKind::NotFound {
                        Ended::Setback
                    } else {
                        Ended::Failed(None)
                    },
                    None,
                )
            }
        };
        let next = batch::after(piece, ended, self.job.plan.rules);
        self.done(piece.from, next.done, Became::Processed);
        if ended == Ended::Well {
            self.job.say(OK);
        } else {
            self.job.count(Became::Failed, piece.to - next.done);
            if context.is_some() {
                self.job.say(CALL_FAILED);
            }
        }
        if next.given_up {
            let rest = Piece { from: next.done, ..piece };
            self.give_up(rest, "RetryAttemptsExhausted", &id, Some((context, piece.failures + 1))).await?;
        }
        self.save().await;
        if !next.wait.is_zero() && self.job.pause(next.wait).await {
            return None;
        }
        Some(next.again)
    }

    fn read_answer(&self, piece: Piece, body: &[u8]) -> Ended {
        if !self.job.plan.reports {
            return Ended::Well;
        }
        let ids: Vec<&str> = self.records[piece.from..piece.to].iter().map(|r| r.id.as_str()).collect();
        match events::told(body, &ids) {
            Told::Nothing => Ended::Well,
            Told::These(places) => Ended::Failed(places.first().map(|first| piece.from + first)),
            Told::Nonsense => Ended::Failed(None),
        }
    }

    /// The first record of a piece that is not too old.
    fn young_from(&self, piece: Piece) -> usize {
        let Some(age) = self.job.plan.max_age else { return piece.from };
        let oldest = now_ms().saturating_sub(age.as_millis() as u64);
        let old = |r: &&Record| r.arrived_ms > 0 && r.arrived_ms < oldest;
        piece.from + self.records[piece.from..piece.to].iter().take_while(old).count()
    }

    /// These records of the lane are behind us.
    fn done(&self, from: usize, to: usize, became: Became) {
        if from >= to {
            return;
        }
        self.job.count(became, to - from);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        for place in &self.places[from..to] {
            progress.done[*place] = true;
        }
    }

    /// Saves how far the read has come, if it has come further. A disk that does not take it is waited for.
    async fn save(&self) {
        let _turn = self.saving.lock().await;
        let (until, id) = {
            let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            let more = progress.done[progress.until..].iter().take_while(|done| **done).count();
            let until = progress.until + more;
            if more == 0 {
                return;
            }
            (until, progress.ids[until - 1].clone())
        };
        let position = vec![(self.shard.clone(), Position::After(id))];
        for attempt in 1.. {
            match self.job.core.positions.save(&self.job.plan.uuid, position.clone()).await {
                Ok(()) => break,
                Err(error) => self.job.trouble(&format!("Internal error. {error}")),
            }
            if self.job.pause(wait(attempt)).await {
                return;
            }
        }
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).until = until;
    }

    /// Gives records up, when the mapping's destination has been told of them. `None`: the work is to stop before that.
    async fn give_up(
        &self,
        piece: Piece,
        condition: &str,
        id: &RequestId,
        last: Option<(Option<Value>, u32)>,
    ) -> Option<()> {
        if let Some(target) = &self.job.plan.on_failure {
            let body = Bytes::from(self.account(piece, condition, id, last));
            for attempt in 1.. {
                let shipment =
                    Shipment { target: target.clone(), body: body.clone(), attributes: Vec::new(), trace: None };
                let Err(why) = self.job.core.parts.carrier.carry(shipment).await else { break };
                self.job.trouble(&format!(
                    "The destination {target} was not told of a batch that was given up. {}",
                    why.message
                ));
                if why.lasting || attempt >= TELLS {
                    tracing::error!(%target, record = %String::from_utf8_lossy(&body), "given up without its destination's knowledge: {}", why.message);
                    break;
                }
                if self.job.pause(wait(attempt)).await {
                    return None;
                }
            }
        }
        self.done(piece.from, piece.to, Became::GivenUp);
        Some(())
    }

    /// What a destination is told: AWS's record of a batch that was given up, its parts in AWS's order. It names the records; it does
    /// not hold them.
    fn account(&self, piece: Piece, condition: &str, id: &RequestId, last: Option<(Option<Value>, u32)>) -> String {
        let records = &self.records[piece.from..piece.to];
        let of = |record: Option<&Record>| record.map(|r| (r.id.clone(), arrival(r.arrived_ms))).unwrap_or_default();
        let ((first, first_at), (end, end_at)) = (of(records.first()), of(records.last()));
        let (context, attempts) = last.unwrap_or((None, piece.failures.max(1)));
        let info = json!({
            "shardId": self.shard, "startSequenceNumber": first, "endSequenceNumber": end,
            "approximateArrivalOfFirstRecord": first_at, "approximateArrivalOfLastRecord": end_at,
            "batchSize": records.len(), "streamArn": self.job.source().arn,
        });
        let name = match self.job.source().service {
            Service::DynamoDbStreams => "DDBStreamBatchInfo",
            _ => "KinesisBatchInfo",
        };
        let request = json!({
            "requestId": id.as_str(), "functionArn": self.job.plan.function_arn, "condition": condition, "approximateInvokeCount": attempts,
        });
        let response = context.map(|c| format!(r#""responseContext":{c},"#)).unwrap_or_default();
        let now = rfc3339(now_ms());
        format!(r#"{{"requestContext":{request},{response}"version":"1.0","timestamp":"{now}","{name}":{info}}}"#)
    }
}

/// A moment as AWS tells it in these records: whole seconds have no fraction.
fn arrival(ms: u64) -> String {
    rfc3339(ms).replace(".000Z", "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_in_its_lane() {
        for lanes in 1..=10 {
            let mut used = std::collections::BTreeSet::new();
            for key in 0..200 {
                let key = format!("key-{key}");
                let lane = lane_of(&key, lanes);
                assert!(lane < lanes && lane == lane_of(&key, lanes));
                used.insert(lane);
            }
            assert_eq!(used.len(), lanes);
        }
    }
}
