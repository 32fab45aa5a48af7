//! Decisions about a pool as pure functions: how many instances to start, how many to keep warm, which to stop.
//!
//! Nothing here waits, measures time or touches an instance; the pool asks and does.

use std::time::{Duration, Instant};

/// What a pool looks like when it decides about starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolView {
    /// Instances that serve or could serve, busy ones included.
    pub instances: u32,
    /// Instances being started.
    pub starting: u32,
    /// Invocations that wait.
    pub waiting: u32,
    /// Invocations that one instance serves at once.
    pub per_instance: u32,
    /// Most instances that the function may have.
    pub limit: u32,
    /// How long one invocation has been taking; zero = unknown.
    pub run: Duration,
    /// How long a start has been taking; zero = unknown.
    pub start: Duration,
}

/// How many starts to begin now.
///
/// A start is worth it when the instances at hand would take longer to get to the last waiting call than a start takes.
/// So a burst of long calls gets an instance each, at once, and a burst of calls of microseconds does not set off a
/// stampede of starts that finish after everybody has been served.
pub fn starts_wanted(view: &PoolView) -> u32 {
    let per = view.per_instance.max(1);
    let coming = view.instances + view.starting;
    let room = view.limit.saturating_sub(coming);
    let unserved = view.waiting.div_ceil(per).saturating_sub(view.starting);
    if unserved == 0 || room == 0 {
        return 0;
    }
    if coming > 0 && !view.run.is_zero() && !view.start.is_zero() {
        let rounds = f64::from(view.waiting) / f64::from(coming * per);
        let wait = view.run.as_secs_f64() * rounds;
        if wait < view.start.as_secs_f64() {
            return 0;
        }
        // As many instances as bring the wait down to what a start costs, but no more than are unserved.
        let useful = (wait / view.start.as_secs_f64() * f64::from(coming)).ceil() as u32;
        return unserved.min(room).min(useful.saturating_sub(coming).max(1));
    }
    unserved.min(room)
}

/// How long a process that is ready may have to wait for a processor on a busy machine: a few turns of the scheduler
/// (`base_slice_ns`, about 3 ms). A shorter delay says nothing about the process.
pub const SLICE: Duration = Duration::from_millis(8);
/// Below this the handler's own time is small against what switching between processes costs.
const QUICK: Duration = Duration::from_micros(300);
/// Longest estimated wait that is worth it to keep calls together.
const PATIENCE: Duration = Duration::from_millis(25);

/// Whether something that happened then shows that work goes on.
pub fn lately(then: Instant) -> bool {
    then.elapsed() < PATIENCE
}

/// Whether a call should go behind the calls of busy instances although an idle one is there: when calls are so quick that
/// one more active process would only take the processor from the others. `flowing`: instances that serve such calls now;
/// `lanes`: as many of them as this machine has processors for, beside the server and whoever calls; `crowded`: there are
/// such instances, and if none gets on, it is because too many processes want the processors.
pub fn better_wait(run: Duration, waiting: u32, flowing: u32, lanes: u32, crowded: impl FnOnce() -> bool) -> bool {
    let quick = !run.is_zero() && run <= QUICK && run * (waiting + 1) / flowing.max(1) < PATIENCE;
    quick && (flowing >= lanes || crowded())
}

/// How long a handler takes by itself: the shortest of recent runs. The others also waited for the processor, and more
/// instances would only make them wait longer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Runs {
    /// Since when `now` is collected.
    since: Option<Instant>,
    now: Option<Duration>,
    before: Option<Duration>,
}

/// How long a run counts, at least; at most twice as long.
const RECENT: Duration = Duration::from_secs(1);

impl Runs {
    /// Takes note of a run that ended at `at`.
    pub fn note(&mut self, run: Duration, at: Instant) {
        if self.since.is_none_or(|since| at.saturating_duration_since(since) > RECENT) {
            self.since = Some(at);
            self.before = self.now.take();
        }
        self.now = Some(self.now.map_or(run, |now| now.min(run)).max(Duration::from_nanos(1)));
    }

    /// The shortest recent run; zero = unknown.
    pub fn shortest(&self) -> Duration {
        self.now.into_iter().chain(self.before).min().unwrap_or_default()
    }
}

/// Predicts how many instances a function will need at once, from the peaks of past ticks: an exponentially weighted mean
/// of the peaks and of their deviation. The mean follows faster the more the last peak surprised it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Predictor {
    mean: f64,
    deviation: f64,
    seen: bool,
}

/// Smallest and largest weight of the newest peak.
const ALPHA: (f64, f64) = (0.05, 0.95);
/// How many deviations above the mean are kept ready.
const MARGIN: f64 = 1.0;
/// Below this the prediction is nothing: a function that nobody calls scales to zero.
const QUIET: f64 = 0.5;

impl Predictor {
    /// Takes the highest number of invocations that ran at once during the last tick.
    pub fn observe(&mut self, peak: u32) {
        let peak = f64::from(peak);
        if !self.seen {
            self.seen = peak > 0.0;
            self.mean = peak;
            return;
        }
        let surprise = (peak - self.mean).abs();
        let alpha = (surprise / (self.mean + 1.0)).clamp(ALPHA.0, ALPHA.1);
        // A rise is followed at once, a fall slowly: a cold start costs a caller, an idle instance costs a megabyte.
        let alpha = if peak < self.mean { alpha.min(0.1) } else { alpha };
        self.mean += alpha * (peak - self.mean);
        self.deviation += 0.2 * (surprise - self.deviation);
    }

    /// How many instances to have ready, at most `bound`.
    pub fn wanted(&self, bound: u32) -> u32 {
        if self.mean < QUIET {
            return 0;
        }
        ((self.mean + MARGIN * self.deviation.min(self.mean)).round() as u32).min(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(instances: u32, starting: u32, waiting: u32) -> PoolView {
        PoolView { instances, starting, waiting, per_instance: 1, limit: 1000, ..PoolView::default() }
    }

    #[test]
    fn an_unknown_function_gets_an_instance_for_each_call() {
        assert_eq!(starts_wanted(&view(0, 0, 5)), 5);
        assert_eq!(starts_wanted(&view(0, 3, 5)), 2);
        assert_eq!(starts_wanted(&view(0, 5, 5)), 0);
    }

    #[test]
    fn the_limit_holds() {
        assert_eq!(starts_wanted(&PoolView { limit: 4, ..view(2, 1, 10) }), 1);
        assert_eq!(starts_wanted(&PoolView { limit: 3, ..view(2, 1, 10) }), 0);
    }

    #[test]
    fn several_calls_share_an_instance() {
        assert_eq!(starts_wanted(&PoolView { per_instance: 10, ..view(0, 0, 25) }), 3);
    }

    #[test]
    fn calls_of_microseconds_set_off_no_stampede() {
        let quick = PoolView { run: Duration::from_micros(50), start: Duration::from_millis(3), ..view(1, 0, 50) };
        assert_eq!(starts_wanted(&quick), 0);
        let slow = PoolView { run: Duration::from_millis(200), ..quick };
        assert_eq!(starts_wanted(&slow), 50);
    }

    #[test]
    fn quick_calls_stay_together_and_others_spread() {
        let quick = Duration::from_micros(40);
        let better_wait = |run, waiting, flowing| better_wait(run, waiting, flowing, 2, || false);
        assert!(better_wait(quick, 3, 2));
        assert!(super::better_wait(quick, 3, 1, 2, || true), "a crowd");
        assert!(!better_wait(quick, 3, 1), "a core is free");
        assert!(!better_wait(quick, 4000, 2), "the wait would be long");
        assert!(!better_wait(Duration::from_millis(5), 3, 2), "a call that takes its time");
        assert!(!better_wait(Duration::ZERO, 3, 2), "nothing is known");
    }

    #[test]
    fn the_shortest_recent_run_counts_and_is_forgotten() {
        let start = Instant::now();
        let (ms, at) = (Duration::from_millis, |ms| start + Duration::from_millis(ms));
        let mut runs = Runs::default();
        assert_eq!(runs.shortest(), Duration::ZERO);
        for (run, when) in [(5, 0), (1, 10), (7, 900)] {
            runs.note(ms(run), at(when));
        }
        assert_eq!(runs.shortest(), ms(1));
        runs.note(ms(9), at(1_100));
        assert_eq!(runs.shortest(), ms(1), "it ended less than two seconds ago");
        runs.note(ms(8), at(2_200));
        assert_eq!(runs.shortest(), ms(8));
    }

    /// Bursts of 20 simultaneous calls every 35 s, instances kept for 30 s: how many calls meet a cold start, with and
    /// without prediction? (The bench of docs/design/004 prints the same for other shapes.)
    fn cold_calls(predict: bool) -> (u32, u32) {
        const TICK: u64 = 10;
        let (mut warm, mut last_used, mut predictor) = (0u32, 0u64, Predictor::default());
        let (mut cold, mut kept_seconds) = (0, 0);
        for second in 0..3600u64 {
            let burst = if second % 35 == 0 { 20 } else { 0 };
            if burst > 0 {
                cold += burst - warm.min(burst);
                warm = warm.max(burst);
                last_used = second;
            }
            if second % TICK == 0 {
                predictor.observe(burst);
            }
            if second - last_used >= 30 {
                warm = if predict { warm.min(predictor.wanted(20)) } else { 0 };
            }
            if predict && second % TICK == 0 {
                warm = warm.max(predictor.wanted(20));
            }
            kept_seconds += warm;
        }
        (cold, kept_seconds)
    }

    #[test]
    fn prediction_spares_most_cold_starts_of_a_periodic_burst() {
        let (without, kept_without) = cold_calls(false);
        let (with, kept_with) = cold_calls(true);
        assert_eq!(without, 20 * 103, "every burst is cold without prediction");
        assert!(with * 2 < without, "{with} cold calls with prediction, {without} without");
        assert!(kept_with < 2 * kept_without, "{kept_with} instance seconds with prediction, {kept_without} without");
    }

    #[test]
    fn a_function_that_nobody_calls_scales_to_zero() {
        let mut predictor = Predictor::default();
        (0..10).for_each(|_| predictor.observe(50));
        assert!(predictor.wanted(1000) >= 50);
        (0..200).for_each(|_| predictor.observe(0));
        assert_eq!(predictor.wanted(1000), 0);
    }
}
