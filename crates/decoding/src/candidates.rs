//! The draws of a candidate tree and the distributions they come from, as rejection sampling needs them.

use thiserror::Error;

use crate::{Distribution, NodeRows, TokenId, TokenTree};

/// The candidates drawn at each node of a tree, and the distributions `q` that they were drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// `[draws]`: the node of every draw. The draws of one parent are in the order in which they were drawn;
    /// with replacement a node may occur more than once.
    draws: Vec<usize>,
    /// `[parents]`: `q` of every node with children, the root first, then in node order.
    q: Vec<Distribution>,
    replacement: bool,
}

/// Why draws and distributions are not those of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidCandidates {
    #[error("draw {draw} refers to node {node}, but the tree has {nodes} nodes")]
    NoSuchNode { draw: usize, node: usize, nodes: usize },
    #[error("node {node} was never drawn: the draws must contain every node")]
    NeverDrawn { node: usize },
    #[error("node {node} was drawn twice, but the draws are without replacement")]
    DrawnTwice { node: usize },
    #[error("draw {draw} exceeds the {limit} candidates per node requested at its depth")]
    TooManyDraws { draw: usize, limit: usize },
    #[error("{given} distributions for {parents} nodes with children: give one per node, the root's first")]
    LengthMismatch { given: usize, parents: usize },
    #[error(
        "node {node} carries token {token}, which has probability 0 in the distribution it was drawn from"
    )]
    Impossible { node: usize, token: TokenId },
}

impl Candidates {
    /// Checks the candidates of `tree`.
    ///
    /// - `branching[d]`: the maximum number of draws at a node of depth `d`.
    /// - `draws`, `[draws]`: the node of every draw, those of one parent in the order drawn.
    /// - `q`, `[parents]`: the distribution of every node with children, the root's first, then in node
    ///   order.
    /// - `replacement`: whether a node may be drawn more than once.
    ///
    /// # Errors
    /// If the draws or the distributions cannot have led to `tree`.
    pub fn new(
        tree: &TokenTree,
        branching: &[usize],
        draws: Vec<usize>,
        q: Vec<Distribution>,
        replacement: bool,
    ) -> Result<Self, InvalidCandidates> {
        let mut drawn = vec![false; tree.len()];
        let mut draws_at = NodeRows::new(0, vec![0; tree.len()]);
        for (draw, &node) in draws.iter().enumerate() {
            let Some(seen) = drawn.get_mut(node) else {
                return Err(InvalidCandidates::NoSuchNode { draw, node, nodes: tree.len() });
            };
            if *seen && !replacement {
                return Err(InvalidCandidates::DrawnTwice { node });
            }
            *seen = true;
            let limit = branching.get(tree.depth(node) - 1).copied().unwrap_or(0);
            let count = draws_at.at_mut(tree.parents()[node]);
            *count += 1;
            if *count > limit {
                return Err(InvalidCandidates::TooManyDraws { draw, limit });
            }
        }
        if let Some(node) = drawn.iter().position(|&seen| !seen) {
            return Err(InvalidCandidates::NeverDrawn { node });
        }
        let parents = parents_of(tree);
        if q.len() != parents.len() {
            return Err(InvalidCandidates::LengthMismatch { given: q.len(), parents: parents.len() });
        }
        let candidates = Self { draws, q, replacement };
        for (node, &token) in tree.tokens().iter().enumerate() {
            let q = candidates.q_at(tree, tree.parents()[node]);
            if q.is_none_or(|q| q.log_prob(token) == f64::NEG_INFINITY) {
                return Err(InvalidCandidates::Impossible { node, token });
            }
        }
        Ok(candidates)
    }

    /// Takes what a search drew, which is valid by construction.
    pub(crate) fn from_search(draws: Vec<usize>, q: Vec<Distribution>, replacement: bool) -> Self {
        Self { draws, q, replacement }
    }

    /// `[draws]`: the node of every draw, those of one parent in the order drawn.
    pub fn draws(&self) -> &[usize] {
        &self.draws
    }

    /// `[parents]`: `q` of every node with children, the root's first, then in node order.
    pub fn distributions(&self) -> &[Distribution] {
        &self.q
    }

    /// Whether the candidates were drawn with replacement.
    pub fn replacement(&self) -> bool {
        self.replacement
    }

    /// `q` at `parent` (`None`: the root), or `None` if `parent` has no children.
    pub(crate) fn q_at(&self, tree: &TokenTree, parent: Option<usize>) -> Option<&Distribution> {
        self.q.get(parents_of(tree).binary_search(&parent).ok()?)
    }

    /// The children of `parent` (`None`: the root) in the order drawn, repetitions included.
    pub(crate) fn drawn_at(&self, tree: &TokenTree, parent: Option<usize>) -> Vec<usize> {
        self.draws.iter().copied().filter(|&node| tree.parents()[node] == parent).collect()
    }
}

/// The nodes with children, the root (`None`) first.
fn parents_of(tree: &TokenTree) -> Vec<Option<usize>> {
    let mut parents = tree.parents().to_vec();
    parents.sort_unstable();
    parents.dedup();
    parents
}
