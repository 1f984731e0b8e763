//! Scores.

use tandem_decoding::{Distribution, JointLogProbs, TokenId, TokenTree};

use super::{TreeOnWire, distribution, tokens};
use crate::{Fault, v1};

/// What a target is asked for beside joint log-probabilities and drawn tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The warped distributions, which rejection sampling needs.
    pub distributions: bool,
    /// Log-probabilities under the unwarped softmax.
    pub log_probs: bool,
    /// With them: this many of the likeliest tokens, at most [`MAX_TOP_LOG_PROBS`].
    pub top_log_probs: usize,
}

/// Alternatives that may be asked for per token, as many as the OpenAI API allows.
pub const MAX_TOP_LOG_PROBS: usize = 20;

/// The target's view of a tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// `P` of every node.
    pub joint: JointLogProbs,
    /// A token drawn from the target at the root, then at each node.
    pub drawn: Vec<TokenId>,
    /// If wanted: `p` at the root, then at each node.
    pub distributions: Vec<Distribution>,
    /// If wanted.
    pub log_probs: Option<TokenLogProbs>,
}

/// Log-probabilities under the target's unwarped softmax, natural log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogProbs {
    /// Of each node's token, given the path to it.
    pub nodes: Vec<f64>,
    /// Of each drawn token.
    pub drawn: Vec<f64>,
    /// With distributions alone: temperature × a warped log-probability + this is the unwarped one.
    pub distribution_offsets: Vec<f64>,
    /// If wanted: the likeliest tokens at the root, then at each node.
    pub top: Vec<TopTokens>,
}

/// The likeliest tokens and their log-probabilities, best first.
pub type TopTokens = Vec<(TokenId, f64)>;

impl v1::ScoreTreeRequest {
    /// The tree to score; a missing one is empty.
    pub fn take_tree(&mut self) -> Result<TokenTree, Fault> {
        TreeOnWire::try_from(self.tree.take()).map(|t| t.0)
    }

    /// What is wanted.
    pub fn wanted(&self) -> Result<Wanted, Fault> {
        Ok(Wanted {
            distributions: self.distributions,
            log_probs: self.log_probs,
            top_log_probs: top_log_probs(self.top_log_probs, self.log_probs)?,
        })
    }
}

/// How many alternatives per token a request asks for, checked.
pub(super) fn top_log_probs(n: u32, log_probs: bool) -> Result<usize, Fault> {
    let refuse = |message| Err(Fault::invalid("top_log_probs", message));
    match n as usize {
        0 => Ok(0),
        _ if !log_probs => refuse(format!("{n}, but log_probs is off: set log_probs")),
        n if n > MAX_TOP_LOG_PROBS => refuse(format!("{n}, the limit is {MAX_TOP_LOG_PROBS}")),
        n => Ok(n),
    }
}

impl From<Scores> for v1::ScoreTreeResponse {
    fn from(scores: Scores) -> Self {
        let log_probs = scores.log_probs.map(|l| v1::TokenLogProbs {
            nodes: l.nodes,
            drawn: l.drawn,
            distribution_offsets: l.distribution_offsets,
            top: l.top.into_iter().map(Into::into).collect(),
        });
        Self {
            joint_log_probs: scores.joint.as_slice().to_vec(),
            drawn_tokens: super::ids(&scores.drawn),
            distributions: scores.distributions.iter().map(Into::into).collect(),
            log_probs,
        }
    }
}

impl v1::ScoreTreeResponse {
    /// The scores of `tree`, checked to be what was `wanted`.
    pub fn into_scores(self, tree: &TokenTree, wanted: Wanted) -> Result<Scores, Fault> {
        let rows = tree.len() + 1;
        let count = |field, given: usize, expected: usize| {
            let message =
                || format!("{given} where {expected} were expected, for a tree of {} nodes", tree.len());
            if given == expected { Ok(()) } else { Err(Fault::invalid(field, message())) }
        };
        let joint = JointLogProbs::new(tree, self.joint_log_probs)
            .map_err(|e| Fault::invalid("joint_log_probs", e))?;
        count("drawn_tokens", self.drawn_tokens.len(), rows)?;
        let distributions = if wanted.distributions { self.distributions } else { Vec::new() };
        if wanted.distributions {
            count("distributions", distributions.len(), rows)?;
        }
        let distributions: Vec<Distribution> =
            distributions.into_iter().map(|d| distribution(d, "distributions")).collect::<Result<_, _>>()?;
        let log_probs = match self.log_probs.filter(|_| wanted.log_probs) {
            None if wanted.log_probs => return Err(Fault::invalid("log_probs", "are missing")),
            None => None,
            Some(l) => {
                count("log_probs.nodes", l.nodes.len(), tree.len())?;
                count("log_probs.drawn", l.drawn.len(), rows)?;
                count("log_probs.distribution_offsets", l.distribution_offsets.len(), distributions.len())?;
                let top = if wanted.top_log_probs > 0 { l.top } else { Vec::new() };
                if wanted.top_log_probs > 0 {
                    count("log_probs.top", top.len(), rows)?;
                }
                let top =
                    top.into_iter().map(|t| t.into_top(wanted.top_log_probs)).collect::<Result<_, _>>()?;
                let v1::TokenLogProbs { nodes, drawn, distribution_offsets, .. } = l;
                Some(TokenLogProbs { nodes, drawn, distribution_offsets, top })
            }
        };
        Ok(Scores { joint, drawn: tokens(self.drawn_tokens), distributions, log_probs })
    }
}

impl From<TopTokens> for v1::TopTokens {
    fn from(top: TopTokens) -> Self {
        Self {
            tokens: top.iter().map(|&(token, _)| token.0).collect(),
            log_probs: top.iter().map(|&(_, log_prob)| log_prob).collect(),
        }
    }
}

impl v1::TopTokens {
    fn into_top(self, limit: usize) -> Result<TopTokens, Fault> {
        let (tokens, log_probs) = (self.tokens.len(), self.log_probs.len());
        if tokens != log_probs || tokens > limit {
            let message =
                format!("{tokens} tokens with {log_probs} log-probabilities, at most {limit} were asked for");
            return Err(Fault::invalid("log_probs.top", message));
        }
        Ok(self.tokens.into_iter().map(TokenId).zip(self.log_probs).collect())
    }
}
