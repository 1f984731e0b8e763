//! Acceptance by joint likelihood (MTAD, MMTAD) and by exact match: which nodes of a tree are committed.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{JointLogProbs, NodeRows, TokenId, TokenTree};

/// The acceptance threshold `τ`, above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    tau: f64,
}

impl Threshold {
    /// Returns `None` unless `0 < tau ≤ 1`.
    pub fn new(tau: f64) -> Option<Self> {
        (tau > 0.0 && tau <= 1.0).then_some(Self { tau })
    }

    /// The acceptance test `target − reference > log τ`, both joint log-probabilities: the path is more than
    /// `τ` times as likely under the target as the reference level.
    ///
    /// A path that is impossible for the target (−∞) never passes, not even against a reference of −∞.
    fn passes(self, target: f64, reference: f64) -> bool {
        target > f64::NEG_INFINITY && target - reference > self.tau.ln()
    }
}

/// The reference levels that MMTAD compares the target's joint log-probabilities with, one per depth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reference {
    /// At each depth, `Q` of the best beam's ancestor.
    #[default]
    BestBeam,
    /// At each depth, the largest `Q`.
    Max,
}

/// The error for a name that is not one of [`Reference::ALL`]; it holds that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "unknown reference {0:?}: choose one of {names}",
    names = Reference::ALL.map(Reference::name).join(", ")
)]
pub struct UnknownReference(pub String);

impl Reference {
    /// All references, the default first.
    pub const ALL: [Self; 2] = [Self::BestBeam, Self::Max];

    /// The name that flags, requests and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::BestBeam => "best-beam",
            Self::Max => "max",
        }
    }

    /// The reference levels of a draft, natural log: `levels[d - 1]` is that of depth `d`, as [`mmtad`] takes
    /// them.
    pub fn levels(self, tree: &TokenTree, draft: &JointLogProbs) -> Vec<f64> {
        match self {
            Self::BestBeam => best_beam_levels(tree, draft),
            Self::Max => max_levels(tree, draft),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Reference {
    type Err = UnknownReference;

    fn from_str(name: &str) -> Result<Self, UnknownReference> {
        Self::ALL
            .into_iter()
            .find(|reference| reference.name() == name)
            .ok_or_else(|| UnknownReference(name.to_owned()))
    }
}

/// What one iteration commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The accepted nodes, from a child of the root downwards; empty if none was accepted.
    pub path: Vec<usize>,
    /// The bonus token: the token that the target adds after the last accepted node (or after the root).
    pub bonus: TokenId,
}

impl Accepted {
    /// Accepts `node` with its ancestors (`None`: no node). The bonus token is the one drawn at `node`.
    ///
    /// # Panics
    /// If `drawn` belongs to another tree.
    pub fn up_to(tree: &TokenTree, node: Option<usize>, drawn: &NodeRows<TokenId>) -> Self {
        Self { path: node.map_or_else(Vec::new, |n| tree.path(n)), bonus: *drawn.at(node) }
    }

    /// The last accepted node; `None` if none was accepted.
    pub fn last_node(&self) -> Option<usize> {
        self.path.last().copied()
    }
}

/// The MMTAD rule: the node to accept together with its ancestors; `None` accepts nothing.
///
/// A node of depth `d` passes if `P − levels[d - 1] > log τ`. Of the deepest depth with a passing node, the
/// rule takes the passing node of largest `P`, and of several equal ones the lowest index. Shallower depths
/// need not pass. On a tree of one beam with that beam's own `Q` as levels, this is MTAD.
///
/// `target` holds `P` of every node, `levels` the reference of every depth, from depth 1; both natural log.
///
/// # Panics
/// If `levels` is shorter than the tree is deep, or `target` belongs to another tree.
pub fn mmtad(
    tree: &TokenTree,
    target: &JointLogProbs,
    levels: &[f64],
    threshold: Threshold,
) -> Option<usize> {
    (1..=tree.max_depth()).rev().find_map(|depth| {
        tree.level(depth)
            .filter(|&node| threshold.passes(target.get(node), levels[depth - 1]))
            .first_max_by(|&a, &b| target.get(a).total_cmp(&target.get(b)))
    })
}

/// The leaf of the best beam: the node of largest `Q` at the last depth, and of several equal ones the lowest
/// index. `None` for an empty tree.
pub fn best_beam(tree: &TokenTree, draft: &JointLogProbs) -> Option<usize> {
    tree.level(tree.max_depth()).first_max_by(|&a, &b| draft.get(a).total_cmp(&draft.get(b)))
}

/// The levels of [`Reference::BestBeam`].
fn best_beam_levels(tree: &TokenTree, draft: &JointLogProbs) -> Vec<f64> {
    match best_beam(tree, draft) {
        Some(leaf) => tree.path(leaf).into_iter().map(|node| draft.get(node)).collect(),
        None => Vec::new(),
    }
}

/// The levels of [`Reference::Max`].
fn max_levels(tree: &TokenTree, draft: &JointLogProbs) -> Vec<f64> {
    (1..=tree.max_depth())
        .map(|depth| tree.level(depth).map(|node| draft.get(node)).fold(f64::NEG_INFINITY, f64::max))
        .collect()
}

/// The exact-match rule (lossless): starting at the root, moves to the child that carries the token drawn at
/// the current node, for as long as there is one. The first drawn token without such a child is the bonus
/// token.
///
/// Every token of `drawn` comes from `p(· | node)`, independently of the draft. The committed tokens are
/// therefore distributed as plain samples from the target, whatever the tree contains.
///
/// # Panics
/// If `drawn` belongs to another tree.
pub fn exact_match(tree: &TokenTree, drawn: &NodeRows<TokenId>) -> Accepted {
    let mut at = None;
    while let Some(child) = drawn.next(tree, at) {
        at = Some(child);
    }
    Accepted::up_to(tree, at, drawn)
}

trait FirstMax: Iterator + Sized {
    /// The first maximum, where [`Iterator::max_by`] returns the last one.
    fn first_max_by(
        self,
        mut compare: impl FnMut(&Self::Item, &Self::Item) -> std::cmp::Ordering,
    ) -> Option<Self::Item> {
        self.reduce(|best, next| if compare(&next, &best).is_gt() { next } else { best })
    }
}

impl<I: Iterator> FirstMax for I {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::TreeLimits;
    use crate::tree::tests_support::any_tree;

    /// MTAD as the paper states it: the largest `i` with `P_i − Q_i > log τ`, or 0.
    fn mtad(draft: &[f64], target: &[f64], tau: f64) -> usize {
        (1..=draft.len()).rev().find(|&i| target[i - 1] - draft[i - 1] > tau.ln()).unwrap_or(0)
    }

    fn step_log_prob() -> impl Strategy<Value = f64> {
        prop_oneof![4 => -3.0f64..0.0, 1 => Just(f64::NEG_INFINITY)]
    }

    proptest! {
        #[test]
        fn mmtad_on_a_single_beam_is_mtad(
            steps in proptest::collection::vec((-3.0f64..0.0, step_log_prob()), 0..8), tau in 0.01f64..=1.0,
        ) {
            let n = steps.len();
            let chain = (0..n).map(|i| i.checked_sub(1)).collect();
            let tree = TokenTree::new(vec![TokenId(1); n], chain, TreeLimits::default()).unwrap();
            let (draft_steps, target_steps): (Vec<f64>, Vec<f64>) = steps.into_iter().unzip();
            let draft = JointLogProbs::from_steps(&tree, &draft_steps).unwrap();
            let target = JointLogProbs::from_steps(&tree, &target_steps).unwrap();
            let levels = best_beam_levels(&tree, &draft);
            prop_assert_eq!(&levels[..], draft.as_slice());
            prop_assert_eq!(&max_levels(&tree, &draft), &levels);
            let accepted = mmtad(&tree, &target, &levels, Threshold::new(tau).unwrap()).map_or(0, |n| n + 1);
            prop_assert_eq!(accepted, mtad(draft.as_slice(), target.as_slice(), tau));
        }

        #[test]
        fn mmtad_accepts_no_impossible_path(
            tree in any_tree(), steps in proptest::collection::vec(step_log_prob(), 24), tau in 0.01f64..=1.0,
        ) {
            let target = JointLogProbs::from_steps(&tree, &steps[..tree.len()]).unwrap();
            // The lowest possible reference, against which every possible node passes.
            let levels = vec![f64::NEG_INFINITY; tree.max_depth()];
            if let Some(node) = mmtad(&tree, &target, &levels, Threshold::new(tau).unwrap()) {
                prop_assert!(tree.path(node).iter().all(|&n| steps[n] > f64::NEG_INFINITY));
            }
        }

        #[test]
        fn exact_match_commits_only_drawn_tokens(
            tree in any_tree(), drawn in proptest::collection::vec(0u32..4, 25),
        ) {
            let drawn = drawn.into_iter().take(tree.len() + 1).map(TokenId).collect();
            let drawn = NodeRows::from_rows(&tree, drawn).unwrap();
            let accepted = exact_match(&tree, &drawn);
            let mut at = None;
            for &node in &accepted.path {
                prop_assert_eq!(tree.tokens()[node], *drawn.at(at));
                at = Some(node);
            }
            prop_assert_eq!(accepted.bonus, *drawn.at(at));
            prop_assert_eq!(tree.child(at, accepted.bonus), None);
        }
    }

    #[test]
    fn mmtad_takes_the_lowest_index_of_equally_likely_nodes() {
        let tree =
            TokenTree::new(vec![TokenId(1), TokenId(2)], vec![None, None], TreeLimits::default()).unwrap();
        let target = JointLogProbs::new(&tree, vec![-1.0, -1.0]).unwrap();
        assert_eq!(mmtad(&tree, &target, &[-1.0], Threshold::new(0.9).unwrap()), Some(0));
        // A likelihood ratio of exactly τ does not pass.
        assert_eq!(mmtad(&tree, &target, &[-1.0], Threshold::new(1.0).unwrap()), None);
    }

    #[test]
    fn thresholds_outside_their_range_are_rejected() {
        for tau in [0.0, -0.5, 1.5, f64::NAN] {
            assert_eq!(Threshold::new(tau), None);
        }
    }
}
