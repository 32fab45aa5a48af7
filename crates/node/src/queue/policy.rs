//! What comes next for an item: pure functions of what is known of it, how an attempt ended, and the time.
//!
//! The times are AWS Lambda's (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html>): errors of
//! the function are tried again after one minute and after two; throttles and failures of the platform after one second
//! up to five minutes, for as long as the event is young enough, and without spending one of the retries.

use super::item::{Condition, Delivery, EventInvokeConfig, Parcel};
use super::schedule::Pauses;

/// All waits come from one number, so that tests can run the same rules in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Wait before the first retry after an error of the function, in milliseconds; before the second it is twice that.
    pub retry_ms: u64,
}

impl Pace {
    /// AWS's: one minute.
    pub const AWS: Pace = Pace { retry_ms: 60_000 };
    /// The first wait after a setback: a sixtieth of the first retry's (AWS: 1 s).
    fn first(self) -> u64 {
        (self.retry_ms / 60).max(1)
    }
    /// How long all items of a function, or all deliveries to a target, pause when one is refused (50 ms to 30 s).
    pub fn pauses(self) -> Pauses {
        Pauses { first: (self.retry_ms / 1200).max(1), longest: (self.retry_ms / 2).max(1) }
    }
    /// The longest wait after a setback: five times the first retry's (AWS: 5 min).
    fn longest(self) -> u64 {
        self.retry_ms.saturating_mul(5).max(1)
    }
}

/// What is known of an item when an attempt or a delivery has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// When its age begins, milliseconds since 1970.
    pub born_ms: u64,
    /// Attempts that the function has answered or failed, this one not among them.
    pub attempts: u32,
    /// Setbacks in a row, this one not among them.
    pub setbacks: u32,
    /// What its jitter is made of.
    pub seed: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The function returned.
    Returned,
    /// The function failed.
    Failed,
    /// The platform could not run it now: throttled, no room, a failure of its own.
    Setback,
    /// The platform will never run it.
    Refused,
    /// The server is going: this was no attempt at all.
    NotNow,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another attempt, not before this moment.
    Again {
        /// Milliseconds since 1970.
        due_ms: u64,
        /// Attempts that count by then.
        attempts: u32,
        /// Setbacks in a row by then.
        setbacks: u32,
    },
    /// No more attempts.
    End(Condition, u32),
}

/// After an attempt.
pub fn after_attempt(p: Progress, ending: Ending, config: &EventInvokeConfig, pace: Pace, now: u64) -> Step {
    let expiry = p.born_ms.saturating_add(config.age_ms());
    let attempts = p.attempts.saturating_add(1);
    match ending {
        Ending::Returned => Step::End(Condition::Success, attempts),
        Ending::Refused => Step::End(Condition::Refused, p.attempts),
        Ending::NotNow => Step::Again { due_ms: now, attempts: p.attempts, setbacks: p.setbacks },
        Ending::Failed if attempts > config.retries() => Step::End(Condition::RetriesExhausted, attempts),
        Ending::Failed => {
            let due_ms = now.saturating_add(pace.retry_ms.saturating_mul(u64::from(attempts)));
            by(expiry, Step::Again { due_ms, attempts, setbacks: 0 }, attempts)
        }
        Ending::Setback => {
            let setbacks = p.setbacks.saturating_add(1);
            let due_ms = now.saturating_add(back_off(pace, setbacks, p.seed));
            by(expiry, Step::Again { due_ms, attempts: p.attempts, setbacks }, p.attempts)
        }
    }
}

/// Before an attempt: whether the item is too old for it.
pub fn too_old(born_ms: u64, config: &EventInvokeConfig, now: u64) -> bool {
    now > born_ms.saturating_add(config.age_ms())
}

fn by(expiry: u64, step: Step, attempts: u32) -> Step {
    match step {
        Step::Again { due_ms, .. } if due_ms > expiry => Step::End(Condition::EventAgeExceeded, attempts),
        step => step,
    }
}

/// After a server ended while the item ran: at once the first time, later and later when that repeats, so that an
/// item that takes the server down with it does not do so in a loop.
pub fn after_interruption(interruptions: u32, pace: Pace, seed: u64, now: u64) -> u64 {
    if interruptions <= 1 { now } else { now.saturating_add(back_off(pace, interruptions - 1, seed)) }
}

/// Deliveries of one item that are tried before it is kept as dead.
pub const DELIVERY_TRIES: u32 = 20;

/// After a delivery failed: when to try again; `None`: not any more.
pub fn after_delivery_failed(failures: u32, lasting: bool, pace: Pace, seed: u64, now: u64) -> Option<u64> {
    (!lasting && failures < DELIVERY_TRIES).then(|| now.saturating_add(back_off(pace, failures, seed)))
}

/// Where an outcome goes.
pub fn deliveries(condition: Condition, config: &EventInvokeConfig) -> Vec<Delivery> {
    let to = |target: &Option<_>, what| target.clone().map(|target| Delivery { target, what });
    if condition == Condition::Success {
        return to(&config.on_success, Parcel::Record).into_iter().collect();
    }
    to(&config.on_failure, Parcel::Record).into_iter().chain(to(&config.dead_letter, Parcel::Event)).collect()
}

/// The wait after the n-th setback in a row: doubled each time, between half of it and the whole.
fn back_off(pace: Pace, n: u32, seed: u64) -> u64 {
    let full = pace.first().saturating_mul(1 << n.saturating_sub(1).min(20)).min(pace.longest()).max(2);
    let half = full / 2;
    half + scramble(seed ^ u64::from(n)) % (full - half + 1)
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring numbers become unrelated ones.
pub fn scramble(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::item::Target;
    use super::*;

    const DAY: u64 = 86_400_000;

    fn config(retries: u32, age_s: u64) -> EventInvokeConfig {
        EventInvokeConfig { max_retries: Some(retries), max_age_s: Some(age_s), ..EventInvokeConfig::default() }
    }

    #[test]
    fn the_table() {
        let six_hours = config(2, 21_600);
        let p = |attempts, setbacks| Progress { born_ms: DAY, attempts, setbacks, seed: 1 };
        let again = |ms, attempts| Step::Again { due_ms: DAY + ms, attempts, setbacks: 0 };
        let cases: &[(Progress, Ending, EventInvokeConfig, u64, Step)] = &[
            // (what is known, how it ended, settings, now, what comes next)
            (p(0, 0), Ending::Returned, six_hours.clone(), 5, Step::End(Condition::Success, 1)),
            (p(2, 0), Ending::Returned, six_hours.clone(), 5, Step::End(Condition::Success, 3)),
            (p(0, 0), Ending::Failed, six_hours.clone(), 5, again(60_005, 1)),
            (p(1, 4), Ending::Failed, six_hours.clone(), 70_000, again(190_000, 2)),
            (p(2, 0), Ending::Failed, six_hours.clone(), 5, Step::End(Condition::RetriesExhausted, 3)),
            (p(0, 0), Ending::Failed, config(0, 21_600), 5, Step::End(Condition::RetriesExhausted, 1)),
            (p(1, 0), Ending::Failed, config(1, 21_600), 5, Step::End(Condition::RetriesExhausted, 2)),
            // The next attempt would come too late.
            (p(0, 0), Ending::Failed, config(2, 60), 5, Step::End(Condition::EventAgeExceeded, 1)),
            (p(0, 9), Ending::Setback, config(2, 60), 60_000, Step::End(Condition::EventAgeExceeded, 0)),
            (p(1, 0), Ending::Refused, six_hours.clone(), 5, Step::End(Condition::Refused, 1)),
            (p(1, 3), Ending::NotNow, six_hours, 5, Step::Again { due_ms: DAY + 5, attempts: 1, setbacks: 3 }),
        ];
        for (at, (progress, ending, config, now, next)) in cases.iter().enumerate() {
            assert_eq!(after_attempt(*progress, *ending, config, Pace::AWS, DAY + now), *next, "case {at}");
        }
    }

    #[test]
    fn setbacks_wait_from_a_second_to_five_minutes_and_spend_nothing() {
        let mut p = Progress { born_ms: DAY, seed: 77, ..Progress::default() };
        let (mut now, mut waits) = (DAY, Vec::new());
        loop {
            match after_attempt(p, Ending::Setback, &EventInvokeConfig::default(), Pace::AWS, now) {
                Step::Again { due_ms, attempts, setbacks } => {
                    assert_eq!(attempts, 0);
                    waits.push(due_ms - now);
                    (now, p.setbacks) = (due_ms, setbacks);
                }
                Step::End(condition, attempts) => {
                    assert_eq!((condition, attempts), (Condition::EventAgeExceeded, 0));
                    break;
                }
            }
        }
        assert!((500..=1000).contains(&waits[0]), "{waits:?}");
        assert!(waits.iter().all(|w| (500..=300_000).contains(w)), "{waits:?}");
        assert!(waits[12..].iter().all(|w| *w >= 150_000), "{waits:?}");
        assert!(now <= DAY + 21_600_000 && waits.len() < 200, "{} tries until {now}", waits.len());
    }

    /// Thousands of items with any mixture of endings: never more attempts than allowed, never later than allowed, always an end.
    #[test]
    fn every_item_ends_within_its_bounds() {
        let seed = 0x0ff5_4007_u64;
        let mut random = seed;
        let mut next = |below: u64| {
            random = scramble(random);
            random % below
        };
        for item in 0..5_000u64 {
            let config = config(next(4) as u32, 1 + next(40_000));
            let pace = Pace { retry_ms: 1 + next(120_000) };
            let mut p = Progress { born_ms: DAY, seed: item, ..Progress::default() };
            let (mut now, mut failed) = (DAY, 0);
            let (condition, attempts) = loop {
                if too_old(p.born_ms, &config, now) {
                    break (Condition::EventAgeExceeded, p.attempts);
                }
                let ending = match next(20) {
                    0 => Ending::Returned,
                    1..=6 => Ending::Failed,
                    7 => Ending::NotNow,
                    8 if next(10) == 0 => Ending::Refused,
                    _ => Ending::Setback,
                };
                failed += u32::from(ending == Ending::Failed);
                now += 1 + next(100);
                match after_attempt(p, ending, &config, pace, now) {
                    Step::Again { due_ms, attempts, setbacks } => {
                        assert!(
                            due_ms >= now && due_ms <= DAY + config.age_ms().max(now - DAY),
                            "seed {seed} item {item}"
                        );
                        (p.attempts, p.setbacks, now) = (attempts, setbacks, due_ms);
                    }
                    Step::End(condition, attempts) => break (condition, attempts),
                }
            };
            assert!(attempts <= config.retries() + 1, "seed {seed} item {item}");
            assert_eq!(attempts, failed + u32::from(condition == Condition::Success), "seed {seed} item {item}");
            assert!(
                condition != Condition::RetriesExhausted || attempts == config.retries() + 1,
                "seed {seed} item {item}"
            );
        }
    }

    #[test]
    fn interruptions_and_deliveries_back_off() {
        assert_eq!(after_interruption(1, Pace::AWS, 1, DAY), DAY);
        assert!(after_interruption(2, Pace::AWS, 1, DAY) >= DAY + 500);
        assert!(after_interruption(40, Pace::AWS, 1, DAY) >= DAY + 150_000);
        assert!(after_delivery_failed(1, false, Pace::AWS, 1, DAY).is_some_and(|due| due > DAY));
        assert_eq!(after_delivery_failed(DELIVERY_TRIES, false, Pace::AWS, 1, DAY), None);
        assert_eq!(after_delivery_failed(1, true, Pace::AWS, 1, DAY), None);
    }

    #[test]
    fn outcomes_go_where_the_settings_say() {
        let target = |name: &str| Some(Target::parse(name).unwrap());
        let config = EventInvokeConfig {
            on_success: target("yes"),
            on_failure: target("no"),
            dead_letter: target("arn:aws:sqs:r:1:dead"),
            ..EventInvokeConfig::default()
        };
        let names = |condition, config: &EventInvokeConfig| {
            deliveries(condition, config).iter().map(|d| format!("{} {:?}", d.target, d.what)).collect::<Vec<_>>()
        };
        assert_eq!(names(Condition::Success, &config), ["yes Record"]);
        for bad in
            [Condition::RetriesExhausted, Condition::EventAgeExceeded, Condition::Refused, Condition::ChainTooLong]
        {
            assert_eq!(names(bad, &config), ["no Record", "arn:aws:sqs:r:1:dead Event"]);
            assert!(names(bad, &EventInvokeConfig::default()).is_empty());
        }
    }
}
