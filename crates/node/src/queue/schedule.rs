//! Whose turn it is: which item starts next, and when there is nothing to do until then. Items of one function, and
//! deliveries to one target, form a lane; lanes take turns, so that a long one does not hold up a short one, and a lane
//! that is refused pauses by itself.
//!
//! A data structure without a clock, without a lock and without I/O: time comes in, decisions come out.

use std::collections::{BTreeSet, HashMap, VecDeque};

use offshoot_model::FunctionName;

use super::item::Target;

/// The pauses of a lane that is refused, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// After the first refusal; doubled for each that follows.
    pub first: u64,
    /// The longest.
    pub longest: u64,
}

/// What waits in one line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Attempts of one function.
    Function(FunctionName),
    /// Deliveries to one target.
    Target(Target),
}

/// How the start of an item went, as far as its lane is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    /// It was served: what stands at the end of the lane is there.
    Through,
    /// It was refused: others of the lane would be, too.
    Refused,
}

#[derive(Debug, Default)]
struct Line {
    due: BTreeSet<(u64, i64)>,
    running: u32,
    /// How many may run at once: halved when one is refused, one more for each that goes through.
    window: u32,
    refusals: u32,
    not_before: u64,
    place: Place,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Nowhere,
    Ready,
    Sleeping(u64),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Start this item; `finished` is to be called for it.
    Start(Lane, i64),
    /// Nothing before this moment (milliseconds since 1970), unless something changes.
    Until(u64),
    /// Nothing, unless something changes.
    Nothing,
}

/// All lanes.
#[derive(Debug)]
pub struct Schedule {
    lines: HashMap<Lane, Line>,
    ready: VecDeque<Lane>,
    sleeping: BTreeSet<(u64, Lane)>,
    running: u32,
    limit: u32,
    share: u32,
    pauses: Pauses,
}

impl Schedule {
    /// At most `limit` items run at once, and at most `share` of one lane.
    pub fn new(limit: u32, share: u32, pauses: Pauses) -> Self {
        let (limit, share) = (limit.max(1), share.max(1));
        Schedule {
            lines: HashMap::new(),
            ready: VecDeque::new(),
            sleeping: BTreeSet::new(),
            running: 0,
            limit,
            share,
            pauses,
        }
    }

    /// An item is to be started, not before this moment.
    pub fn push(&mut self, lane: Lane, due_ms: u64, seq: i64) {
        let share = self.share;
        let line = self.lines.entry(lane.clone()).or_insert_with(|| Line { window: share, ..Line::default() });
        line.due.insert((due_ms, seq));
        self.place(&lane);
    }

    /// An item that was not started is not to be started any more.
    pub fn remove(&mut self, lane: &Lane, due_ms: u64, seq: i64) {
        if let Some(line) = self.lines.get_mut(lane) {
            line.due.remove(&(due_ms, seq));
        }
        self.place(lane);
    }

    /// What to do now. `cap` says how many items of a lane may run at once, at most.
    pub fn next(&mut self, now: u64, cap: &dyn Fn(&Lane) -> u32) -> Turn {
        while let Some((due, _)) = self.sleeping.first()
            && *due <= now
        {
            let Some((_, lane)) = self.sleeping.pop_first() else { break };
            if let Some(line) = self.lines.get_mut(&lane) {
                line.place = Place::Ready;
                self.ready.push_back(lane);
            }
        }
        if self.running >= self.limit {
            return Turn::Nothing;
        }
        while let Some(lane) = self.ready.pop_front() {
            let most = cap(&lane).clamp(1, self.share);
            let Some(line) = self.lines.get_mut(&lane) else { continue };
            line.place = Place::Nowhere;
            let startable = line.running < line.window.min(most) && line.not_before <= now;
            let Some(&(due, seq)) = line.due.first().filter(|(due, _)| startable && *due <= now) else {
                // A full lane is looked at again when one of its items has finished.
                if line.running == 0 || line.running < line.window.min(most) {
                    self.place(&lane);
                }
                continue;
            };
            line.due.remove(&(due, seq));
            line.running += 1;
            self.running += 1;
            self.place(&lane);
            return Turn::Start(lane, seq);
        }
        self.sleeping.first().map_or(Turn::Nothing, |(due, _)| Turn::Until(*due))
    }

    /// An item that was started has ended, one way or the other.
    pub fn finished(&mut self, lane: &Lane, went: Option<Went>, now: u64) {
        let Some(line) = self.lines.get_mut(lane) else { return };
        line.running = line.running.saturating_sub(1);
        self.running = self.running.saturating_sub(1);
        match went {
            Some(Went::Through) => {
                line.refusals = 0;
                line.not_before = 0;
                line.window = line.window.saturating_add(1).min(self.share);
            }
            Some(Went::Refused) => {
                line.refusals = line.refusals.saturating_add(1);
                line.window = (line.window / 2).max(1);
                line.not_before = now.saturating_add(pause(line.refusals, self.pauses));
            }
            None => {}
        }
        self.place(lane);
    }

    /// Items that were started and have not ended.
    pub fn running(&self) -> u32 {
        self.running
    }

    /// Puts a lane where it belongs: to sleep until its first item is due, or nowhere.
    fn place(&mut self, lane: &Lane) {
        let Some(line) = self.lines.get_mut(lane) else { return };
        if line.place == Place::Ready {
            return;
        }
        let first = line.due.first().filter(|_| line.running < line.window);
        let wanted = match first {
            Some((due, _)) => Place::Sleeping((*due).max(line.not_before)),
            None => Place::Nowhere,
        };
        if line.place != wanted {
            if let Place::Sleeping(at) = line.place {
                self.sleeping.remove(&(at, lane.clone()));
            }
            if let Place::Sleeping(at) = wanted {
                self.sleeping.insert((at, lane.clone()));
            }
            line.place = wanted;
        }
        if line.due.is_empty() && line.running == 0 {
            self.lines.remove(lane);
        }
    }
}

/// The pause of a lane after so many refusals in a row.
fn pause(refusals: u32, pauses: Pauses) -> u64 {
    pauses.first.saturating_mul(1 << refusals.saturating_sub(1).min(16)).min(pauses.longest)
}

#[cfg(test)]
mod tests {
    use super::super::policy::scramble;
    use super::*;

    fn lane(name: &str) -> Lane {
        Lane::Function(FunctionName::parse(name).unwrap())
    }
    const PAUSES: Pauses = Pauses { first: 50, longest: 30_000 };
    const ANY: fn(&Lane) -> u32 = |_| u32::MAX;

    fn start(s: &mut Schedule, now: u64) -> Option<(String, i64)> {
        match s.next(now, &ANY) {
            Turn::Start(Lane::Function(name), seq) => Some((name.to_string(), seq)),
            _ => None,
        }
    }

    #[test]
    fn lanes_take_turns() {
        let mut s = Schedule::new(100, 100, PAUSES);
        (0..50).for_each(|seq| s.push(lane("long"), 1, seq));
        s.push(lane("short"), 2, 100);
        let first: Vec<_> = (0..3).filter_map(|_| start(&mut s, 10)).map(|(name, _)| name).collect();
        assert!(first.contains(&"short".to_owned()), "{first:?}");
    }

    #[test]
    fn a_lane_at_its_limit_does_not_hold_up_others() {
        let mut s = Schedule::new(100, 100, PAUSES);
        (0..50).for_each(|seq| s.push(lane("limited"), 1, seq));
        (50..60).for_each(|seq| s.push(lane("free"), 1, seq));
        let cap = |l: &Lane| if *l == lane("limited") { 2 } else { u32::MAX };
        let mut started = Vec::new();
        while let Turn::Start(Lane::Function(name), _) = s.next(1, &cap) {
            started.push(name.to_string());
        }
        assert_eq!(started.iter().filter(|n| *n == "limited").count(), 2);
        assert_eq!(started.iter().filter(|n| *n == "free").count(), 10);
        assert_eq!(s.next(1, &cap), Turn::Nothing, "no spinning at a full lane");
        s.finished(&lane("limited"), Some(Went::Through), 1);
        assert!(matches!(s.next(1, &cap), Turn::Start(..)));
    }

    #[test]
    fn one_lane_takes_its_share_and_all_take_the_limit() {
        let mut s = Schedule::new(10, 4, PAUSES);
        for name in ["a", "b", "c"] {
            (0..50).for_each(|seq| s.push(lane(name), 1, seq));
        }
        let started: Vec<_> = std::iter::from_fn(|| start(&mut s, 1)).collect();
        assert_eq!(started.len(), 10);
        for name in ["a", "b", "c"] {
            assert!((3..=4).contains(&started.iter().filter(|(n, _)| n == name).count()));
        }
    }

    #[test]
    fn a_refused_lane_pauses_and_comes_back() {
        let mut s = Schedule::new(10, 8, PAUSES);
        (0..50).for_each(|seq| s.push(lane("a"), 1, seq));
        let mut now = 1;
        let mut tries = 0;
        while now < 60_000 {
            match s.next(now, &ANY) {
                Turn::Start(lane, _) => {
                    tries += 1;
                    s.finished(&lane, Some(Went::Refused), now);
                }
                Turn::Until(due) => now = due,
                Turn::Nothing => break,
            }
        }
        assert!((10..40).contains(&tries), "{tries} tries in a minute");
        let Turn::Start(lane, _) = s.next(now + 60_000, &ANY) else { panic!("nothing starts") };
        s.finished(&lane, Some(Went::Through), now);
        assert!(matches!(s.next(now + 60_000, &ANY), Turn::Start(..)), "one that goes through ends the pause");
    }

    #[test]
    fn nothing_is_started_early_and_idle_means_sleep() {
        let mut s = Schedule::new(10, 8, PAUSES);
        assert_eq!(s.next(5, &ANY), Turn::Nothing);
        s.push(lane("a"), 100, 1);
        assert_eq!(s.next(5, &ANY), Turn::Until(100));
        s.push(lane("a"), 50, 2);
        assert_eq!(s.next(5, &ANY), Turn::Until(50));
        s.remove(&lane("a"), 50, 2);
        assert_eq!(s.next(99, &ANY), Turn::Until(100));
        assert!(matches!(s.next(100, &ANY), Turn::Start(..)));
        assert_eq!(s.next(100, &ANY), Turn::Nothing);
        s.finished(&lane("a"), None, 100);
        assert!(s.lines.is_empty() && s.sleeping.is_empty() && s.ready.is_empty(), "{s:?}");
    }

    /// Whatever happens in whatever order, every item is started once, never early, and within the limits.
    #[test]
    fn simulation() {
        for seed in 0..40u64 {
            let mut random = seed;
            let mut below = |n: u64| {
                random = scramble(random);
                random % n
            };
            let (limit, share) = (1 + below(12) as u32, 1 + below(6) as u32);
            let mut s = Schedule::new(limit, share, PAUSES);
            let (mut now, mut pushed, mut started, mut running) = (0u64, HashMap::new(), HashMap::new(), Vec::new());
            for seq in 0..400i64 {
                let (of, due) = (lane(&format!("f{}", below(5))), below(2_000));
                s.push(of.clone(), due, seq);
                pushed.insert(seq, (of, due));
            }
            while started.len() < 400 || !running.is_empty() {
                let turn = s.next(now, &|l| if *l == lane("f1") { 1 } else { u32::MAX });
                match turn {
                    Turn::Start(of, seq) => {
                        let (expected, due) = &pushed[&seq];
                        assert!(*expected == of && *due <= now, "seed {seed}");
                        assert!(started.insert(seq, ()).is_none(), "seed {seed}: {seq} twice");
                        running.push(of.clone());
                        let most = if of == lane("f1") { 1 } else { share };
                        assert!(running.len() <= limit as usize, "seed {seed}");
                        assert!(running.iter().filter(|l| **l == of).count() <= most as usize, "seed {seed}");
                    }
                    _ if !running.is_empty() && below(3) > 0 => {
                        let of = running.swap_remove(below(running.len() as u64) as usize);
                        let went = [None, Some(Went::Through), Some(Went::Refused)][below(3) as usize];
                        s.finished(&of, went, now);
                    }
                    Turn::Until(due) => now = now.max(due),
                    Turn::Nothing => assert!(!running.is_empty(), "seed {seed}: stuck after {}", started.len()),
                }
            }
            assert_eq!(s.running(), 0);
            assert!(s.lines.is_empty(), "seed {seed}: {s:?}");
        }
    }
}
