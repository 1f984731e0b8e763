//! Drafting with beams: depth by depth, from the joint distribution of the draft.

use crate::pairs::Pairs;
use crate::{Distribution, DraftTree, Expansion, JointLogProbs, TokenTree};

/// Beam search over the joint distribution of the draft. The caller runs the model: once per depth, it
/// computes the distributions of the [`frontier`](Self::frontier) and passes them to
/// [`advance`](Self::advance).
///
/// The tree is the union of all beams that were ever alive, including those that ended at a shallower depth.
#[derive(Clone, Debug)]
pub struct BeamSearch {
    width: usize,
    expansion: Expansion,
    tree: TokenTree,
    /// `[nodes]`: `Q`.
    joint: Vec<f64>,
    /// The distinct nodes at the ends of the live beams; `None` is the root.
    frontier: Vec<Option<usize>>,
    /// The live beams, each as an index into `frontier`. With replacement, several beams may share a node.
    beams: Vec<usize>,
}

impl BeamSearch {
    /// Starts a search with `width` beams (`B`) at the root.
    pub fn new(width: usize, expansion: Expansion) -> Self {
        Self {
            width,
            expansion,
            tree: TokenTree::default(),
            joint: Vec::new(),
            frontier: vec![None],
            beams: vec![0],
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

    /// Grows the beams by one depth. `distributions[i]` is `q(· | frontier[i])`; `uniforms` are this depth's
    /// draws in `[0, 1)`.
    ///
    /// If fewer pairs are possible than there are beams, fewer beams remain.
    ///
    /// # Panics
    /// If there is not exactly one distribution per node of the frontier.
    pub fn advance(&mut self, distributions: &[Distribution], uniforms: impl Iterator<Item = f64>) {
        assert_eq!(distributions.len(), self.frontier.len(), "one distribution per frontier node");
        let before: Vec<f64> = self.frontier.iter().map(|node| node.map_or(0.0, |n| self.joint[n])).collect();
        let pairs = Pairs { beams: &self.beams, before: &before, distributions };
        let chosen = match self.expansion {
            Expansion::Top => pairs.top(self.width),
            Expansion::Sampled { replacement } => pairs.draw(self.width, replacement, uniforms),
        };
        let mut frontier = Vec::new();
        let mut beams = Vec::new();
        for pair in chosen {
            let (node, new) = self.tree.insert(self.frontier[self.beams[pair.beam]], pair.token);
            if new {
                self.joint.push(pair.joint);
            }
            let known = frontier.iter().position(|&n| n == Some(node));
            beams.push(known.unwrap_or(frontier.len()));
            if known.is_none() {
                frontier.push(Some(node));
            }
        }
        self.frontier = frontier;
        self.beams = beams;
    }

    /// Ends the search and returns the union of all beams.
    pub fn finish(self) -> DraftTree {
        DraftTree { tree: self.tree, joint: JointLogProbs::from_sums(self.joint), candidates: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Draws, Purpose, Sampling, TokenId};

    fn distribution(probs: &[f64]) -> Distribution {
        let logits: Vec<f32> = probs.iter().map(|p| p.ln() as f32).collect();
        Sampling::new(1.0, 0, 0.0).unwrap().warp(&logits).unwrap()
    }

    #[test]
    fn top_beams_of_a_tree_computed_by_hand() {
        // At the root: A .6, B .4. After A: A .5, B .5. After B: A .9, B .1.
        let mut s = BeamSearch::new(2, Expansion::Top);
        s.advance(&[distribution(&[0.6, 0.4])], std::iter::empty());
        assert_eq!(s.frontier(), [Some(0), Some(1)]);
        s.advance(&[distribution(&[0.5, 0.5]), distribution(&[0.9, 0.1])], std::iter::empty());
        let draft = s.finish();
        // BA has .36; AA and AB both have .30, and the lower token comes first.
        assert_eq!(draft.tree.tokens(), [0, 1, 0, 0].map(TokenId));
        assert_eq!(draft.tree.parents(), [None, None, Some(1), Some(0)]);
        assert!((draft.joint.get(2) - 0.36f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn fewer_beams_remain_when_fewer_pairs_are_possible() {
        for expansion in [Expansion::Top, Expansion::Sampled { replacement: false }] {
            let mut s = BeamSearch::new(4, expansion);
            s.advance(&[distribution(&[0.7, 0.0, 0.3])], [0.5; 4].into_iter());
            assert_eq!(s.tree().len(), 2);
        }
    }

    #[test]
    fn equal_beams_drawn_with_replacement_share_a_node_and_keep_their_weight() {
        let mut s = BeamSearch::new(3, Expansion::Sampled { replacement: true });
        s.advance(&[distribution(&[0.5, 0.5])], [0.1, 0.2, 0.9].into_iter());
        assert_eq!(s.frontier().len(), 2);
        // Two of the three beams end in token 0, so two thirds of the mass of the next depth are below it.
        s.advance(&[distribution(&[1.0]), distribution(&[1.0])], [0.6, 0.65, 0.7].into_iter());
        assert_eq!(s.finish().tree.parents()[2..], [Some(0), Some(1)]);
    }

    /// A chi-square test of the first pair drawn at depth 2 against the joint distribution.
    #[test]
    fn pairs_are_drawn_from_the_joint_distribution() {
        let root = [0.5, 0.3, 0.2];
        let after = [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]];
        let mut counts = [[0u32; 2]; 3];
        let runs = 20_000;
        for seed in 0..runs {
            // Three beams without replacement keep all three tokens of depth 1.
            let mut s = BeamSearch::new(3, Expansion::Sampled { replacement: false });
            let d = Draws::new(seed);
            s.advance(&[distribution(&root)], d.uniforms(0, Purpose::DraftBeams { depth: 0 }));
            let next: Vec<_> = s
                .frontier()
                .iter()
                .map(|n| distribution(&after[s.tree().tokens()[n.unwrap()].0 as usize]))
                .collect();
            s.advance(&next, d.uniforms(0, Purpose::DraftBeams { depth: 1 }));
            let tree = s.finish().tree;
            let first = tree.level(2).next().unwrap();
            let parent = tree.tokens()[tree.parents()[first].unwrap()].0 as usize;
            counts[parent][tree.tokens()[first].0 as usize] += 1;
        }
        let mut chi2 = 0.0;
        for (a, row) in counts.iter().enumerate() {
            for (b, &n) in row.iter().enumerate() {
                let expected = runs as f64 * root[a] * after[a][b];
                chi2 += (f64::from(n) - expected).powi(2) / expected;
            }
        }
        assert!(chi2 < 20.5, "chi-square {chi2} at 5 degrees of freedom (p < 0.001)");
    }

    proptest! {
        #[test]
        fn the_tree_contains_every_beam(
            seed in any::<u64>(), width in 1usize..6, depth in 1usize..5, replacement in any::<bool>(),
            probs in proptest::collection::vec(0.01f64..1.0, 4),
        ) {
            let mut s = BeamSearch::new(width, Expansion::Sampled { replacement });
            let mut alive = Vec::new();
            for d in 0..depth {
                let q = distribution(&probs);
                let all = vec![q; s.frontier().len()];
                s.advance(&all, Draws::new(seed).uniforms(0, Purpose::DraftBeams { depth: d }));
                alive.extend(s.frontier().iter().flatten().map(|&n| {
                    s.tree().path(n).into_iter().map(|n| s.tree().tokens()[n]).collect::<Vec<_>>()
                }));
            }
            let draft = s.finish();
            for beam in alive {
                let end = beam.iter().try_fold(None, |at, &t| draft.tree.child(at, t).map(Some));
                prop_assert!(end.is_some(), "{beam:?} is not in the tree");
            }
            prop_assert_eq!(draft.tree.max_depth(), depth);
            prop_assert!(draft.tree.len() <= width * depth);
        }
    }
}
