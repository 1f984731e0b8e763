//! Drafting for rejection sampling: candidates drawn from the distribution of the draft at every node.

use crate::pairs::Pairs;
use crate::{Candidates, Distribution, DraftTree, Expansion, JointLogProbs, TokenTree};

/// Draws candidates at every node, depth by depth. The caller runs the model, as for [`crate::BeamSearch`].
///
/// Source: SpecInfer (Miao et al., 2024) and, for draws without replacement, MCSS (Yang et al., 2024). With
/// one candidate per node it is speculative sampling (Leviathan et al., 2023).
#[derive(Clone, Debug)]
pub struct CandidateSearch {
    /// Candidates per node, by the depth of the node.
    branching: Vec<usize>,
    expansion: Expansion,
    tree: TokenTree,
    /// `[nodes]`: `Q`.
    joint: Vec<f64>,
    /// The depth of the nodes of the frontier.
    depth: usize,
    frontier: Vec<Option<usize>>,
    /// The node of every draw so far.
    draws: Vec<usize>,
    /// `q` of every node that had candidates drawn.
    q: Vec<Distribution>,
}

impl CandidateSearch {
    /// Starts a search at the root that takes `branching[d]` candidates at every node of depth `d`. With
    /// [`Expansion::Top`] they are the likeliest tokens, which is valid for greedy decoding only.
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

    /// The nodes whose distributions [`Self::advance`] takes next, in this order; `None` is the root.
    pub fn frontier(&self) -> &[Option<usize>] {
        &self.frontier
    }

    /// The tree that has been found so far.
    pub fn tree(&self) -> &TokenTree {
        &self.tree
    }

    /// Draws the candidates of the next depth. `distributions[i]` is `q(· | frontier[i])`; `uniforms` are
    /// this depth's draws in `[0, 1)`, used for one node after the other.
    ///
    /// # Panics
    /// If there is not exactly one distribution per node of the frontier.
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

    /// Ends the search and returns all candidates.
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
    fn every_node_has_the_requested_candidates() {
        let draft = drawn(&[2, 2, 1], Expansion::Sampled { replacement: false }, 1);
        assert_eq!([1, 2, 3].map(|d| draft.tree.level(d).count()), [2, 4, 4]);
        // Only three tokens are possible, so five draws without replacement give three candidates.
        assert_eq!(drawn(&[5], Expansion::Sampled { replacement: false }, 1).tree.len(), 3);
    }

    #[test]
    fn drawn_candidates_pass_validation() {
        for replacement in [false, true] {
            for seed in 0..50 {
                let draft = drawn(&[3, 2], Expansion::Sampled { replacement }, seed);
                let candidates = draft.candidates.unwrap();
                assert_eq!(candidates.drawn_at(&draft.tree, None).len(), 3);
                let draws = candidates.draws().to_vec();
                let q = candidates.distributions().to_vec();
                let validated = Candidates::new(&draft.tree, &[3, 2], draws, q, replacement);
                assert_eq!(validated, Ok(candidates));
            }
        }
    }

    #[test]
    fn invalid_candidates_are_rejected() {
        let draft = drawn(&[2], Expansion::Sampled { replacement: false }, 1);
        let tree = draft.tree;
        let candidates = draft.candidates.unwrap();
        let q = candidates.distributions();
        let with = |draws: &[usize], q: &[Distribution]| {
            Candidates::new(&tree, &[2], draws.to_vec(), q.to_vec(), false)
        };
        let many = Candidates::new(&tree, &[2], vec![0, 1, 1], q.to_vec(), true);
        assert_eq!(many, Err(InvalidCandidates::TooManyDraws { draw: 2, limit: 2 }));
        assert_eq!(with(&[0, 5], q), Err(InvalidCandidates::NoSuchNode { draw: 1, node: 5, nodes: 2 }));
        assert_eq!(with(&[0], q), Err(InvalidCandidates::NeverDrawn { node: 1 }));
        assert_eq!(with(&[0, 1, 1], q), Err(InvalidCandidates::DrawnTwice { node: 1 }));
        assert_eq!(with(&[0, 1], &[]), Err(InvalidCandidates::LengthMismatch { given: 0, parents: 1 }));
        let other = Sampling::new(1.0, 1, 0.0).unwrap().warp(&[0.0, 0.0, 0.0, 9.0]).unwrap();
        assert!(matches!(with(&[0, 1], &[other]), Err(InvalidCandidates::Impossible { .. })));
    }

    #[test]
    fn greedy_candidates_are_the_likeliest_tokens() {
        let draft = drawn(&[2, 1], Expansion::Top, 0);
        assert_eq!(draft.tree.tokens(), [0, 1, 0, 0].map(TokenId));
        assert_eq!(draft.candidates, None);
    }
}
