//! Who is let in: a token bucket per function, as a pure function of time.
//!
//! It never waits and never looks at a clock itself.

use std::time::{Duration, Instant};

/// Tokens of one function. A rate of 0 lets everything in.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    last: Instant,
}

impl Bucket {
    /// A full bucket: `rate` tokens a second, room for a tenth of that (at least one).
    pub fn new(rate: u32, now: Instant) -> Self {
        let burst = f64::from((rate / 10).max(1));
        Bucket { rate: f64::from(rate), burst, tokens: burst, last: now }
    }

    /// Takes a token, or says how long it is until there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.rate == 0.0 {
            return Ok(());
        }
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_tenth_through_at_once_and_the_rest_in_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(50, start);
        let at_once = (0..100).filter(|_| bucket.take(start).is_ok()).count();
        assert_eq!(at_once, 5);
        let mut let_in = 0;
        for ms in 1..=1000 {
            let_in += u32::from(bucket.take(start + Duration::from_millis(ms)).is_ok());
        }
        assert!((49..=51).contains(&let_in), "{let_in}");
        let wait = bucket.take(start + Duration::from_millis(1000)).unwrap_err();
        assert!(wait <= Duration::from_millis(20));
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut bucket = Bucket::new(0, Instant::now());
        assert!((0..10_000).all(|_| bucket.take(Instant::now()).is_ok()));
    }
}
