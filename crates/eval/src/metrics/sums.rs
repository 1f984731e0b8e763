//! Sums over samples, and the ratios that follow from them.

use crate::sample::Sample;

/// The quantities that are summed over the samples of an item, a cell or a resample.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) tokens: f64,
    log_prob: f64,
    pub(super) iterations: f64,
    accepted: f64,
    asked: f64,
    score: f64,
    judged: f64,
}

impl Sums {
    pub(super) fn of(sample: &Sample) -> Self {
        let score = sample.verdict.score();
        Self {
            tokens: sample.tokens as f64,
            log_prob: sample.log_prob,
            iterations: sample.iterations as f64,
            accepted: sample.accepted as f64,
            asked: sample.asked as f64,
            score: score.unwrap_or(0.0),
            judged: f64::from(u8::from(score.is_some())),
        }
    }

    pub(super) fn total<'a>(sums: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut total = Self::default();
        for sums in sums {
            total.add(sums);
        }
        total
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.log_prob += other.log_prob;
        self.iterations += other.iterations;
        self.accepted += other.accepted;
        self.asked += other.asked;
        self.score += other.score;
        self.judged += other.judged;
    }

    pub(super) fn score(&self) -> f64 {
        self.score / self.judged
    }

    pub(super) fn perplexity(&self) -> f64 {
        (-self.log_prob / self.tokens).exp()
    }

    pub(super) fn block_efficiency(&self) -> f64 {
        1.0 + self.accepted / self.iterations
    }

    pub(super) fn acceptance_rate(&self) -> f64 {
        self.accepted / self.asked
    }
}
