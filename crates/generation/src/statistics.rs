//! What the iterations of a generation did, added up.

use std::time::Duration;

use tandem_decoding::Method;

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token was committed.
    EndOfSequence,
    /// This stop string was generated.
    Stop(String),
    /// The requested number of tokens, or the end of the context, was reached.
    Length,
}

impl FinishReason {
    /// The name in metrics, traces and OpenAI's API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EndOfSequence | Self::Stop(_) => "stop",
            Self::Length => "length",
        }
    }
}

/// The end of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Why it ended.
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
    /// Rounds of propose, score, accept.
    pub iterations: usize,
    /// Iterations in which something was proposed.
    pub drafts: usize,
    /// Nodes proposed.
    pub drafted: usize,
    /// Sum of the depths that were requested.
    pub depth_requested: usize,
    /// Nodes accepted, before the end of the sequence was cut off.
    pub accepted: usize,
    /// `[γ]`: iterations that accepted at least this many nodes, by depth from 1.
    pub accepted_by_depth: Vec<usize>,
    /// Iterations without a draft because no draft worker was available.
    pub undrafted: usize,
    /// Sessions opened again because their worker was lost or drained.
    pub failovers: usize,
    /// Time in the admission queue.
    pub queued: Duration,
    /// Time to open the sessions, prefill included.
    pub prefill: Duration,
    /// Time the loop waited for the draft, prefill not included.
    pub draft: Duration,
    /// Time the loop waited for the target, prefill not included.
    pub target: Duration,
    /// The part of `draft` that was spent on the network.
    pub draft_network: Duration,
    /// The part of `target` that was spent on the network.
    pub target_network: Duration,
    /// Time from arrival until the first token was emitted.
    pub first_token: Duration,
    /// Time from arrival to the end.
    pub total: Duration,
}

impl Statistics {
    /// Nothing counted yet, for a draft depth of `γ = depth`.
    pub fn new(method: Method, depth: usize) -> Self {
        Self {
            method,
            new_tokens: 0,
            iterations: 0,
            drafts: 0,
            drafted: 0,
            depth_requested: 0,
            accepted: 0,
            accepted_by_depth: vec![0; depth],
            undrafted: 0,
            failovers: 0,
            queued: Duration::ZERO,
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
    pub(crate) fn count(&mut self, depth_requested: usize, drafted: usize, accepted: usize) {
        self.iterations += 1;
        self.depth_requested += depth_requested;
        self.drafts += usize::from(drafted > 0);
        self.drafted += drafted;
        self.accepted += accepted;
        for count in self.accepted_by_depth.iter_mut().take(accepted) {
            *count += 1;
        }
    }

    /// Tokens per iteration: `1 + accepted / iterations`.
    pub fn block_efficiency(&self) -> f64 {
        1.0 + ratio(self.accepted, self.iterations)
    }

    /// Accepted nodes per depth requested.
    pub fn acceptance_rate(&self) -> f64 {
        ratio(self.accepted, self.depth_requested)
    }

    /// The time that is neither queueing, prefill, nor waiting for a worker.
    pub fn orchestration(&self) -> Duration {
        self.total.saturating_sub(self.queued + self.prefill + self.draft + self.target)
    }

    /// The parts of the total, by name.
    pub fn parts(&self) -> [(&'static str, Duration); 6] {
        [
            ("waiting", self.queued),
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
