//! What passes cost, and so how much of a prompt may go along with the steps of others.

use std::time::Duration;

use tandem_decoding::TokenId;
use tokio::time::Instant;

use crate::{Backend, EngineError, ModelSpec, Pass, Segment};

/// Rows that one forward packs. A single step may have more.
const PACKED_ROWS: usize = 512;
/// A pass that also prefills may take this many times as long as the steps in it alone.
const STRETCH: f64 = 2.0;
/// Rows of a prompt that go along at least, so that it gets on.
const LEAST_ROWS: usize = 4;
/// How long a pass may take that prefills while no step is expected: so long may the first step of somebody else wait.
const ALONE: f64 = 0.05;
/// Steps are expected for this long after the last one, or for four times as long as it took.
const EXPECTED: Duration = Duration::from_millis(50);
/// Warm-up stops at a pass that takes longer, in seconds, and several times as long as that of one row: larger ones are guessed.
const LONG_PASS: f64 = 0.02;
const SEVERAL: f64 = 4.0;
/// Nor does it go on for longer.
const LONG_WARM_UP: Duration = Duration::from_secs(3);

/// The cost of a pass by its rows, and when steps last ran.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Ascending (rows, seconds). Empty: nothing is known, and prompts go by the most rows at once.
    costs: Vec<(usize, f64)>,
    most_rows: usize,
    last_step: Option<(Instant, usize)>,
}

impl Pace {
    /// Nothing is known of the costs; a pass packs at most `rows`.
    pub fn unmeasured(rows: usize) -> Self {
        Self { costs: Vec::new(), most_rows: rows.max(1), last_step: None }
    }

    /// Times passes of growing size; that also allocates what a backend allocates once.
    pub fn measure<B: Backend>(backend: &B, spec: &ModelSpec) -> Result<Self, EngineError> {
        let warm_up = std::time::Instant::now();
        let mut pace = Self::unmeasured(PACKED_ROWS);
        let most = PACKED_ROWS.min(spec.context_length - 1);
        let sizes =
            std::iter::successors(Some(1usize), |&rows| Some(rows * 2)).take_while(|&rows| rows <= most);
        for rows in sizes {
            let mut cache = backend.new_cache(rows);
            let pass = Pass { logits: vec![0], ..Pass::causal(0, vec![TokenId(0); rows]) };
            let mut best = f64::INFINITY;
            // The first pass of a size pays for what later ones reuse.
            for _ in 0..2 {
                let begun = std::time::Instant::now();
                backend.forward(&mut [Segment { cache: &mut cache, pass: &pass }])?;
                best = best.min(begun.elapsed().as_secs_f64());
                backend.keep(&mut cache, &crate::Keep { prefix: 0, rows: Vec::new() })?;
            }
            pace.costs.push((rows, best));
            let long = best > LONG_PASS && best > SEVERAL * pace.costs[0].1;
            if long || warm_up.elapsed() > LONG_WARM_UP {
                break;
            }
        }
        Ok(pace)
    }

    /// Rows that one forward packs.
    pub(crate) fn most_rows(&self) -> usize {
        self.most_rows
    }

    /// Steps of `rows` in all run now.
    pub(crate) fn steps_run(&mut self, rows: usize) {
        self.last_step = Some((Instant::now(), rows));
    }

    /// Rows of prompts that may join a pass with `steps` rows of steps.
    pub(crate) fn prefill_rows(&self, steps: usize) -> usize {
        let room = self.most_rows.saturating_sub(steps).max(LEAST_ROWS);
        let Some(seconds) = self.allowed(steps) else { return room };
        self.rows_within(seconds).saturating_sub(steps).clamp(LEAST_ROWS, room)
    }

    /// How long a pass may take that prefills too; `None`: nothing is known.
    fn allowed(&self, steps: usize) -> Option<f64> {
        if self.costs.is_empty() {
            return None;
        }
        let last = self.last_step.map_or(0, |(when, rows)| {
            let expected = EXPECTED.max(Duration::from_secs_f64(4.0 * self.cost(rows)));
            if when.elapsed() < expected { rows } else { 0 }
        });
        match steps.max(last) {
            // Where even one row takes long, many rows take hardly longer.
            0 => Some(ALONE.max(STRETCH * self.cost(1))),
            rows => Some(STRETCH * self.cost(rows)),
        }
    }

    /// Seconds of a pass: between measured sizes, or beyond the last in proportion.
    fn cost(&self, rows: usize) -> f64 {
        let above = self.costs.partition_point(|&(r, _)| r < rows);
        match (above.checked_sub(1).map(|i| self.costs[i]), self.costs.get(above)) {
            (None, None) => 0.0,
            (None, Some(&(_, first))) => first,
            (Some((r, seconds)), None) => seconds * rows as f64 / r as f64,
            (Some((r0, s0)), Some(&(r1, s1))) => s0 + (s1 - s0) * (rows - r0) as f64 / (r1 - r0) as f64,
        }
    }

    /// The most rows that a pass of `seconds` has.
    fn rows_within(&self, seconds: f64) -> usize {
        // Costs hardly ever fall with rows, and a search that errs by a few rows then does no harm.
        let (mut low, mut high) = (0, self.most_rows + 1);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if self.cost(middle) <= seconds { low = middle } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor: 1 ms for up to 8 rows, then in proportion.
    fn pace() -> Pace {
        Pace { costs: vec![(1, 1e-3), (8, 1e-3), (16, 2e-3), (512, 64e-3)], ..Pace::unmeasured(512) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_prompt_goes_in_large_parts_alone_and_in_small_ones_beside_steps() {
        let mut pace = pace();
        assert_eq!(pace.prefill_rows(0), 400, "50 ms");
        pace.steps_run(8);
        assert_eq!((pace.prefill_rows(8), pace.prefill_rows(0)), (8, 16), "2 ms");
        // Few rows are cheap, but a prompt gets on even if the steps fill the pass.
        assert_eq!(pace.prefill_rows(512), LEAST_ROWS);
        tokio::time::advance(EXPECTED).await;
        assert_eq!(pace.prefill_rows(0), 400, "no step is expected any more");
    }

    /// A large model, bound by memory: a row takes most of a second, and so do sixteen.
    #[test]
    fn a_slow_model_takes_prompts_in_parts_that_cost_little_more_than_a_row() {
        let slow = Pace { costs: vec![(1, 0.8), (16, 0.9), (32, 1.6)], ..Pace::unmeasured(512) };
        assert_eq!(slow.prefill_rows(0), 32);
    }

    #[test]
    fn costs_are_read_between_and_beyond_what_was_measured() {
        let pace = pace();
        for (rows, cost) in [(1, 1e-3), (4, 1e-3), (12, 1.5e-3), (264, 33e-3), (1024, 128e-3)] {
            assert!((pace.cost(rows) - cost).abs() < 1e-9, "{rows}: {}", pace.cost(rows));
        }
        assert_eq!(Pace::unmeasured(64).prefill_rows(60), LEAST_ROWS);
        assert_eq!(Pace::unmeasured(64).prefill_rows(10), 54);
    }
}
