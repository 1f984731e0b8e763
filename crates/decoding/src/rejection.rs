//! Multi-round rejection sampling (lossless): candidates drawn from the draft are accepted such that the
//! output is distributed as samples from the target.

use crate::{Candidates, Distribution, NodeRows, TokenId, TokenTree};

/// The accepted part of a tree, and the distribution that the bonus token is to be drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The last accepted node; `None` if none was accepted.
    pub node: Option<usize>,
    /// The distribution of the bonus token: at a leaf `p` itself, elsewhere the residual of `p` after all
    /// candidates were rejected.
    pub residual: Distribution,
}

/// Walks the tree from the root. At each node the candidates are tested in the order drawn, and the walk
/// continues at the first accepted one; it ends at a leaf or where all candidates are rejected.
///
/// `p` holds the warped target distribution of the root and of each node. `uniform(depth, round)` is the draw
/// in `[0, 1)` that tests candidate `round` (from 0) of the node at `depth` (the root: 0).
///
/// The accepted tokens, followed by a bonus token drawn from [`Verified::residual`], are distributed as
/// samples from `p` (SpecInfer, theorem 4.2; for a chain, Leviathan et al., appendix A.1).
///
/// # Panics
/// If `p` or `candidates` belong to another tree.
pub fn multi_round(
    tree: &TokenTree,
    candidates: &Candidates,
    p: &NodeRows<Distribution>,
    mut uniform: impl FnMut(usize, usize) -> f64,
) -> Verified {
    let mut at = None;
    loop {
        let p = p.at(at);
        let depth = at.map_or(0, |n| tree.depth(n));
        let Some(q) = candidates.q_at(tree, at) else {
            return Verified { node: at, residual: p.clone() };
        };
        let children = candidates.drawn_at(tree, at);
        let tokens: Vec<TokenId> = children.iter().map(|&n| tree.tokens()[n]).collect();
        let (accepted, residual) =
            test_candidates(p, q, &tokens, candidates.replacement(), |round| uniform(depth, round));
        match accepted {
            Some(round) => at = Some(children[round]),
            None => return Verified { node: at, residual },
        }
    }
}

/// Tests candidates drawn from `q`, in the order drawn, against `p`. Returns the index of the accepted
/// candidate (`None`: all were rejected), and the residual of `p` after the rejections before it.
///
/// A candidate `x` is accepted with probability `min(1, p(x) / q(x))`. After a rejection `p` becomes `max(0,
/// p − q)`, renormalised; without replacement `x` is removed from `q`, which is renormalised too.
/// `uniform(round)` is the draw in `[0, 1)` that tests candidate `round` (from 0).
pub fn test_candidates(
    p: &Distribution,
    q: &Distribution,
    drawn: &[TokenId],
    replacement: bool,
    mut uniform: impl FnMut(usize) -> f64,
) -> (Option<usize>, Distribution) {
    // The first candidate is usually accepted: the distributions are not copied into masses before a
    // rejection.
    if let Some(&first) = drawn.first()
        && uniform(0) * q.log_prob(first).exp() < p.log_prob(first).exp()
    {
        return (Some(0), p.clone());
    }
    let mut p = Masses::new(p);
    let mut q = Masses::new(q);
    for (round, &token) in drawn.iter().enumerate() {
        // The first candidate was tested above.
        if round > 0 && uniform(round) * q.of(token) < p.of(token) {
            return (Some(round), p.into_distribution());
        }
        p.subtract(&q);
        if !replacement {
            q.remove(token);
        }
    }
    (None, p.into_distribution())
}

/// Probabilities by ascending token. Without filters these are a whole vocabulary, so every operation is a
/// single pass over it.
struct Masses(Vec<(TokenId, f64)>);

impl Masses {
    fn new(distribution: &Distribution) -> Self {
        Self(distribution.tokens().iter().copied().zip(distribution.probs().iter().copied()).collect())
    }

    /// The probability of `token`; 0 if it is impossible.
    fn of(&self, token: TokenId) -> f64 {
        self.0.binary_search_by_key(&token, |m| m.0).map_or(0.0, |i| self.0[i].1)
    }

    /// Replaces `self` by `max(0, self − other)`, renormalised. No mass is left only if two equal
    /// distributions rejected a token because of rounding; `self` then stays as it is.
    fn subtract(&mut self, other: &Self) {
        let mut others = other.0.iter().peekable();
        let mut left = Vec::new();
        for &(token, mass) in &self.0 {
            while others.next_if(|o| o.0 < token).is_some() {}
            let rest = mass - others.next_if(|o| o.0 == token).map_or(0.0, |o| o.1);
            if rest > 0.0 {
                left.push((token, rest));
            }
        }
        if !left.is_empty() {
            self.0 = left;
            self.normalise();
        }
    }

    fn remove(&mut self, token: TokenId) {
        self.0.retain(|m| m.0 != token);
        self.normalise();
    }

    fn normalise(&mut self) {
        let total: f64 = self.0.iter().map(|m| m.1).sum();
        for mass in &mut self.0 {
            mass.1 /= total;
        }
    }

    fn into_distribution(self) -> Distribution {
        Distribution::from_masses(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{CandidateSearch, Draws, Expansion, Purpose, Sampling};

    fn warp(logits: &[f32]) -> Distribution {
        Sampling::new(1.0, 0, 0.0).unwrap().warp(logits).unwrap()
    }

    #[test]
    fn every_candidate_is_accepted_if_p_equals_q() {
        let p = warp(&[0.1, 0.7, -0.4]);
        let (accepted, residual) = test_candidates(&p, &p, &[TokenId(2)], false, |_| 1.0 - f64::EPSILON);
        assert_eq!(accepted, Some(0));
        assert!((residual.log_prob(TokenId(1)) - p.log_prob(TokenId(1))).abs() < 1e-12);
    }

    #[test]
    fn candidates_impossible_for_the_target_are_never_accepted() {
        let p = warp(&[0.0, f32::NEG_INFINITY]);
        let q = warp(&[0.0, 0.0]);
        let (accepted, residual) = test_candidates(&p, &q, &[TokenId(1)], false, |_| 0.0);
        assert_eq!((accepted, residual.quantile(0.99)), (None, TokenId(0)));
    }

    proptest! {
        #[test]
        fn residuals_are_normalised_and_accepted_nodes_exist(
            seed in any::<u64>(), replacement in any::<bool>(),
            logits in proptest::collection::vec(-4f32..4.0, 8),
        ) {
            let p = warp(&logits[..4]);
            let q = warp(&logits[4..]);
            let branching = vec![3, 2, 1];
            let mut search = CandidateSearch::new(branching.clone(), Expansion::Sampled { replacement });
            for depth in 0..branching.len() {
                let all = vec![q.clone(); search.frontier().len()];
                search.advance(&all, Draws::new(seed).uniforms(0, Purpose::DraftBeams { depth }));
            }
            let draft = search.finish();
            let p = NodeRows::from_rows(&draft.tree, vec![p; draft.tree.len() + 1]).unwrap();
            let verified = multi_round(&draft.tree, draft.candidates.as_ref().unwrap(), &p, |depth, round| {
                Draws::new(seed).uniforms(depth, Purpose::Acceptance).nth(round).unwrap()
            });
            let mass: f64 = verified.residual.iter().map(|(_, lp)| lp.exp()).sum();
            prop_assert!((mass - 1.0).abs() < 1e-9);
            prop_assert!(verified.node.is_none_or(|n| n < draft.tree.len()));
        }
    }
}
