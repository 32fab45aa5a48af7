//! The poller of a stream: follows its shards, parents before children, and reads each in order, from where the last server stopped.
//!
//! A position is saved when what lies before it is processed or given up, never earlier: after a crash records may come again, and none
//! is passed over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::events::Record;
use super::metrics::Became;
use super::plan::Start;
use super::shard::{self, Shard};
use super::store::Position;
use super::{Job, RemoteError, back_off, lanes};
use crate::pool::tap::now_ms;

/// How often new shards are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// Waits between two reads of a shard that had nothing: the first, doubled each time up to the longest (AWS: once a second).
const FIRST_IDLE: Duration = Duration::from_millis(125);
const LONGEST_IDLE: Duration = Duration::from_secs(1);

/// Works a stream until it is told to stop.
pub(super) async fn work(job: Arc<Job>) {
    let (mut readers, mut failures) = (JoinSet::new(), 0u32);
    let mut known: Option<BTreeMap<String, Position>> = None;
    let mut at_work: Vec<String> = Vec::new();
    while !job.stopping() {
        let wait = match look(&job, &mut known, &mut at_work, &mut readers).await {
            Ok(()) => {
                failures = 0;
                job.reached();
                LOOK
            }
            Err(what) => {
                failures = failures.saturating_add(1);
                job.trouble(&what);
                back_off(failures)
            }
        };
        tokio::select! {
            Some(ended) = readers.join_next() => {
                let Ok((shard, position)) = ended else {
                    job.trouble("Internal error. The reader of a shard was lost; change the mapping or restart the server to begin again");
                    continue;
                };
                at_work.retain(|s| *s != shard);
                if let Some(known) = &mut known {
                    known.insert(shard, position);
                }
            }
            () = tokio::time::sleep(wait) => {}
            () = job.stopped() => break,
        }
    }
    while readers.join_next().await.is_some() {}
}

/// Looks at the stream's shards, and starts readers for those whose turn it is.
async fn look(
    job: &Arc<Job>,
    known: &mut Option<BTreeMap<String, Position>>,
    at_work: &mut Vec<String>,
    readers: &mut JoinSet<(String, Position)>,
) -> Result<(), String> {
    let store = &job.core.positions;
    let (uuid, unwritten) = (&job.plan.uuid, |e: offshoot_model::Error| format!("Internal error. {e}"));
    let shards = shard::list(job).await.map_err(|e| format!("Connection error. {e}"))?;
    let positions = match known {
        Some(known) => known,
        None => known.insert(store.of(uuid).await.map_err(unwritten)?),
    };
    let fresh = positions.is_empty();
    let new = newcomers(&shards, positions, job.plan.start, now_ms());
    if !new.is_empty() {
        store.save(uuid, new.clone()).await.map_err(unwritten)?;
        positions.extend(new);
    }
    let gone: Vec<String> = positions.keys().filter(|id| !shards.iter().any(|s| s.id == **id)).cloned().collect();
    // A stream that shows no shards at all is being made anew: then nothing is known to be gone.
    for id in gone.into_iter().filter(|id| !shards.is_empty() && !at_work.contains(id)) {
        store.forget(uuid, Some(&id)).await.map_err(unwritten)?;
        positions.remove(&id);
    }
    for shard in ready(&shards, positions) {
        if at_work.contains(&shard.id) {
            continue;
        }
        let Some(position) = positions.get(&shard.id).cloned() else { continue };
        at_work.push(shard.id.clone());
        let reader =
            Reader { job: job.clone(), closed: shard.closed, shard: shard.id.clone(), position, fresh, tips: 0 };
        readers.spawn(reader.run());
    }
    Ok(())
}

/// Positions of shards that were not there before: of the first look where the mapping says; later ones from their beginning, since they
/// follow on others that were read.
fn newcomers(shards: &[Shard], known: &BTreeMap<String, Position>, start: Start, now: u64) -> Vec<(String, Position)> {
    let first = match start {
        _ if !known.is_empty() => Position::Oldest,
        Start::TrimHorizon => Position::Oldest,
        Start::Latest => Position::Since(now),
        Start::At(moment) => Position::Since(moment),
    };
    let new = shards.iter().filter(|s| !known.contains_key(&s.id));
    new.map(|s| (s.id.clone(), first.clone())).collect()
}

/// Shards that can be read: not read to their end, and all that they follow on is.
fn ready<'a>(shards: &'a [Shard], known: &BTreeMap<String, Position>) -> Vec<&'a Shard> {
    let open =
        |id: &String| shards.iter().any(|s| s.id == *id) && known.get(id).is_some_and(|p| *p != Position::Closed);
    shards.iter().filter(|s| known.get(&s.id) != Some(&Position::Closed) && !s.parents.iter().any(open)).collect()
}

/// Reads one shard.
struct Reader {
    job: Arc<Job>,
    shard: String,
    closed: bool,
    position: Position,
    /// The mapping begins with this look: what comes next is meant, and not a moment that was.
    fresh: bool,
    /// How many reads in a row have been at the tip and brought nothing.
    tips: u32,
}

/// After so many of them a closed shard is over, although its iterator goes on: pages of streams of tables may be empty in the
/// middle, and some servers never end an iterator.
const TIPS: u32 = 3;

impl Reader {
    /// Reads until the shard ends or the work is to stop. Answers how far it came.
    async fn run(mut self) -> (String, Position) {
        let (mut iterator, mut failures, mut idle) = (None::<String>, 0u32, FIRST_IDLE);
        if self.job.plan.start != Start::Latest {
            self.fresh = false;
        }
        while !self.job.stopping() && self.position != Position::Closed {
            match self.step(&mut iterator).await {
                Ok(true) => (failures, idle) = (0, FIRST_IDLE),
                Ok(false) => {
                    failures = 0;
                    self.job.pause(idle).await;
                    idle = (idle * 2).min(LONGEST_IDLE);
                }
                Err(error) => {
                    (iterator, self.fresh) = (None, false);
                    if error.is("TrimmedDataAccessException") {
                        self.position = Position::Oldest;
                    }
                    if !error.is("ExpiredIteratorException") {
                        failures = failures.saturating_add(1);
                        self.job.trouble(&format!("Connection error. {error}"));
                        self.job.pause(back_off(failures)).await;
                    }
                }
            }
        }
        (self.shard, self.position)
    }

    /// One read and what follows from it. Answers whether it brought anything.
    async fn step(&mut self, iterator: &mut Option<String>) -> Result<bool, RemoteError> {
        let from = match iterator.take() {
            Some(iterator) => iterator,
            None => shard::iterator(&self.job, &self.shard, &self.position, self.fresh).await?,
        };
        let (records, next, at_tip) = self.gather(from).await?;
        let brought = !records.is_empty();
        if brought {
            let last = lanes::process(&self.job, &self.shard, records).await;
            if let Some(sequence) = last.saved {
                self.position = Position::After(sequence);
                self.fresh = false;
            }
            if !last.whole {
                return Ok(true);
            }
        }
        self.tips = if at_tip && !brought { self.tips + 1 } else { 0 };
        let ends = next.is_none() || (self.closed && self.tips >= TIPS);
        *iterator = next;
        if ends {
            self.position = Position::Closed;
            let saved = vec![(self.shard.clone(), Position::Closed)];
            if let Err(error) = self.job.core.positions.save(&self.job.plan.uuid, saved).await {
                self.job.trouble(&format!("Internal error. {error}"));
            }
        }
        Ok(brought)
    }

    /// Records for the next calls: what one read brought, or what came within the batching window.
    async fn gather(&self, from: String) -> Result<(Vec<(Record, bool)>, Option<String>, bool), RemoteError> {
        let plan = &self.job.plan;
        let wanted = plan.batch * plan.lanes;
        let (mut records, mut next, mut began) = (Vec::new(), Some(from), None::<Instant>);
        loop {
            let Some(iterator) = next.take() else { return Ok((records, None, true)) };
            let page = tokio::select! {
                page = shard::read(&self.job, &self.shard, &iterator, wanted - records.len()) => page,
                () = self.job.stopped() => return Ok((Vec::new(), Some(iterator), false)),
            };
            let page = match page {
                Ok(page) => page,
                // What was read already is worked first; the next read says it again.
                Err(_) if !records.is_empty() => return Ok((records, Some(iterator), false)),
                Err(error) => return Err(error),
            };
            next = page.next;
            self.job.count(Became::Polled, page.records.len());
            let since = match &self.position {
                Position::Since(moment) if !self.fresh => *moment / 1000 * 1000,
                _ => 0,
            };
            records.extend(page.records.into_iter().filter(|(r, _)| r.arrived_ms == 0 || r.arrived_ms >= since));
            if records.is_empty() {
                return Ok((records, next, page.at_tip));
            }
            let began = *began.get_or_insert_with(Instant::now);
            let full = records.len() >= wanted
                || records.iter().map(|(r, _)| r.text.len()).sum::<usize>() >= self.job.core.parts.event_bytes;
            let left = plan.window.saturating_sub(began.elapsed());
            if full || left.is_zero() || next.is_none() || self.job.pause(left.min(LONGEST_IDLE / 2)).await {
                return Ok((records, next, page.at_tip));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str]) -> Shard {
        Shard { id: id.into(), parents: parents.iter().map(|p| (*p).to_owned()).collect(), closed: false }
    }

    #[test]
    fn children_wait_for_their_parents() {
        let all = [shard("a", &["trimmed"]), shard("b", &["a"]), shard("c", &["a", "x"]), shard("d", &[])];
        let mut known: BTreeMap<String, Position> = BTreeMap::new();
        known.extend(newcomers(&all, &known, Start::TrimHorizon, 5));
        let ids =
            |known: &BTreeMap<String, Position>| ready(&all, known).iter().map(|s| s.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&known), ["a", "d"]);
        known.insert("a".into(), Position::Closed);
        assert_eq!(ids(&known), ["b", "c", "d"]);
    }

    #[test]
    fn the_first_look_begins_where_the_mapping_says_and_later_shards_at_their_beginning() {
        let all = [shard("a", &[]), shard("b", &["a"])];
        let first = newcomers(&all[..1], &BTreeMap::new(), Start::Latest, 7);
        assert_eq!(first, [("a".to_owned(), Position::Since(7))]);
        let known = BTreeMap::from_iter(first);
        assert_eq!(newcomers(&all, &known, Start::Latest, 9), [("b".to_owned(), Position::Oldest)]);
        assert_eq!(newcomers(&all[..1], &BTreeMap::new(), Start::At(3), 9)[0].1, Position::Since(3));
    }
}
