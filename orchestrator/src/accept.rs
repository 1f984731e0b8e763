//! What an iteration commits.

use tandem_decoding::{Accepted, Draws, Method, Purpose, TokenId, exact_match, mmtad, multi_round};
use tandem_proto::{Fault, Scores, TopTokens};

use crate::{GenerateError, Job, Proposal};

/// The committed tokens of an iteration.
pub(crate) struct Committed {
    /// What the workers are told.
    pub(crate) accepted: Accepted,
    /// The accepted nodes' tokens, then the bonus token.
    pub(crate) tokens: Vec<TokenId>,
    /// `[tokens]`
    pub(crate) details: Vec<TokenDetails>,
}

/// What is known of a committed token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenDetails {
    /// Whether it was accepted from a draft; else the target drew it.
    pub drafted: bool,
    /// If asked for: its log-probability under the target's unwarped softmax.
    pub log_prob: Option<f64>,
    /// If asked for: the likeliest tokens in its place, under the same.
    pub top: TopTokens,
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
    // Row 0 of the scores is the root's, row `n + 1` node `n`'s: it judges what comes behind.
    let mut judge = 0;
    let mut details = Vec::with_capacity(accepted.path.len() + 1);
    let known = scores.log_probs.as_ref();
    let top = |row: usize| known.and_then(|l| l.top.get(row).cloned()).unwrap_or_default();
    for &node in &accepted.path {
        let log_prob = known.map(|l| l.nodes[node]);
        details.push(TokenDetails { drafted: true, log_prob, top: top(judge) });
        judge = node + 1;
    }
    let bonus = known.map(|l| {
        if from_residual {
            let warped = scores.distributions[judge].log_prob(accepted.bonus);
            job.open.sampling.likelihood_temperature() * warped + l.distribution_offsets[judge]
        } else {
            l.drawn[judge]
        }
    });
    details.push(TokenDetails { drafted: false, log_prob: bonus, top: top(judge) });
    let tokens = accepted.path.iter().map(|&n| tree.tokens()[n]).chain([accepted.bonus]).collect();
    Ok(Committed { accepted, tokens, details })
}

/// MTJD: the best beam whole. Its last token takes the place of the bonus token, which is not drawn.
pub(crate) fn commit_whole(proposal: &Proposal) -> Result<Committed, GenerateError> {
    let tokens = proposal.draft.tree.tokens().to_vec();
    let broken = || Fault::Bug("the target proposed no beam".into());
    let (&bonus, path) = tokens.split_last().ok_or_else(broken)?;
    let accepted = Accepted { path: (0..path.len()).collect(), bonus };
    // Beams of the target's own, not of a draft.
    let details = (0..tokens.len())
        .map(|i| TokenDetails { log_prob: proposal.log_probs.get(i).copied(), ..TokenDetails::default() })
        .collect();
    Ok(Committed { accepted, tokens, details })
}
