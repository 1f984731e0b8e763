//! What an iteration commits.

use tandem_decoding::{Accepted, Draws, Method, Purpose, TokenId, exact_match, mmtad, multi_round};
use tandem_proto::{Fault, Scores};

use crate::{GenerateError, Job, Proposal};

/// The committed tokens of an iteration.
pub(crate) struct Committed {
    /// What the workers are told.
    pub(crate) accepted: Accepted,
    /// The accepted nodes' tokens, then the bonus token.
    pub(crate) tokens: Vec<TokenId>,
    /// If asked for: their log-probabilities under the target's unwarped softmax.
    pub(crate) log_probs: Option<Vec<f64>>,
}

/// Accepts by the rule of `job`. `root` is the number of committed tokens, by which the draws of rejection sampling are numbered.
pub(crate) fn accept(
    job: &Job<'_>,
    proposal: &Proposal,
    scores: &Scores,
    root: usize,
) -> Result<Committed, GenerateError> {
    let (tree, decoding, draws) = (&proposal.draft.tree, &job.decoding, Draws::new(job.open.seed));
    // Whether the bonus token was drawn from a residual, not by the target.
    let mut from_residual = false;
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
                let depth = verified.node.map_or(0, |n| tree.depth(n));
                let bonus = verified.residual.quantile(draws.uniform(root + depth, Purpose::TargetToken));
                from_residual = true;
                Accepted { path: verified.node.map_or_else(Vec::new, |n| tree.path(n)), bonus }
            }
            // Nothing was drawn: greedy decoding, or the last token. The likeliest tokens are a tree as any other.
            None => exact_match(tree, &scores.drawn),
        },
        Method::Mtjd => return Err(Fault::Bug("MTJD has nothing to accept".into()).into()),
    };
    let log_probs = scores.log_probs.as_ref().map(|l| {
        let row = accepted.path.last().map_or(0, |n| n + 1);
        let bonus = if from_residual {
            let warped = scores.distributions[row].log_prob(accepted.bonus);
            job.open.sampling.likelihood_temperature() * warped + l.distribution_offsets[row]
        } else {
            l.drawn[row]
        };
        accepted.path.iter().map(|&n| l.nodes[n]).chain([bonus]).collect()
    });
    let tokens = accepted.path.iter().map(|&n| tree.tokens()[n]).chain([accepted.bonus]).collect();
    Ok(Committed { accepted, tokens, log_probs })
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
