//! Scores.

use tandem_decoding::{Distribution, JointLogProbs, NodeRows, TokenId, TokenTree};
use tandem_generation::{MAX_TOP_LOG_PROBS, ScoreRequest, Scores, TokenLogProbs, TopTokens};

use super::{InvalidMessage, distribution, ids, tokens, tree};
use crate::v1;

impl v1::ScoreTreeRequest {
    /// The tree to score; a missing one is empty.
    pub fn take_tree(&mut self) -> Result<TokenTree, InvalidMessage> {
        tree(self.tree.take())
    }

    /// What is requested, checked.
    pub fn score_request(&self) -> Result<ScoreRequest, InvalidMessage> {
        let top_log_probs = self.top_log_probs as usize;
        if top_log_probs > 0 && !self.log_probs {
            let message = format!("is {top_log_probs}, which requires log_probs: set log_probs too");
            return Err(InvalidMessage::new("top_log_probs", message));
        }
        if top_log_probs > MAX_TOP_LOG_PROBS {
            let message = format!("is {top_log_probs}: the limit is {MAX_TOP_LOG_PROBS}");
            return Err(InvalidMessage::new("top_log_probs", message));
        }
        Ok(ScoreRequest { distributions: self.distributions, log_probs: self.log_probs, top_log_probs })
    }
}

impl From<Scores> for v1::ScoreTreeResponse {
    fn from(scores: Scores) -> Self {
        let distributions = match &scores.distributions {
            Some(rows) => rows.as_rows().iter().map(Into::into).collect(),
            None => Vec::new(),
        };
        Self {
            joint_log_probs: scores.joint.as_slice().to_vec(),
            drawn_tokens: ids(scores.drawn.as_rows()),
            distributions,
            log_probs: scores.log_probs.map(Into::into),
        }
    }
}

impl From<TokenLogProbs> for v1::TokenLogProbs {
    fn from(log_probs: TokenLogProbs) -> Self {
        let offsets = log_probs.distribution_offsets;
        let top = match &log_probs.top {
            Some(rows) => rows.as_rows().iter().map(Into::into).collect(),
            None => Vec::new(),
        };
        Self {
            nodes: log_probs.nodes,
            drawn: log_probs.drawn.as_rows().to_vec(),
            distribution_offsets: offsets.map(|rows| rows.as_rows().to_vec()).unwrap_or_default(),
            top,
        }
    }
}

impl From<&TopTokens> for v1::TopTokens {
    fn from(top: &TopTokens) -> Self {
        Self {
            tokens: top.iter().map(|&(token, _)| token.0).collect(),
            log_probs: top.iter().map(|&(_, log_prob)| log_prob).collect(),
        }
    }
}

impl v1::ScoreTreeResponse {
    /// The scores of `tree`, checked to be what was requested.
    pub fn into_scores(self, tree: &TokenTree, request: ScoreRequest) -> Result<Scores, InvalidMessage> {
        let joint = JointLogProbs::new(tree, self.joint_log_probs)
            .map_err(|e| InvalidMessage::new("joint_log_probs", format!("are not valid: {e}")))?;
        let drawn = rows(tree, "drawn_tokens", tokens(self.drawn_tokens))?;
        let distributions = match request.distributions {
            true => Some(read_distributions(tree, self.distributions)?),
            false => None,
        };
        let log_probs = match (request.log_probs, self.log_probs) {
            (false, _) => None,
            (true, Some(log_probs)) => Some(log_probs.read(tree, request)?),
            (true, None) => return Err(InvalidMessage::new("log_probs", "is missing")),
        };
        Ok(Scores { joint, drawn, distributions, log_probs })
    }
}

impl v1::TokenLogProbs {
    fn read(self, tree: &TokenTree, request: ScoreRequest) -> Result<TokenLogProbs, InvalidMessage> {
        if self.nodes.len() != tree.len() {
            let message = format!("has {} values for {} nodes", self.nodes.len(), tree.len());
            return Err(InvalidMessage::new("log_probs.nodes", message));
        }
        let distribution_offsets = match request.distributions {
            true => Some(rows(tree, "log_probs.distribution_offsets", self.distribution_offsets)?),
            false => None,
        };
        let top = match request.top_log_probs {
            0 => None,
            limit => {
                let top = self.top.into_iter().map(|top| top.read(limit)).collect::<Result<_, _>>()?;
                Some(rows(tree, "log_probs.top", top)?)
            }
        };
        Ok(TokenLogProbs {
            nodes: self.nodes,
            drawn: rows(tree, "log_probs.drawn", self.drawn)?,
            distribution_offsets,
            top,
        })
    }
}

impl v1::TopTokens {
    fn read(self, limit: usize) -> Result<TopTokens, InvalidMessage> {
        let tokens = self.tokens.len();
        let log_probs = self.log_probs.len();
        if tokens != log_probs || tokens > limit {
            let message = format!(
                "has {tokens} tokens and {log_probs} log-probabilities: at most {limit} were requested"
            );
            return Err(InvalidMessage::new("log_probs.top", message));
        }
        Ok(self.tokens.into_iter().map(TokenId).zip(self.log_probs).collect())
    }
}

fn read_distributions(
    tree: &TokenTree,
    wire: Vec<v1::Distribution>,
) -> Result<NodeRows<Distribution>, InvalidMessage> {
    let all = wire.into_iter().map(|d| distribution(d, "distributions")).collect::<Result<_, _>>()?;
    rows(tree, "distributions", all)
}

/// One value per root and node of `tree`.
fn rows<T>(tree: &TokenTree, field: &'static str, values: Vec<T>) -> Result<NodeRows<T>, InvalidMessage> {
    let given = values.len();
    NodeRows::from_rows(tree, values).ok_or_else(|| {
        let message = format!("has {given} values for the root and {} nodes", tree.len());
        InvalidMessage::new(field, message)
    })
}
