//! What an iteration did, added up.

use std::time::Duration;

use tandem_decoding::Method;

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token.
    EndOfSequence,
    /// This stop string.
    Stop(String),
    /// The tokens asked for, or the end of the context.
    Length,
}

/// The end of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// What it took.
    pub statistics: Statistics,
}

/// What a generation took.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// How it was decoded.
    pub method: Method,
    /// Tokens emitted.
    pub new_tokens: usize,
    /// Propose-score-accept rounds.
    pub iterations: usize,
    /// Rounds in which something was proposed.
    pub drafts: usize,
    /// Nodes proposed.
    pub drafted: usize,
    /// Sum of the depths asked for.
    pub depth_asked: usize,
    /// Nodes accepted, before trimming.
    pub accepted: usize,
    /// `[γ]`: iterations that accepted at least as many nodes, by depth from 1.
    pub accepted_by_depth: Vec<usize>,
    /// Iterations without a draft because no draft worker was there.
    pub undrafted: usize,
    /// Sessions opened again because their worker was lost or drained.
    pub failovers: usize,
    /// Waiting for a place.
    pub waiting: Duration,
    /// Opening the sessions, prefill included.
    pub prefill: Duration,
    /// Waiting for the draft, prefill not included.
    pub draft: Duration,
    /// Waiting for the target, prefill not included.
    pub target: Duration,
    /// Of the time of the draft: on the way there and back.
    pub draft_network: Duration,
    /// Of the time of the target: on the way there and back.
    pub target_network: Duration,
    /// Until the first token was emitted.
    pub first_token: Duration,
    /// Everything.
    pub total: Duration,
}

impl Statistics {
    /// Nothing yet, for `γ = depth`.
    pub fn new(method: Method, depth: usize) -> Self {
        Self {
            method,
            new_tokens: 0,
            iterations: 0,
            drafts: 0,
            drafted: 0,
            depth_asked: 0,
            accepted: 0,
            accepted_by_depth: vec![0; depth],
            undrafted: 0,
            failovers: 0,
            waiting: Duration::ZERO,
            prefill: Duration::ZERO,
            draft: Duration::ZERO,
            target: Duration::ZERO,
            draft_network: Duration::ZERO,
            target_network: Duration::ZERO,
            first_token: Duration::ZERO,
            total: Duration::ZERO,
        }
    }

    /// Counts an iteration.
    pub(crate) fn count(&mut self, depth_asked: usize, drafted: usize, accepted: usize) {
        self.iterations += 1;
        self.depth_asked += depth_asked;
        self.drafts += usize::from(drafted > 0);
        self.drafted += drafted;
        self.accepted += accepted;
        for count in self.accepted_by_depth.iter_mut().take(accepted) {
            *count += 1;
        }
    }

    /// `1 + accepted / iterations`.
    pub fn block_efficiency(&self) -> f64 {
        1.0 + ratio(self.accepted, self.iterations)
    }

    /// Accepted per depth asked for.
    pub fn acceptance_rate(&self) -> f64 {
        ratio(self.accepted, self.depth_asked)
    }

    /// What is neither waiting, for a place or a worker, nor prefill.
    pub fn orchestration(&self) -> Duration {
        self.total.saturating_sub(self.waiting + self.prefill + self.draft + self.target)
    }

    /// The parts of the total, by name.
    pub(crate) fn parts(&self) -> [(&'static str, Duration); 6] {
        [
            ("waiting", self.waiting),
            ("prefill", self.prefill),
            ("draft", self.draft.saturating_sub(self.draft_network)),
            ("target", self.target.saturating_sub(self.target_network)),
            ("network", self.draft_network + self.target_network),
            ("orchestration", self.orchestration()),
        ]
    }
}

fn ratio(a: usize, b: usize) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}
