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
/// How far a pass may be from what was expected to count whole, and how much of the way its news goes.
const SURPRISE: f64 = 1.5;
const HASTE: f64 = 0.25;
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
    /// What passes of steps alone take, and those with parts of prompts in them, in terms of `costs`. Those were measured once, on
    /// empty caches; these follow the caches, the machine, and whoever else runs on it.
    steps_take: f64,
    prompts_take: f64,
}

impl Pace {
    /// Nothing is known of the costs; a pass packs at most `rows`.
    pub fn unmeasured(rows: usize) -> Self {
        Self {
            costs: Vec::new(),
            most_rows: rows.max(1),
            last_step: None,
            steps_take: 1.0,
            prompts_take: 1.0,
        }
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

    /// How long a prompt waits for a step that is expected. Where model and services share processors, a prompt that runs at once takes
    /// them from the very requests that bring the step.
    pub(crate) const PATIENCE: Duration = Duration::from_millis(2);

    /// Whether steps ran a moment ago, so that more will come.
    pub(crate) fn expects_steps(&self) -> bool {
        !self.costs.is_empty() && self.expected() > 0
    }

    /// Rows that one forward packs.
    pub(crate) fn most_rows(&self) -> usize {
        self.most_rows
    }

    /// Steps of `rows` in all run now.
    pub(crate) fn steps_run(&mut self, rows: usize) {
        self.last_step = Some((Instant::now(), rows));
    }

    /// A pass of `rows`, of prompts among others if `prompts`, took `seconds`.
    pub(crate) fn learn(&mut self, rows: usize, prompts: bool, seconds: f64) {
        let cost = self.cost(rows);
        if cost <= 0.0 {
            return;
        }
        let take = if prompts { &mut self.prompts_take } else { &mut self.steps_take };
        // Some of the way, so that one pass that was interrupted means little.
        *take *= (seconds / cost / *take).clamp(1.0 / SURPRISE, SURPRISE).powf(HASTE);
    }

    /// Rows of prompts that may join a pass with `steps` rows of steps.
    pub(crate) fn prefill_rows(&self, steps: usize) -> usize {
        let room = self.most_rows.saturating_sub(steps).max(LEAST_ROWS);
        if self.costs.is_empty() {
            return room;
        }
        let (seconds, least) = self.allowed(steps);
        self.rows_within(seconds).saturating_sub(steps).clamp(least, room)
    }

    /// How long a pass may take that prefills too, in terms of `costs`, and how many rows of prompts it has at least.
    fn allowed(&self, steps: usize) -> (f64, usize) {
        let of_step = |rows: usize| self.cost(rows) * self.steps_take / self.prompts_take;
        match (steps, self.expected()) {
            // Where even one row takes long, many rows take hardly longer.
            (0, 0) => ((ALONE / self.prompts_take).max(STRETCH * self.cost(1)), LEAST_ROWS),
            // The step that comes meanwhile waits for this pass, and then has one of its own.
            (0, expected) => ((STRETCH - 1.0) * of_step(expected), 1),
            (steps, _) => (STRETCH * of_step(steps), LEAST_ROWS),
        }
    }

    /// Rows of the steps that are expected.
    fn expected(&self) -> usize {
        self.last_step.map_or(0, |(when, rows)| {
            let expected = EXPECTED.max(Duration::from_secs_f64(4.0 * self.cost(rows)));
            if when.elapsed() < expected { rows } else { 0 }
        })
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
        assert_eq!(
            (pace.prefill_rows(8), pace.prefill_rows(0)),
            (8, 8),
            "2 ms with the steps, 1 ms before them"
        );
        // Few rows are cheap, but a prompt gets on even if the steps fill the pass.
        assert_eq!(pace.prefill_rows(512), LEAST_ROWS);
        tokio::time::advance(EXPECTED).await;
        assert_eq!(pace.prefill_rows(0), 400, "no step is expected any more");
    }

    /// Prompts behind long prefixes, or beside a busy neighbour, cost more than was measured: they get fewer rows.
    #[test]
    fn what_passes_take_is_learnt() {
        let mut pace = pace();
        assert_eq!(pace.prefill_rows(8), 8);
        for _ in 0..50 {
            pace.learn(8, false, 1e-3);
            pace.learn(16, true, 3e-3);
        }
        // 2 ms, of which 1.5 ms for every measured millisecond: 1.33 ms by the measured costs.
        assert_eq!(pace.prefill_rows(8), LEAST_ROWS);
        assert!((pace.prompts_take - 1.5).abs() < 0.01 && (pace.steps_take - 1.0).abs() < 0.01);
        // Passes that are slower all alike change nothing.
        for _ in 0..50 {
            pace.learn(8, false, 1.5e-3);
        }
        assert_eq!(pace.prefill_rows(8), 8);
        pace.learn(8, false, 1.0);
        assert!(pace.steps_take < 1.7, "one pass that was interrupted");
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
