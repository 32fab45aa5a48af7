//! What comes next for a piece of a stream's batch: done, tried again, split or given up. Pure functions of how an attempt ended.
//!
//! The rules are AWS Lambda's (<https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html> and
//! <https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html>): records of a lane stay in order, a split does not
//! count as a retry, and what throttles or the platform's failures cost does not either.

use std::time::Duration;

/// Wait before the first attempt after a failure; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Neighbouring records of a lane, by their places in it: `from` is the first, `to` is behind the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The first record.
    pub from: usize,
    /// Behind the last one.
    pub to: usize,
    /// Attempts that failed.
    pub failures: u32,
    /// Attempts that the platform could not make, in a row.
    pub setbacks: u32,
}

/// What a mapping says about failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `BisectBatchOnFunctionError`.
    pub bisect: bool,
    /// `MaximumRetryAttempts`; `None`: as often as it takes.
    pub retries: Option<u32>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All records are processed.
    Well,
    /// The function failed; or it named this record (its place in the lane) as the first that is to be tried again.
    Failed(Option<usize>),
    /// The platform could not run it now.
    Setback,
}

/// What follows from an attempt. The records before `done` are behind us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Records of the piece before this place are processed.
    pub done: usize,
    /// Records that are given up: from `done` to the end of the piece.
    pub given_up: bool,
    /// What is tried next, in this order.
    pub again: Vec<Piece>,
    /// How long to wait before that.
    pub wait: Duration,
}

/// After an attempt with a piece.
pub fn after(piece: Piece, ended: Ended, rules: Rules) -> Next {
    let again = |again: Vec<Piece>, done, wait| Next { done, given_up: false, again, wait };
    match ended {
        Ended::Well => again(Vec::new(), piece.to, Duration::ZERO),
        Ended::Setback => {
            let setbacks = piece.setbacks.saturating_add(1);
            again(vec![Piece { setbacks, ..piece }], piece.from, wait(setbacks))
        }
        Ended::Failed(first) => {
            let done = first.map_or(piece.from, |at| at.clamp(piece.from, piece.to.saturating_sub(1)));
            let rest = Piece { from: done, setbacks: 0, ..piece };
            let several = rest.to - rest.from > 1;
            if rules.bisect && done > piece.from {
                // The function has said where to split.
                return again(vec![rest], done, Duration::ZERO);
            }
            if rules.bisect && several {
                let middle = rest.from + (rest.to - rest.from).div_ceil(2);
                return again(vec![Piece { to: middle, ..rest }, Piece { from: middle, ..rest }], done, Duration::ZERO);
            }
            if done > piece.from {
                // The position has moved on: what is left has all its attempts before it (recorded from AWS).
                return again(vec![Piece { failures: 0, ..rest }], done, wait(1));
            }
            let failures = piece.failures.saturating_add(1);
            if rules.retries.is_some_and(|most| failures > most) {
                return Next { done, given_up: true, again: Vec::new(), wait: Duration::ZERO };
            }
            again(vec![Piece { failures, ..rest }], done, wait(failures))
        }
    }
}

/// The wait after the n-th failure in a row.
pub fn wait(n: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << n.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a whole batch against a function that fails whenever one of these records is in it.
    fn run(len: usize, poison: &[usize], rules: Rules, tells: bool) -> (Vec<usize>, Vec<usize>, u32) {
        let mut todo = vec![Piece { from: 0, to: len, failures: 0, setbacks: 0 }];
        let (mut well, mut lost, mut calls) = (Vec::new(), Vec::new(), 0);
        while let Some(piece) = todo.pop() {
            calls += 1;
            assert!(calls < 1000, "it does not end");
            let bad = poison.iter().copied().find(|p| (piece.from..piece.to).contains(p));
            let ended = match bad {
                None => Ended::Well,
                Some(at) => Ended::Failed(tells.then_some(at)),
            };
            let next = after(piece, ended, rules);
            well.extend(piece.from..next.done);
            if next.given_up {
                lost.extend(next.done..piece.to);
            }
            todo.extend(next.again.into_iter().rev());
        }
        (well, lost, calls)
    }

    #[test]
    fn a_poisoned_record_is_isolated_by_splitting() {
        let rules = Rules { bisect: true, retries: Some(1) };
        let (well, lost, _) = run(8, &[5], rules, false);
        assert_eq!((well, lost), (vec![0, 1, 2, 3, 4, 6, 7], vec![5]));
        let (well, lost, calls) = run(8, &[5], rules, true);
        // The rest from the fifth on is split without the function's help.
        assert_eq!((well.len(), lost), (7, vec![5]));
        assert!(calls <= 8, "{calls}");
    }

    #[test]
    fn without_splitting_the_rest_is_given_up_together() {
        let (well, lost, calls) = run(4, &[1], Rules { bisect: false, retries: Some(2) }, false);
        assert_eq!((well, lost, calls), (vec![], vec![0, 1, 2, 3], 3));
        let (well, lost, calls) = run(4, &[2], Rules { bisect: false, retries: Some(0) }, true);
        assert_eq!((well, lost, calls), (vec![0, 1], vec![2, 3], 2));
    }

    #[test]
    fn records_stay_in_order_and_none_is_missing() {
        for len in 1..20 {
            for poison in 0..len {
                for bisect in [false, true] {
                    for tells in [false, true] {
                        let (mut well, lost, _) = run(len, &[poison], Rules { bisect, retries: Some(3) }, tells);
                        assert!(well.is_sorted(), "{well:?}");
                        well.extend(lost);
                        well.sort_unstable();
                        assert_eq!(well, (0..len).collect::<Vec<_>>());
                    }
                }
            }
        }
    }

    #[test]
    fn setbacks_cost_no_retry_and_wait_longer() {
        let piece = Piece { from: 0, to: 3, failures: 1, setbacks: 0 };
        let next = after(piece, Ended::Setback, Rules { bisect: true, retries: Some(1) });
        assert_eq!(next.again, [Piece { setbacks: 1, ..piece }]);
        assert!(wait(1) < wait(2) && wait(60) == LONGEST_WAIT);
        // For ever, if nobody says how often.
        let never =
            after(Piece { failures: 9999, ..piece }, Ended::Failed(None), Rules { bisect: false, retries: None });
        assert!(!never.given_up && never.wait == LONGEST_WAIT);
    }
}
