//! Drafting for rejection sampling: at every node, candidates drawn from the draft's own distribution.

use crate::pairs::Pairs;
use crate::{Candidates, Distribution, DraftTree, Expansion, JointLogProbs, TokenTree};

/// Draws candidates depth by depth; the model is the caller's, as in [`crate::BeamSearch`].
///
/// Source: SpecInfer (Miao et al., 2024) and, without replacement, MCSS (Yang et al., 2024). One candidate per node is
/// speculative sampling (Leviathan et al., 2023).
#[derive(Clone, Debug)]
pub struct CandidateSearch {
    /// Candidates per node, by depth.
    branching: Vec<usize>,
    expansion: Expansion,
    tree: TokenTree,
    joint: Vec<f64>,
    depth: usize,
    frontier: Vec<Option<usize>>,
    draws: Vec<usize>,
    q: Vec<Distribution>,
}

impl CandidateSearch {
    /// `branching[d]` candidates at every node of depth `d`. With [`Expansion::Top`] they are the likeliest ones, which serves
    /// greedy decoding alone.
    pub fn new(branching: Vec<usize>, expansion: Expansion) -> Self {
        Self {
            branching,
            expansion,
            tree: TokenTree::default(),
            joint: Vec::new(),
            depth: 0,
            frontier: vec![None],
            draws: Vec::new(),
            q: Vec::new(),
        }
    }

    /// The nodes whose distributions [`Self::advance`] needs next, in that order; `None` is the root.
    pub fn frontier(&self) -> &[Option<usize>] {
        &self.frontier
    }

    /// The tree so far.
    pub fn tree(&self) -> &TokenTree {
        &self.tree
    }

    /// Draws the candidates of the next depth. `distributions[i]` is `q(· | frontier[i])`; `uniforms` are the draws of this depth.
    ///
    /// # Panics
    /// If `distributions` is not as long as the frontier.
    pub fn advance(&mut self, distributions: &[Distribution], mut uniforms: impl Iterator<Item = f64>) {
        assert_eq!(distributions.len(), self.frontier.len(), "one distribution per frontier node");
        let count = self.branching.get(self.depth).copied().unwrap_or(0);
        let mut frontier = Vec::new();
        for (&parent, q) in self.frontier.iter().zip(distributions) {
            let before = parent.map_or(0.0, |node| self.joint[node]);
            let pairs = Pairs { beams: &[0], before: &[before], distributions: std::slice::from_ref(q) };
            let chosen = match self.expansion {
                Expansion::Top => pairs.top(count),
                Expansion::Sampled { replacement } => pairs.draw(count, replacement, &mut uniforms),
            };
            for pair in chosen {
                let (node, new) = self.tree.insert(parent, pair.token);
                if new {
                    self.joint.push(pair.joint);
                    frontier.push(Some(node));
                }
                self.draws.push(node);
            }
        }
        self.q.extend_from_slice(distributions);
        self.frontier = frontier;
        self.depth += 1;
    }

    /// All candidates.
    pub fn finish(self) -> DraftTree {
        let candidates = match self.expansion {
            Expansion::Sampled { replacement } if self.depth > 0 => {
                Some(Candidates::from_search(self.draws, self.q, replacement))
            }
            _ => None,
        };
        DraftTree { tree: self.tree, joint: JointLogProbs::from_sums(self.joint), candidates }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Draws, InvalidCandidates, Purpose, Sampling, TokenId};

    fn drawn(branching: &[usize], expansion: Expansion, seed: u64) -> DraftTree {
        let mut search = CandidateSearch::new(branching.to_vec(), expansion);
        for depth in 0..branching.len() {
            let q = Sampling::new(1.0, 0, 0.0).unwrap().warp(&[0.3, 0.0, -0.3, f32::NEG_INFINITY]).unwrap();
            let q = vec![q; search.frontier().len()];
            search.advance(&q, Draws::new(seed).uniforms(0, Purpose::DraftBeams { depth }));
        }
        search.finish()
    }

    #[test]
    fn every_node_gets_its_candidates() {
        let draft = drawn(&[2, 2, 1], Expansion::Sampled { replacement: false }, 1);
        assert_eq!([1, 2, 3].map(|d| draft.tree.level(d).count()), [2, 4, 4]);
        // Three tokens are possible, so five draws without replacement give three.
        assert_eq!(drawn(&[5], Expansion::Sampled { replacement: false }, 1).tree.len(), 3);
    }

    #[test]
    fn what_is_drawn_passes_its_own_check() {
        for replacement in [false, true] {
            for seed in 0..50 {
                let draft = drawn(&[3, 2], Expansion::Sampled { replacement }, seed);
                let c = draft.candidates.unwrap();
                assert_eq!(c.drawn_at(&draft.tree, None).len(), 3);
                let (draws, q) = (c.draws().to_vec(), c.distributions().to_vec());
                let again = Candidates::new(&draft.tree, &[3, 2], draws, q, replacement);
                assert_eq!(again.as_ref(), Ok(&c));
            }
        }
    }

    #[test]
    fn candidates_of_another_tree_are_refused() {
        let draft = drawn(&[2], Expansion::Sampled { replacement: false }, 1);
        let (tree, c) = (draft.tree, draft.candidates.unwrap());
        let with = |draws: &[usize], q: &[Distribution]| {
            Candidates::new(&tree, &[2], draws.to_vec(), q.to_vec(), false)
        };
        let many = Candidates::new(&tree, &[2], vec![0, 1, 1], c.distributions().to_vec(), true);
        assert_eq!(many, Err(InvalidCandidates::TooManyDraws { draw: 2, limit: 2 }));
        let q = c.distributions();
        assert_eq!(with(&[0, 5], q), Err(InvalidCandidates::NoSuchNode { draw: 1, node: 5, nodes: 2 }));
        assert_eq!(with(&[0], q), Err(InvalidCandidates::NeverDrawn { node: 1 }));
        assert_eq!(with(&[0, 1, 1], q), Err(InvalidCandidates::DrawnTwice { node: 1 }));
        assert_eq!(with(&[0, 1], &[]), Err(InvalidCandidates::LengthMismatch { given: 0, parents: 1 }));
        let other = Sampling::new(1.0, 1, 0.0).unwrap().warp(&[0.0, 0.0, 0.0, 9.0]).unwrap();
        assert!(matches!(with(&[0, 1], &[other]), Err(InvalidCandidates::Impossible { .. })));
    }

    #[test]
    fn greedy_candidates_are_the_likeliest() {
        let draft = drawn(&[2, 1], Expansion::Top, 0);
        assert_eq!(draft.tree.tokens(), [0, 1, 0, 0].map(TokenId));
        assert_eq!(draft.candidates, None);
    }
}
