//! The measurements of one generation.

use serde::{Deserialize, Serialize};

use crate::judge::Verdict;

/// One generation of an evaluation: an item under one cell and seed. Times are wall-clock milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// [`crate::CellSpec::id`].
    pub cell: String,
    /// [`crate::Item::id`].
    pub item: String,
    /// Seed of the random draws.
    pub seed: u64,
    /// One answer per turn.
    pub answers: Vec<String>,
    /// The verdict on the last answer, or the reason why there is no answer.
    pub verdict: Verdict,
    /// Tokens emitted.
    pub tokens: u64,
    /// Sum of the log-probabilities of these tokens under the unwarped target, natural log.
    pub log_prob: f64,
    /// Iterations of propose, score, accept.
    pub iterations: u64,
    /// Nodes accepted, before trimming.
    pub accepted: u64,
    /// Draft depth requested, summed over the iterations.
    pub asked: u64,
    /// Iterations that accepted at least this many nodes, by depth from 1.
    pub accepted_by_depth: Vec<u64>,
    /// Time to open the sessions, prompt included.
    pub prefill_ms: f64,
    /// Time spent waiting for the draft.
    pub draft_ms: f64,
    /// Time spent waiting for the target.
    pub target_ms: f64,
    /// The remaining time.
    pub orchestration_ms: f64,
    /// Energy of the machine's packages or GPUs; absent if it cannot be measured or a turn was not answered.
    pub joules: Option<f64>,
}

impl Sample {
    /// A sample without any answer or measurement yet.
    pub fn new(cell: String, item: String, seed: u64) -> Self {
        Self {
            cell,
            item,
            seed,
            answers: Vec::new(),
            verdict: Verdict::Unjudged,
            tokens: 0,
            log_prob: 0.0,
            iterations: 0,
            accepted: 0,
            asked: 0,
            accepted_by_depth: Vec::new(),
            prefill_ms: 0.0,
            draft_ms: 0.0,
            target_ms: 0.0,
            orchestration_ms: 0.0,
            joules: None,
        }
    }

    /// Time of the generation without prefill.
    pub fn decode_ms(&self) -> f64 {
        self.draft_ms + self.target_ms + self.orchestration_ms
    }
}
