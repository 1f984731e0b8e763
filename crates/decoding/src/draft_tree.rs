//! A finished draft.

use crate::{Candidates, JointLogProbs, TokenTree, best_beam};

/// A finished draft.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DraftTree {
    /// Every beam that was ever alive, or every candidate.
    pub tree: TokenTree,
    /// `Q` of every node.
    pub joint: JointLogProbs,
    /// What rejection sampling needs besides; `None` for beams, and where nothing was drawn.
    pub candidates: Option<Candidates>,
}

impl DraftTree {
    /// The best beam alone, and its leaf in the whole tree; `None` for an empty tree.
    pub fn best_beam_alone(&self) -> Option<(usize, Self)> {
        let leaf = best_beam(&self.tree, &self.joint)?;
        let joint = self.tree.path(leaf).into_iter().map(|n| self.joint.get(n)).collect();
        let joint = JointLogProbs::from_sums(joint);
        Some((leaf, Self { tree: self.tree.chain_to(leaf), joint, candidates: None }))
    }
}
