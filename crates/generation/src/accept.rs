//! The acceptance step: what an iteration commits.

use tandem_decoding::{
    Accepted, Candidates, Distribution, Draws, Method, NodeRows, Purpose, TokenId, exact_match, mmtad,
    multi_round,
};
use tracing::trace_span;

use crate::{GenerateError, Generation, Proposal, Scores, TopTokens};

/// What an iteration commits.
pub(crate) struct Commit {
    /// What the workers are told.
    pub(crate) accepted: Accepted,
    /// The accepted nodes' tokens, then the bonus token.
    pub(crate) tokens: Vec<CommittedToken>,
}

/// A committed token and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct CommittedToken {
    pub(crate) id: TokenId,
    /// Whether it was accepted from a draft; otherwise it was drawn from the target.
    pub(crate) drafted: bool,
    /// If requested: its log-probability under the target's unwarped softmax.
    pub(crate) log_prob: Option<f64>,
    /// If requested: the likeliest tokens at its position, under the same softmax.
    pub(crate) top: TopTokens,
}

/// Applies the acceptance rule of `generation` to an iteration whose root is at `position`, which numbers the draws of rejection
/// sampling. Without scores the target itself was the proposer.
pub(crate) fn accept(
    generation: &Generation<'_>,
    proposal: &Proposal,
    scores: Option<&Scores>,
    position: usize,
) -> Result<Commit, GenerateError> {
    let _span = trace_span!("accept").entered();
    let Some(scores) = scores else { return commit_whole(proposal) };
    let decoding = &generation.decoding;
    let tree = &proposal.draft.tree;
    match decoding.method() {
        Method::Autoregressive => {
            Ok(commit_drawn(Accepted::up_to(tree, None, &scores.drawn), proposal, scores))
        }
        // On the best beam alone the reference levels are its own `Q`: that is MTAD.
        Method::Mtad | Method::Mmtad => {
            let levels = decoding.reference().levels(tree, &proposal.draft.joint);
            let node = mmtad(tree, &scores.joint, &levels, decoding.threshold());
            Ok(commit_drawn(Accepted::up_to(tree, node, &scores.drawn), proposal, scores))
        }
        Method::ExactMatch => Ok(commit_drawn(exact_match(tree, &scores.drawn), proposal, scores)),
        Method::Speculative | Method::SpecInfer => match &proposal.draft.candidates {
            Some(candidates) => reject(generation, proposal, candidates, scores, position),
            // Nothing was drawn, because decoding is greedy or only one token is left. The likeliest tokens are a tree like any other.
            None => Ok(commit_drawn(exact_match(tree, &scores.drawn), proposal, scores)),
        },
        Method::Mtjd => Err(GenerateError::Internal("MTJD has no acceptance step".into())),
    }
}

/// Rejection sampling: the bonus token is drawn from the residual of the rejections, not by the target.
fn reject(
    generation: &Generation<'_>,
    proposal: &Proposal,
    candidates: &Candidates,
    scores: &Scores,
    position: usize,
) -> Result<Commit, GenerateError> {
    let tree = &proposal.draft.tree;
    let p = scores
        .distributions
        .as_ref()
        .ok_or_else(|| GenerateError::Internal("the target sent no distributions".into()))?;
    let draws = Draws::new(generation.open.seed);
    let verified = multi_round(tree, candidates, p, |depth, round| {
        draws.uniforms(position + depth, Purpose::Acceptance).nth(round).unwrap_or_default()
    });
    let depth = verified.node.map_or(0, |node| tree.depth(node));
    let bonus = verified.residual.quantile(draws.uniform(position + depth, Purpose::TargetToken));
    let path = verified.node.map_or_else(Vec::new, |node| tree.path(node));
    let log_prob = unwarped_log_prob(generation, scores, p, verified.node, bonus);
    Ok(commit(Accepted { path, bonus }, log_prob, proposal, scores))
}

/// The log-probability under the target's unwarped softmax of a `token` after `node`, from its warped one.
fn unwarped_log_prob(
    generation: &Generation<'_>,
    scores: &Scores,
    p: &NodeRows<Distribution>,
    node: Option<usize>,
    token: TokenId,
) -> Option<f64> {
    let offsets = scores.log_probs.as_ref()?.distribution_offsets.as_ref()?;
    Some(generation.open.sampling.unwarp(p.at(node).log_prob(token), *offsets.at(node)))
}

/// A commit whose bonus token is the one that the target drew.
fn commit_drawn(accepted: Accepted, proposal: &Proposal, scores: &Scores) -> Commit {
    let bonus = scores.log_probs.as_ref().map(|known| *known.drawn.at(accepted.last_node()));
    commit(accepted, bonus, proposal, scores)
}

fn commit(accepted: Accepted, bonus_log_prob: Option<f64>, proposal: &Proposal, scores: &Scores) -> Commit {
    let tree = &proposal.draft.tree;
    let known = scores.log_probs.as_ref();
    let top = |node: Option<usize>| {
        known.and_then(|known| known.top.as_ref()).map(|top| top.at(node).clone()).unwrap_or_default()
    };
    let mut tokens = Vec::with_capacity(accepted.path.len() + 1);
    for &node in &accepted.path {
        tokens.push(CommittedToken {
            id: tree.tokens()[node],
            drafted: true,
            log_prob: known.map(|known| known.nodes[node]),
            top: top(tree.parents()[node]),
        });
    }
    tokens.push(CommittedToken {
        id: accepted.bonus,
        drafted: false,
        log_prob: bonus_log_prob,
        top: top(accepted.last_node()),
    });
    Commit { accepted, tokens }
}

/// MTJD: the best beam is committed whole. Its last token takes the place of the bonus token, which is not drawn.
fn commit_whole(proposal: &Proposal) -> Result<Commit, GenerateError> {
    let tokens = proposal.draft.tree.tokens();
    let Some((&bonus, path)) = tokens.split_last() else {
        return Err(GenerateError::Internal("the target proposed no beam".into()));
    };
    let accepted = Accepted { path: (0..path.len()).collect(), bonus };
    let tokens = tokens.iter().enumerate().map(|(node, &id)| CommittedToken {
        id,
        // The beam is the target's own, not a draft's.
        drafted: false,
        log_prob: proposal.log_probs.get(node).copied(),
        top: TopTokens::new(),
    });
    Ok(Commit { tokens: tokens.collect(), accepted })
}
