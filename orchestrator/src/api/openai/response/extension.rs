//! Tandem's own part of an answer: `tandem`.

use std::time::Duration;

use serde::Serialize;
use tandem_decoding::JointLogProbs;
use tandem_generation::{Finish, FinishReason, Iteration, Statistics, Token};
use utoipa::ToSchema;

/// Tandem's part of an answer that is not streamed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Extension {
    /// One for each choice.
    pub(super) choices: Vec<ChoiceExtension>,
}

/// What is known of a choice that is complete.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChoiceExtension {
    /// With `trace`: every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tokens: Option<Vec<TokenOrigin>>,
    /// With `trace`: every iteration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iterations: Option<Vec<IterationReport>>,
    #[serde(flatten)]
    pub(super) summary: SequenceSummary,
}

/// Tandem's part of a chunk of a stream.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct ChunkExtension {
    /// With `trace`: the tokens of this chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<TokenOrigin>>,
    /// With `trace`: the iteration that made this chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    iteration: Option<IterationReport>,
    /// With the `finish_reason`: the seed that generates this choice alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// With the `finish_reason`: the stop string that was found, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<Option<String>>,
    /// With the `finish_reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<StatisticsReport>,
}

/// What the generation of a choice took.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SequenceSummary {
    /// The seed that generates this choice alone.
    seed: u64,
    /// The stop string that was found, or null.
    stop: Option<String>,
    statistics: StatisticsReport,
}

/// A token and where it comes from.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenOrigin {
    id: u32,
    /// What it adds to the text.
    text: String,
    /// Whether it was accepted from the draft; otherwise it was drawn by the target.
    drafted: bool,
}

/// One round of propose, score, accept.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IterationReport {
    /// The tokens of the tree that was proposed.
    tokens: Vec<u32>,
    /// For each token of the tree, the one before it; -1 is the root.
    parents: Vec<i64>,
    /// The text of each token of the tree by itself.
    texts: Vec<String>,
    /// Q of each token of the tree, natural log.
    draft_joint_log_probs: Vec<Option<f64>>,
    /// P of each token of the tree, natural log; null is minus infinity. Empty for `mtjd`, whose proposals are not scored.
    target_joint_log_probs: Vec<Option<f64>>,
    /// The accepted tokens of the tree, from the root's child downwards.
    accepted_nodes: Vec<usize>,
    /// The token that was drawn from the target after them; null for `mtjd`.
    bonus_token: Option<u32>,
    bonus_text: String,
}

/// What the iterations of a choice did, added up. Times are wall-clock time.
#[derive(Debug, Serialize, ToSchema)]
struct StatisticsReport {
    method: &'static str,
    /// Whether the output is distributed as plain sampling from the target.
    lossless: bool,
    new_tokens: usize,
    /// Rounds of propose, score, accept.
    iterations: usize,
    drafted_tokens: usize,
    accepted_tokens: usize,
    /// Iterations that accepted at least this many tokens, by depth from 1.
    accepted_by_depth: Vec<usize>,
    /// Sum over the iterations of the depth that was requested.
    asked_tokens: usize,
    /// 1 + `accepted_tokens` / `iterations`.
    block_efficiency: f64,
    /// `accepted_tokens` / `asked_tokens`.
    acceptance_rate: f64,
    total_ms: f64,
    /// In the admission queue.
    waiting_ms: f64,
    /// To open the sessions on both workers.
    prefill_ms: f64,
    /// Waiting for the draft.
    draft_ms: f64,
    /// Waiting for the target.
    target_ms: f64,
    /// The rest of the total.
    orchestration_ms: f64,
    /// From the arrival of the request.
    time_to_first_token_ms: f64,
    /// Iterations without a draft, because no draft worker was available.
    undrafted_iterations: usize,
    /// Sessions that were opened again, because their worker was lost or drained.
    failovers: usize,
}

impl ChunkExtension {
    /// For the chunk of an iteration.
    pub(super) fn trace(tokens: &[Token], iteration: Option<Iteration>) -> Self {
        let tokens = Some(TokenOrigin::all(tokens));
        Self { tokens, iteration: iteration.map(Into::into), ..Self::default() }
    }

    /// For the last chunk of a choice.
    pub(super) fn end(seed: u64, finish: &Finish) -> Self {
        let SequenceSummary { seed, stop, statistics } = SequenceSummary::new(seed, finish);
        Self { seed: Some(seed), stop: Some(stop), statistics: Some(statistics), ..Self::default() }
    }
}

impl SequenceSummary {
    pub(super) fn new(seed: u64, finish: &Finish) -> Self {
        let stop = match &finish.reason {
            FinishReason::Stop(stop) => Some(stop.clone()),
            FinishReason::EndOfSequence | FinishReason::Length => None,
        };
        Self { seed, stop, statistics: (&finish.statistics).into() }
    }
}

impl TokenOrigin {
    /// Those of `tokens`.
    pub(super) fn all(tokens: &[Token]) -> Vec<Self> {
        let origin =
            |token: &Token| Self { id: token.id.0, text: token.text.clone(), drafted: token.drafted };
        tokens.iter().map(origin).collect()
    }
}

impl From<Iteration> for IterationReport {
    fn from(iteration: Iteration) -> Self {
        let parents = iteration.tree.parents().iter();
        let (bonus_token, bonus_text) = match iteration.bonus {
            Some((token, text)) => (Some(token.0), text),
            None => (None, String::new()),
        };
        Self {
            tokens: iteration.tree.tokens().iter().map(|token| token.0).collect(),
            parents: parents.map(|parent| parent.map_or(-1, |node| node as i64)).collect(),
            texts: iteration.texts,
            draft_joint_log_probs: finite_or_null(&iteration.draft),
            target_joint_log_probs: iteration.target.as_ref().map_or_else(Vec::new, finite_or_null),
            accepted_nodes: iteration.accepted,
            bonus_token,
            bonus_text,
        }
    }
}

/// JSON has no infinities.
fn finite_or_null(joint: &JointLogProbs) -> Vec<Option<f64>> {
    joint.as_slice().iter().map(|&log_prob| log_prob.is_finite().then_some(log_prob)).collect()
}

impl From<&Statistics> for StatisticsReport {
    fn from(statistics: &Statistics) -> Self {
        Self {
            method: statistics.method.name(),
            lossless: statistics.method.is_lossless(),
            new_tokens: statistics.new_tokens,
            iterations: statistics.iterations,
            drafted_tokens: statistics.drafted,
            accepted_tokens: statistics.accepted,
            accepted_by_depth: statistics.accepted_by_depth.clone(),
            asked_tokens: statistics.depth_requested,
            block_efficiency: statistics.block_efficiency(),
            acceptance_rate: statistics.acceptance_rate(),
            total_ms: milliseconds(statistics.total),
            waiting_ms: milliseconds(statistics.queued),
            prefill_ms: milliseconds(statistics.prefill),
            draft_ms: milliseconds(statistics.draft),
            target_ms: milliseconds(statistics.target),
            orchestration_ms: milliseconds(statistics.orchestration()),
            time_to_first_token_ms: milliseconds(statistics.first_token),
            undrafted_iterations: statistics.undrafted,
            failovers: statistics.failovers,
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
