//! What the draft and the target are requested to compute, and what they answer.

use tandem_decoding::{Distribution, DraftTree, Drafting, JointLogProbs, NodeRows, TokenId};

/// What a draft is requested to propose.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftRequest {
    /// The shape of the tree.
    pub drafting: Drafting,
    /// Whether the nodes' log-probabilities under the unwarped softmax are requested too.
    pub log_probs: bool,
}

/// A proposed tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proposal {
    /// The tree, its joint log-probabilities, and the candidates if it was drawn for rejection sampling.
    pub draft: DraftTree,
    /// `[nodes]`, natural log: each node's log-probability under the proposer's unwarped softmax; empty unless requested.
    pub log_probs: Vec<f64>,
}

/// What a target is requested to compute besides joint log-probabilities and drawn tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreRequest {
    /// The warped distributions, which rejection sampling needs.
    pub distributions: bool,
    /// Log-probabilities under the unwarped softmax.
    pub log_probs: bool,
    /// With them, this many of the likeliest tokens per row, at most [`crate::MAX_TOP_LOG_PROBS`].
    pub top_log_probs: usize,
}

/// The target's view of a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// `P` of every node.
    pub joint: JointLogProbs,
    /// A token drawn from the target at the root and at each node.
    pub drawn: NodeRows<TokenId>,
    /// `p` at the root and at each node, if requested.
    pub distributions: Option<NodeRows<Distribution>>,
    /// Log-probabilities under the unwarped softmax, if requested.
    pub log_probs: Option<TokenLogProbs>,
}

/// Log-probabilities under the target's unwarped softmax, natural log.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogProbs {
    /// `[nodes]`: of each node's token, given the path to it.
    pub nodes: Vec<f64>,
    /// Of each drawn token.
    pub drawn: NodeRows<f64>,
    /// With distributions only: what [`tandem_decoding::Sampling::unwarp`] needs to turn a warped log-probability of that row
    /// into the unwarped one.
    pub distribution_offsets: Option<NodeRows<f64>>,
    /// The likeliest tokens of each row, if requested.
    pub top: Option<NodeRows<TopTokens>>,
}

/// The likeliest tokens and their log-probabilities, best first.
pub type TopTokens = Vec<(TokenId, f64)>;
