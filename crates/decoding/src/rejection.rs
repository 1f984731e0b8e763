//! Multi-round rejection sampling (lossless): candidates drawn from the draft, accepted so that the output is the target's.

use crate::{Candidates, Distribution, NodeRows, TokenId, TokenTree};

/// How far a tree was accepted, and what the next token is drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The last accepted node; `None` if none was.
    pub node: Option<usize>,
    /// The distribution of the token behind it: the residual of the rejections there, or `p` itself behind a leaf.
    pub residual: Distribution,
}

/// Walks the tree from the root: at each node its candidates are tested in the order drawn, the first accepted one is stepped to.
///
/// `p` is the warped target distribution at the root and at each node. `uniform(depth, round)` is the draw in `[0, 1)` for testing
/// candidate `round` of a node at `depth` (the root: 0).
///
/// The committed tokens, the next one drawn from the residual, are distributed as samples of `p` (SpecInfer, theorem 4.2; on a chain
/// Leviathan et al., appendix A.1).
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

/// Tests `drawn`, tokens drawn from `q` in this order, against `p`: the index of the accepted one, and the residual of `p` after the
/// rejections before it.
///
/// A candidate `x` is accepted with probability `min(1, p(x) / q(x))`. After a rejection `p` becomes `max(0, p − q)`, renormalised;
/// without replacement, `q` loses `x` and is renormalised.
pub fn test_candidates(
    p: &Distribution,
    q: &Distribution,
    drawn: &[TokenId],
    replacement: bool,
    mut uniform: impl FnMut(usize) -> f64,
) -> (Option<usize>, Distribution) {
    // Most first candidates are accepted, and most others never looked at: nothing is copied before the first rejection.
    let first =
        drawn.first().filter(|&&token| uniform(0) * q.log_prob(token).exp() < p.log_prob(token).exp());
    if first.is_some() {
        return (Some(0), p.clone());
    }
    let (mut p, mut q) = (Masses::new(p), Masses::new(q));
    for (round, &token) in drawn.iter().enumerate() {
        // The first one was tested above.
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

/// Probabilities by ascending token. With filters off they are the whole vocabulary: everything here is one walk over it.
struct Masses(Vec<(TokenId, f64)>);

impl Masses {
    fn new(distribution: &Distribution) -> Self {
        Self(distribution.tokens().iter().copied().zip(distribution.probs().iter().copied()).collect())
    }

    fn of(&self, token: TokenId) -> f64 {
        self.0.binary_search_by_key(&token, |m| m.0).map_or(0.0, |i| self.0[i].1)
    }

    /// `max(0, self − other)`, renormalised. Nothing is left only if rounding rejected a token of two equal distributions; then they
    /// stay as they are.
    fn subtract(&mut self, other: &Self) {
        let mut others = other.0.iter().peekable();
        let left = self.0.iter().filter_map(|&(token, mass)| {
            while others.next_if(|o| o.0 < token).is_some() {}
            let rest = mass - others.next_if(|o| o.0 == token).map_or(0.0, |o| o.1);
            (rest > 0.0).then_some((token, rest))
        });
        let left: Vec<_> = left.collect();
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
    fn equal_distributions_accept_everything() {
        let p = warp(&[0.1, 0.7, -0.4]);
        let (accepted, residual) = test_candidates(&p, &p, &[TokenId(2)], false, |_| 1.0 - f64::EPSILON);
        assert_eq!(accepted, Some(0));
        assert!((residual.log_prob(TokenId(1)) - p.log_prob(TokenId(1))).abs() < 1e-12);
    }

    #[test]
    fn what_the_target_cannot_say_is_never_accepted() {
        let (p, q) = (warp(&[0.0, f32::NEG_INFINITY]), warp(&[0.0, 0.0]));
        let (accepted, residual) = test_candidates(&p, &q, &[TokenId(1)], false, |_| 0.0);
        assert_eq!((accepted, residual.quantile(0.99)), (None, TokenId(0)));
    }

    proptest! {
        #[test]
        fn residuals_are_distributions_and_paths_are_paths(
            seed in any::<u64>(), replacement in any::<bool>(),
            logits in proptest::collection::vec(-4f32..4.0, 8),
        ) {
            let (p, q) = (warp(&logits[..4]), warp(&logits[4..]));
            let branching = vec![3, 2, 1];
            let mut search = CandidateSearch::new(branching.clone(), Expansion::Sampled { replacement });
            for depth in 0..branching.len() {
                let all = vec![q.clone(); search.frontier().len()];
                search.advance(&all, Draws::new(seed).uniforms(0, Purpose::DraftBeams { depth }));
            }
            let draft = search.finish();
            let p = NodeRows::from_rows(&draft.tree, vec![p; draft.tree.len() + 1]).unwrap();
            let v = multi_round(&draft.tree, draft.candidates.as_ref().unwrap(), &p, |depth, round| {
                Draws::new(seed).uniforms(depth, Purpose::Acceptance).nth(round).unwrap()
            });
            let mass: f64 = v.residual.iter().map(|(_, lp)| lp.exp()).sum();
            prop_assert!((mass - 1.0).abs() < 1e-9);
            prop_assert!(v.node.is_none_or(|n| n < draft.tree.len()));
        }
    }
}
