//! When and how often a failed request is retried.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tower::retry::budget::{Budget, TpsBudget};

/// The first pause.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);
/// Retries per second that are always allowed: few enough not to overload a worker.
const FREE_PER_SECOND: u32 = 10;
/// Further retries, as a fraction of the steps that succeeded within the window.
const FRACTION_OF_STEPS: f32 = 0.1;
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// Pauses that double, each shortened at random by up to half, so that requests that failed together are not retried together.
#[derive(Debug)]
pub(crate) struct Backoff {
    attempt: u32,
    jitter: SmallRng,
}

impl Backoff {
    /// The same seed gives the same pauses.
    pub(crate) fn new(seed: u64) -> Self {
        Self { attempt: 0, jitter: SmallRng::seed_from_u64(seed) }
    }

    /// The pause before the next retry.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.attempt.min(16)).min(LONGEST);
        self.attempt += 1;
        whole.mul_f64(self.jitter.random_range(0.5..=1.0))
    }

    /// A request succeeded: the next pause is the first one again.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// Limits the retries of all requests together: when everything fails, retrying everything makes it worse.
#[derive(Clone, Debug)]
pub(crate) struct RetryBudget(Arc<TpsBudget>);

impl RetryBudget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(TpsBudget::new(BUDGET_WINDOW, FREE_PER_SECOND, FRACTION_OF_STEPS)))
    }

    /// A step succeeded.
    pub(crate) fn deposit(&self) {
        self.0.deposit();
    }

    /// Whether a retry is allowed now.
    pub(crate) fn withdraw(&self) -> bool {
        self.0.withdraw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ_by_seed() {
        let (mut a, mut b) = (Backoff::new(1), Backoff::new(2));
        let waits: Vec<Duration> = (0..12).map(|_| a.next()).collect();
        for (i, wait) in waits.iter().enumerate() {
            let whole = (FIRST * (1 << i)).min(LONGEST);
            assert!(*wait >= whole / 2 && *wait <= whole, "{i}: {wait:?}");
        }
        assert!((0..12).any(|i| b.next() != waits[i]));
        a.reset();
        assert!(a.next() <= FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_fraction_of_the_steps_that_succeed() {
        let budget = RetryBudget::new();
        let withdrawn = |budget: &RetryBudget| (0..10_000).take_while(|_| budget.withdraw()).count();
        let free = withdrawn(&budget);
        assert!(free <= FREE_PER_SECOND as usize * 10 && free > 0, "{free}");
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(withdrawn(&budget), 100);
    }
}
