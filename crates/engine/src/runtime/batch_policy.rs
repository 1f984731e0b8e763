//! Chunked prefill: how many rows of a prompt may share a pass with the steps of other sessions.

use std::time::Duration;

use tandem_decoding::TokenId;
use tokio::time::Instant;

use crate::model::{Backend, EngineError, Keep, ModelSpec, Pass};

/// Rows that one pass packs. A single step may have more.
const MAX_PASS_ROWS: usize = 512;
/// A pass with chunks of prompts may take this many times as long as the steps in it alone.
const MAX_SLOWDOWN: f64 = 2.0;
/// Rows that a chunk has at least, so that prompts make progress beside any number of steps.
const MIN_CHUNK_ROWS: usize = 4;
/// A pass counts at most as this many times slower or faster than expected.
const MAX_DEVIATION: f64 = 1.5;
/// How far (0 to 1, on a logarithmic scale) one pass moves the estimate.
const LEARNING_RATE: f64 = 0.25;
/// Seconds that a pass of prompts may take while no step is expected. The first step of another session may
/// wait this long.
const IDLE_PASS_SECONDS: f64 = 0.05;
/// After the last step, steps are expected for this long, or for four times the duration of that step if
/// longer.
const EXPECT_STEPS_FOR: Duration = Duration::from_millis(50);
/// The warm-up stops at a pass that takes longer than this many seconds, and also longer than
/// `SLOW_PASS_RATIO` passes of one row. The costs of larger passes are extrapolated.
const SLOW_PASS_SECONDS: f64 = 0.02;
const SLOW_PASS_RATIO: f64 = 4.0;
/// The warm-up starts no larger pass after this time.
const MAX_WARM_UP: Duration = Duration::from_secs(3);

/// How long a prompt waits for a step that is expected. Where the model and the services share processors, a
/// chunk that runs at once takes them from the requests that bring the step.
pub(super) const STEP_GRACE: Duration = Duration::from_millis(2);

/// Decides how many rows of prompts go into a pass, from what passes cost and when steps last ran.
#[derive(Clone, Debug)]
pub struct BatchPolicy {
    /// Measured costs, (rows, seconds), ascending by rows. Empty: nothing was measured, and chunks fill the
    /// pass.
    costs: Vec<(usize, f64)>,
    max_rows: usize,
    /// When steps last ran, and how many rows they had.
    last_steps: Option<(Instant, usize)>,
    /// Duration of passes without prompts, as a multiple of `costs`. Those were measured once, on empty
    /// caches and an idle machine; the multiples follow longer caches and other load.
    step_factor: f64,
    /// The same for passes with chunks of prompts.
    chunk_factor: f64,
}

/// Limits of the prompt rows in a pass.
struct Limits {
    /// Duration of the whole pass, in terms of the measured costs.
    seconds: f64,
    /// Rows allowed even if they take longer.
    min_rows: usize,
}

impl BatchPolicy {
    /// A policy without costs: chunks fill passes of at most `rows`.
    pub fn unmeasured(rows: usize) -> Self {
        Self {
            costs: Vec::new(),
            max_rows: rows.max(1),
            last_steps: None,
            step_factor: 1.0,
            chunk_factor: 1.0,
        }
    }

    /// Measures passes of growing size. This also warms the backend up: what it allocates once is allocated
    /// now.
    ///
    /// # Errors
    /// The error of a pass.
    pub fn measure<B: Backend>(backend: &B, spec: &ModelSpec) -> Result<Self, EngineError> {
        let begun = std::time::Instant::now();
        let mut policy = Self::unmeasured(MAX_PASS_ROWS);
        let max_rows = MAX_PASS_ROWS.min(spec.context_length - 1);
        let mut rows = 1;
        while rows <= max_rows {
            let seconds = fastest_pass(backend, rows)?;
            policy.costs.push((rows, seconds));
            let slow = seconds > SLOW_PASS_SECONDS && seconds > SLOW_PASS_RATIO * policy.costs[0].1;
            if slow || begun.elapsed() > MAX_WARM_UP {
                break;
            }
            rows *= 2;
        }
        Ok(policy)
    }

    /// Whether steps ran so recently that more are expected.
    pub(super) fn expects_steps(&self) -> bool {
        !self.costs.is_empty() && self.expected_step_rows() > 0
    }

    /// Rows that one pass packs.
    pub(super) fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Records that steps of `rows` in total run now.
    pub(super) fn record_steps(&mut self, rows: usize) {
        self.last_steps = Some((Instant::now(), rows));
    }

    /// Expects no step until one runs.
    pub(super) fn forget_steps(&mut self) {
        self.last_steps = None;
    }

    /// Records the duration of a pass of `rows`, with chunks of prompts or without.
    pub(super) fn record_pass(&mut self, rows: usize, with_chunks: bool, seconds: f64) {
        let cost = self.cost(rows);
        if cost <= 0.0 {
            return;
        }
        let factor = if with_chunks { &mut self.chunk_factor } else { &mut self.step_factor };
        // Clamped and damped, so that a single interrupted pass changes little.
        let deviation = (seconds / cost / *factor).clamp(1.0 / MAX_DEVIATION, MAX_DEVIATION);
        *factor *= deviation.powf(LEARNING_RATE);
    }

    /// Rows of prompts that may join a pass with `step_rows` rows of steps.
    pub(super) fn chunk_rows(&self, step_rows: usize) -> usize {
        let room = self.max_rows.saturating_sub(step_rows).max(MIN_CHUNK_ROWS);
        if self.costs.is_empty() {
            return room;
        }
        let limits = self.limits(step_rows);
        let rows = self.rows_within(limits.seconds).saturating_sub(step_rows);
        rows.clamp(limits.min_rows, room)
    }

    fn limits(&self, step_rows: usize) -> Limits {
        if step_rows > 0 {
            return Limits { seconds: MAX_SLOWDOWN * self.step_seconds(step_rows), min_rows: MIN_CHUNK_ROWS };
        }
        match self.expected_step_rows() {
            // On a slow model even one row takes long, but many rows take hardly longer.
            0 => Limits {
                seconds: (IDLE_PASS_SECONDS / self.chunk_factor).max(MAX_SLOWDOWN * self.cost(1)),
                min_rows: MIN_CHUNK_ROWS,
            },
            // A step that arrives meanwhile waits for this pass, and then has one of its own.
            expected => Limits { seconds: (MAX_SLOWDOWN - 1.0) * self.step_seconds(expected), min_rows: 1 },
        }
    }

    /// Duration of a pass with `rows` rows of steps, in terms of the costs of passes with chunks.
    fn step_seconds(&self, rows: usize) -> f64 {
        self.cost(rows) * self.step_factor / self.chunk_factor
    }

    /// Rows of the steps that are expected.
    fn expected_step_rows(&self) -> usize {
        let Some((when, rows)) = self.last_steps else { return 0 };
        let window = EXPECT_STEPS_FOR.max(Duration::from_secs_f64(4.0 * self.cost(rows)));
        if when.elapsed() < window { rows } else { 0 }
    }

    /// Measured seconds of a pass: interpolated between measured sizes, in proportion to the rows beyond the
    /// last.
    fn cost(&self, rows: usize) -> f64 {
        let index = self.costs.partition_point(|&(r, _)| r < rows);
        let below = index.checked_sub(1).map(|i| self.costs[i]);
        let above = self.costs.get(index).copied();
        match (below, above) {
            (None, None) => 0.0,
            (None, Some((_, first))) => first,
            (Some((r, seconds)), None) => seconds * rows as f64 / r as f64,
            (Some((r0, s0)), Some((r1, s1))) => s0 + (s1 - s0) * (rows - r0) as f64 / (r1 - r0) as f64,
        }
    }

    /// The most rows of a pass that costs `seconds`.
    fn rows_within(&self, seconds: f64) -> usize {
        // A binary search: costs hardly ever fall with more rows, and an error of a few rows does no harm.
        let mut low = 0;
        let mut high = self.max_rows + 1;
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if self.cost(middle) <= seconds {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Seconds of a pass of `rows` on an empty cache: the faster of two, because the first pass of a size pays
/// for what later ones reuse.
fn fastest_pass<B: Backend>(backend: &B, rows: usize) -> Result<f64, EngineError> {
    let mut cache = backend.new_cache(rows);
    let pass = Pass::causal(0, vec![TokenId(0); rows]).with_logits([0]);
    let mut fastest = f64::INFINITY;
    for _ in 0..2 {
        let begun = std::time::Instant::now();
        backend.run(&mut cache, &pass)?;
        fastest = fastest.min(begun.elapsed().as_secs_f64());
        backend.keep(&mut cache, &Keep { prefix: 0, rows: Vec::new() })?;
    }
    Ok(fastest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor: 1 ms for up to 8 rows, then in proportion to the rows.
    fn measured() -> BatchPolicy {
        let costs = vec![(1, 1e-3), (8, 1e-3), (16, 2e-3), (512, 64e-3)];
        BatchPolicy { costs, ..BatchPolicy::unmeasured(512) }
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_are_large_alone_and_small_beside_steps() {
        let mut policy = measured();
        assert_eq!(policy.chunk_rows(0), 400, "50 ms");
        policy.record_steps(8);
        assert_eq!(policy.chunk_rows(8), 8, "2 ms with the steps");
        assert_eq!(policy.chunk_rows(0), 8, "1 ms before the steps");
        // A prompt makes progress even if the steps fill the pass.
        assert_eq!(policy.chunk_rows(512), MIN_CHUNK_ROWS);
        tokio::time::advance(EXPECT_STEPS_FOR).await;
        assert_eq!(policy.chunk_rows(0), 400, "no step is expected any more");
    }

    /// Prompts with long prefixes, or on a busy machine, cost more than was measured: they get fewer rows.
    #[test]
    fn the_policy_learns_the_duration_of_passes() {
        let mut policy = measured();
        assert_eq!(policy.chunk_rows(8), 8);
        for _ in 0..50 {
            policy.record_pass(8, false, 1e-3);
            policy.record_pass(16, true, 3e-3);
        }
        // 2 ms are allowed. Chunks take 1.5 times the measured cost, so 1.33 ms by the measured costs.
        assert_eq!(policy.chunk_rows(8), MIN_CHUNK_ROWS);
        assert!((policy.chunk_factor - 1.5).abs() < 0.01);
        assert!((policy.step_factor - 1.0).abs() < 0.01);
        // If steps are slower to the same degree, nothing changes.
        for _ in 0..50 {
            policy.record_pass(8, false, 1.5e-3);
        }
        assert_eq!(policy.chunk_rows(8), 8);
        policy.record_pass(8, false, 1.0);
        assert!(policy.step_factor < 1.7, "a single interrupted pass changes little");
    }

    /// A large model, limited by memory bandwidth: one row takes most of a second, and sixteen hardly longer.
    #[test]
    fn a_slow_model_gets_chunks_that_cost_little_more_than_one_row() {
        let slow =
            BatchPolicy { costs: vec![(1, 0.8), (16, 0.9), (32, 1.6)], ..BatchPolicy::unmeasured(512) };
        assert_eq!(slow.chunk_rows(0), 32);
    }

    #[test]
    fn costs_are_interpolated_and_extrapolated() {
        let policy = measured();
        for (rows, cost) in [(1, 1e-3), (4, 1e-3), (12, 1.5e-3), (264, 33e-3), (1024, 128e-3)] {
            assert!((policy.cost(rows) - cost).abs() < 1e-9, "{rows}: {}", policy.cost(rows));
        }
        assert_eq!(BatchPolicy::unmeasured(64).chunk_rows(60), MIN_CHUNK_ROWS);
        assert_eq!(BatchPolicy::unmeasured(64).chunk_rows(10), 54);
    }
}
