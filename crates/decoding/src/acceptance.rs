//! Which part of a proposed tree is committed.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{JointLogProbs, NodeRows, TokenId, TokenTree};

/// The acceptance threshold `τ`, above 0 and at most 1, as `log τ`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    tau: f64,
}

impl Threshold {
    /// `None` unless `0 < tau ≤ 1`.
    pub fn new(tau: f64) -> Option<Self> {
        (tau > 0.0 && tau <= 1.0).then_some(Self { tau })
    }

    /// The test `ρ`: the target finds the path more than `τ` times as likely as the reference does.
    /// −∞ on the target's side never passes, whatever the reference.
    fn passes(self, target: f64, reference: f64) -> bool {
        target > f64::NEG_INFINITY && target - reference > self.tau.ln()
    }
}

/// Which reference levels MMTAD accepts by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `Q` of the best beam's ancestors.
    #[default]
    BestBeam,
    /// The largest `Q` of each depth.
    Max,
}

/// The name of no reference.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown reference {0:?}: choose one of {names}", names = Reference::ALL.map(Reference::name).join(", "))]
pub struct UnknownReference(pub String);

impl Reference {
    /// Every one, the default first.
    pub const ALL: [Self; 2] = [Self::BestBeam, Self::Max];

    /// The name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BestBeam => "best-beam",
            Self::Max => "max",
        }
    }

    /// The levels of a draft, by depth from 1.
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
        Self::ALL.into_iter().find(|r| r.name() == name).ok_or_else(|| UnknownReference(name.to_owned()))
    }
}

/// What one iteration commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Accepted nodes, from the root's child downwards; empty when none was.
    pub path: Vec<usize>,
    /// The token drawn from the target behind the last of them.
    pub bonus: TokenId,
}

impl Accepted {
    /// `node` and its ancestors (`None`: nothing), then the token that was drawn there.
    pub fn up_to(tree: &TokenTree, node: Option<usize>, drawn: &NodeRows<TokenId>) -> Self {
        Self { path: node.map_or_else(Vec::new, |n| tree.path(n)), bonus: *drawn.at(node) }
    }

    /// The last accepted node; `None` if none was.
    pub fn last_node(&self) -> Option<usize> {
        self.path.last().copied()
    }
}

/// MMTAD: the node to accept, with its ancestors; `None` accepts nothing.
///
/// At the deepest depth `d` where some node's target joint log-probability passes against `levels[d - 1]`, the passing
/// node of the largest one (of equal ones, the lowest index). A shallower depth need not pass. On a tree of one beam,
/// with that beam's own `Q` as levels, this is MTAD.
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

/// The best beam: the node of the largest `Q` at the last depth (of equal ones, the lowest index); `None` for an empty
/// tree.
pub fn best_beam(tree: &TokenTree, draft: &JointLogProbs) -> Option<usize> {
    tree.level(tree.max_depth()).first_max_by(|&a, &b| draft.get(a).total_cmp(&draft.get(b)))
}

/// Reference levels of MMTAD: `Q` of the best beam's ancestor at each depth.
fn best_beam_levels(tree: &TokenTree, draft: &JointLogProbs) -> Vec<f64> {
    best_beam(tree, draft)
        .map_or_else(Vec::new, |leaf| tree.path(leaf).into_iter().map(|n| draft.get(n)).collect())
}

/// Reference levels of MMTAD's max-reference variant: the largest `Q` of each depth.
fn max_levels(tree: &TokenTree, draft: &JointLogProbs) -> Vec<f64> {
    let largest = |depth| tree.level(depth).map(|n| draft.get(n)).fold(f64::NEG_INFINITY, f64::max);
    (1..=tree.max_depth()).map(largest).collect()
}

/// Exact match (lossless): from the root, while the token drawn at a node is one of its children, step to it; the first
/// that is none is the bonus token.
///
/// Every drawn token comes from `p(· | node)` independently of the draft, so the committed tokens are distributed as
/// plain samples of the target whatever the tree was.
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
    /// The first of the largest; `max_by` takes the last.
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

    /// MTAD as the paper states it: the largest `i` with `P_i − Q_i > log τ`.
    fn mtad(draft: &[f64], target: &[f64], tau: f64) -> usize {
        (1..=draft.len()).rev().find(|&i| target[i - 1] - draft[i - 1] > tau.ln()).unwrap_or(0)
    }

    fn step() -> impl Strategy<Value = f64> {
        prop_oneof![4 => -3.0f64..0.0, 1 => Just(f64::NEG_INFINITY)]
    }

    proptest! {
        #[test]
        fn one_beam_makes_mmtad_mtad(
            steps in proptest::collection::vec((-3.0f64..0.0, step()), 0..8), tau in 0.01f64..=1.0,
        ) {
            let n = steps.len();
            let tree = TokenTree::new(
                vec![TokenId(1); n], (0..n).map(|i| i.checked_sub(1)).collect(), TreeLimits::default(),
            ).unwrap();
            let draft = JointLogProbs::from_steps(&tree, &steps.iter().map(|s| s.0).collect::<Vec<_>>()).unwrap();
            let target = JointLogProbs::from_steps(&tree, &steps.iter().map(|s| s.1).collect::<Vec<_>>()).unwrap();
            let levels = best_beam_levels(&tree, &draft);
            prop_assert_eq!(&levels[..], draft.as_slice());
            prop_assert_eq!(&max_levels(&tree, &draft), &levels);
            let accepted = mmtad(&tree, &target, &levels, Threshold::new(tau).unwrap()).map_or(0, |n| n + 1);
            prop_assert_eq!(accepted, mtad(draft.as_slice(), target.as_slice(), tau));
        }

        #[test]
        fn nothing_below_an_impossible_node_is_accepted(
            tree in any_tree(), steps in proptest::collection::vec(step(), 24), tau in 0.01f64..=1.0,
        ) {
            let target = JointLogProbs::from_steps(&tree, &steps[..tree.len()]).unwrap();
            // The most generous reference there is.
            let levels = vec![f64::NEG_INFINITY; tree.max_depth()];
            if let Some(node) = mmtad(&tree, &target, &levels, Threshold::new(tau).unwrap()) {
                prop_assert!(tree.path(node).iter().all(|&n| steps[n] > f64::NEG_INFINITY));
            }
        }

        #[test]
        fn exact_match_commits_drawn_tokens_only(
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
    fn of_equal_nodes_the_lowest_is_taken() {
        let tree =
            TokenTree::new(vec![TokenId(1), TokenId(2)], vec![None, None], TreeLimits::default()).unwrap();
        let target = JointLogProbs::new(&tree, vec![-1.0, -1.0]).unwrap();
        assert_eq!(mmtad(&tree, &target, &[-1.0], Threshold::new(0.9).unwrap()), Some(0));
        // A ratio of exactly τ does not pass.
        assert_eq!(mmtad(&tree, &target, &[-1.0], Threshold::new(1.0).unwrap()), None);
    }

    #[test]
    fn a_threshold_outside_its_range_is_none() {
        for tau in [0.0, -0.5, 1.5, f64::NAN] {
            assert_eq!(Threshold::new(tau), None);
        }
    }
}
