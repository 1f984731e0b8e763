//! What an iteration commits.

use tandem_decoding::{
    Accepted, Decoding, Distribution, Draws, Method, Purpose, TokenId, exact_match, mmtad, multi_round,
};
use tandem_proto::{Fault, Scores};

use crate::{GenerateError, Proposal};

/// The committed tokens of an iteration.
pub(crate) struct Committed {
    /// What the workers are told.
    pub(crate) accepted: Accepted,
    /// The accepted nodes' tokens, then the bonus token.
    pub(crate) tokens: Vec<TokenId>,
    /// If asked for: their log-probabilities under the target's unwarped softmax.
    pub(crate) log_probs: Option<Vec<f64>>,
}

/// Accepts by the rule of `decoding`. `root` is the number of committed tokens, by which the draws of rejection sampling are
/// numbered.
pub(crate) fn accept(
    decoding: &Decoding,
    proposal: &Proposal,
    scores: &Scores,
    draws: Draws,
    root: usize,
) -> Result<Committed, GenerateError> {
    let tree = &proposal.draft.tree;
    // The place of a bonus token that was drawn from a residual, among the tokens of its row.
    let mut from_residual = None;
    let accepted = match decoding.method() {
        Method::Autoregressive => Accepted::up_to(tree, None, &scores.drawn),
        // On the best beam alone the levels are its own `Q`: that is MTAD.
        Method::Mtad | Method::Mmtad => {
            let levels = decoding.reference().levels(tree, &proposal.draft.joint);
            let node = mmtad(tree, &scores.joint, &levels, decoding.threshold());
            Accepted::up_to(tree, node, &scores.drawn)
        }
        Method::ExactMatch => exact_match(tree, &scores.drawn),
        Method::Speculative | Method::SpecInfer => match &proposal.draft.candidates {
            Some(candidates) => {
                let verified = multi_round(tree, candidates, &scores.distributions, |depth, round| {
                    draws.uniforms(root + depth, Purpose::Acceptance).nth(round).unwrap_or_default()
                });
                let row = verified.node.map_or(0, |n| n + 1);
                let depth = verified.node.map_or(0, |n| tree.depth(n));
                let bonus = verified.residual.quantile(draws.uniform(root + depth, Purpose::TargetToken));
                from_residual = place(&scores.distributions[row], bonus);
                Accepted { path: verified.node.map_or_else(Vec::new, |n| tree.path(n)), bonus }
            }
            // Nothing was drawn: greedy decoding, or the last token. The likeliest tokens are a tree as any other.
            None => exact_match(tree, &scores.drawn),
        },
        Method::Mtjd => return Err(Fault::Bug("MTJD has nothing to accept".into()).into()),
    };
    let log_probs = scores.log_probs.as_ref().map(|l| {
        let row = accepted.path.last().map_or(0, |n| n + 1);
        let bonus = match from_residual {
            Some(place) => f64::from(l.distributions[row][place]),
            None => l.drawn[row],
        };
        accepted.path.iter().map(|&n| l.nodes[n]).chain([bonus]).collect()
    });
    let tokens = accepted.path.iter().map(|&n| tree.tokens()[n]).chain([accepted.bonus]).collect();
    Ok(Committed { accepted, tokens, log_probs })
}

fn place(distribution: &Distribution, token: TokenId) -> Option<usize> {
    distribution.iter().position(|(t, _)| t == token)
}

/// MTJD: the best beam whole. Its last token takes the place of the bonus token, which is not drawn.
pub(crate) fn commit_whole(proposal: &Proposal) -> Result<Committed, GenerateError> {
    let tokens = proposal.draft.tree.tokens().to_vec();
    let broken = || Fault::Bug("the target proposed no beam".into());
    let (&bonus, path) = tokens.split_last().ok_or_else(broken)?;
    let accepted = Accepted { path: (0..path.len()).collect(), bonus };
    let log_probs = Some(proposal.log_probs.clone()).filter(|l| l.len() == tokens.len());
    Ok(Committed { accepted, tokens, log_probs })
}
