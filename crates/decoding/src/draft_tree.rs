//! The result of drafting: a token tree with its joint log-probabilities.

use crate::{Candidates, JointLogProbs, TokenTree, best_beam};

/// A token tree that a draft proposes, with what acceptance needs to know about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DraftTree {
    /// The union of all beams that were ever alive, or all candidates.
    pub tree: TokenTree,
    /// `[nodes]`: `Q` of every node, natural log.
    pub joint: JointLogProbs,
    /// How the candidates were drawn, which rejection sampling needs. `None` for beams, and for candidates
    /// that were chosen greedily instead of drawn.
    pub candidates: Option<Candidates>,
}

impl DraftTree {
    /// The best beam alone, as a chain, and the index that its leaf has in this tree. `None` for an empty
    /// tree.
    pub fn best_beam_alone(&self) -> Option<(usize, Self)> {
        let leaf = best_beam(&self.tree, &self.joint)?;
        let joint = self.tree.path(leaf).into_iter().map(|n| self.joint.get(n)).collect();
        let joint = JointLogProbs::from_sums(joint);
        Some((leaf, Self { tree: self.tree.chain_to(leaf), joint, candidates: None }))
    }
}
