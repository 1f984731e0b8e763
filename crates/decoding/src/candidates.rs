//! What rejection sampling knows of a tree of candidates: the draws, and the distributions that they were drawn from.

use thiserror::Error;

use crate::{Distribution, NodeRows, TokenId, TokenTree};

/// Which candidates were drawn at each node, and from what: all that rejection sampling needs beside the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// The node of every draw. Draws of one parent are in the order drawn; with replacement a node may come more than once.
    draws: Vec<usize>,
    /// `q` of every parent, the root first, then in node order.
    q: Vec<Distribution>,
    replacement: bool,
}

/// Why draws and distributions do not belong to a tree.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidCandidates {
    #[error("draw {draw} names node {node} of a tree of {nodes} nodes")]
    NoSuchNode { draw: usize, node: usize, nodes: usize },
    #[error("node {node} was never drawn: name every node in the draws")]
    NeverDrawn { node: usize },
    #[error("node {node} was drawn twice, without replacement")]
    DrawnTwice { node: usize },
    #[error("draw {draw} is one more than the {limit} that were asked for at its depth")]
    TooManyDraws { draw: usize, limit: usize },
    #[error("{given} distributions for {parents} nodes with children: give one each, the root's first")]
    LengthMismatch { given: usize, parents: usize },
    #[error("node {node} carries token {token}, which the draft's distribution at its parent cannot draw")]
    Impossible { node: usize, token: TokenId },
}

impl Candidates {
    /// Checks the draws of `tree`, `branching[d]` at most at a node of depth `d`, and the distributions that they were drawn from; see
    /// the fields.
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
            let seen = drawn.get_mut(node);
            let seen = seen.ok_or(InvalidCandidates::NoSuchNode { draw, node, nodes: tree.len() })?;
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

    /// What a search drew: valid by construction.
    pub(crate) fn from_search(draws: Vec<usize>, q: Vec<Distribution>, replacement: bool) -> Self {
        Self { draws, q, replacement }
    }

    /// The node of every draw.
    pub fn draws(&self) -> &[usize] {
        &self.draws
    }

    /// `q` of every node with children, the root's first, then in node order.
    pub fn distributions(&self) -> &[Distribution] {
        &self.q
    }

    /// Whether a pair could be drawn twice.
    pub fn replacement(&self) -> bool {
        self.replacement
    }

    /// `q` at `parent`; `None` if it has no children.
    pub(crate) fn q_at(&self, tree: &TokenTree, parent: Option<usize>) -> Option<&Distribution> {
        self.q.get(parents_of(tree).binary_search(&parent).ok()?)
    }

    /// The children of `parent` in the order drawn, repetitions included.
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
