//! Which cache row belongs to which token of a session. Pure bookkeeping: it describes passes, and runs none.

use tandem_decoding::{Accepted, AncestorMask, RowQuery, TokenId, TokenTree};
use thiserror::Error;

use super::backend::{Keep, Pass, RowOutput};

/// The rows of a session's KV cache, in terms of committed tokens and of the tree under the last of them.
///
/// The cache holds `base` rows that every row attends to, followed by rows of the tree. Committed tokens
/// without a cache row are *pending*: always the last one, the root; for a draft sometimes also the one
/// before. The next pass takes them along, so that a commit needs no pass of its own.
pub(crate) struct TreeRows {
    base: usize,
    pending: Vec<TokenId>,
    tree: TokenTree,
    /// The cache row of each node of `tree`, if it was computed.
    rows: Vec<Option<usize>>,
    /// The rows that survive the last commit. Applied with the next pass.
    keep: Option<Keep>,
}

/// Why a commit is impossible.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum InvalidCommit {
    #[error("node {node} was accepted, but the last tree has {nodes} nodes")]
    NoSuchNode { node: usize, nodes: usize },
    #[error("the accepted nodes {path:?} are not a path of the last tree, from the root downwards")]
    NoPath { path: Vec<usize> },
    #[error("the bonus token {token} is outside the vocabulary of {vocab} tokens")]
    TokenOutOfRange { token: TokenId, vocab: usize },
}

impl TreeRows {
    /// A session with `cached` committed tokens in its cache, followed by `root`.
    pub(crate) fn new(cached: usize, root: TokenId) -> Self {
        Self { base: cached, pending: vec![root], tree: TokenTree::default(), rows: Vec::new(), keep: None }
    }

    /// The number of committed tokens.
    pub(crate) fn committed(&self) -> usize {
        self.base + self.pending.len()
    }

    /// Checks that `accepted` is a path of the current tree.
    pub(crate) fn check_commit(&self, accepted: &Accepted, vocab: usize) -> Result<(), InvalidCommit> {
        let nodes = self.tree.len();
        let mut parent = None;
        for &node in &accepted.path {
            if node >= nodes {
                return Err(InvalidCommit::NoSuchNode { node, nodes });
            }
            if self.tree.parents()[node] != parent {
                return Err(InvalidCommit::NoPath { path: accepted.path.clone() });
            }
            parent = Some(node);
        }
        if accepted.bonus.0 as usize >= vocab {
            return Err(InvalidCommit::TokenOutOfRange { token: accepted.bonus, vocab });
        }
        Ok(())
    }

    /// Commits `accepted`, which was checked, and drops the rest of the tree.
    pub(crate) fn commit(&mut self, accepted: &Accepted) {
        // Parents are computed before their children, so the nodes with a row come first on a path.
        let rows: Vec<usize> = accepted.path.iter().map_while(|&node| self.rows[node]).collect();
        let computed = rows.len();
        let not_computed = &accepted.path[computed..];
        self.pending.extend(not_computed.iter().map(|&node| self.tree.tokens()[node]));
        self.pending.push(accepted.bonus);
        self.keep = Some(Keep { prefix: self.base, rows });
        self.base += computed;
        self.tree = TokenTree::default();
        self.rows.clear();
    }

    /// The pass that computes `nodes` of `tree` and what is pending, and the rows to keep before it. `queries`
    /// are for the root, if that is pending, and then for `nodes`.
    ///
    /// `tree` is the current tree, with or without additional nodes. The parent of each of `nodes` was
    /// computed before, or comes before it in `nodes`.
    pub(crate) fn grow(
        &mut self,
        tree: &TokenTree,
        nodes: &[usize],
        queries: Vec<RowQuery>,
    ) -> (Option<Keep>, Pass) {
        let chain = self.pending.len();
        let after_chain = self.base + chain;
        let computed = self.rows.iter().flatten().count();
        self.plant(tree);
        for (i, &node) in nodes.iter().enumerate() {
            self.rows[node] = Some(after_chain + computed + i);
        }
        let columns = chain + computed + nodes.len();
        let mut visible: Vec<Vec<usize>> = (0..chain).map(|row| (0..=row).collect()).collect();
        for &node in nodes {
            let ancestors = tree.path(node).into_iter().filter_map(|n| self.rows[n]);
            visible.push((0..chain).chain(ancestors.map(|row| row - self.base)).collect());
        }
        let root = self.committed() - 1;
        let outputs = (chain.saturating_sub(1)..).zip(queries);
        let pass = Pass {
            prefix: self.base,
            tokens: self.pending.iter().copied().chain(nodes.iter().map(|&n| tree.tokens()[n])).collect(),
            positions: (self.base..after_chain).chain(nodes.iter().map(|&n| root + tree.depth(n))).collect(),
            mask: AncestorMask::from_visible(columns, &visible),
            outputs: outputs.map(|(row, query)| RowOutput { row, query }).collect(),
        };
        (self.keep.take(), pass)
    }

    /// Counts the pending tokens as cached, after the pass of [`Self::grow`].
    pub(crate) fn passed(&mut self) {
        self.base += self.pending.len();
        self.pending.clear();
    }

    /// Makes `tree` the current tree: the tree before, with or without additional nodes that are not
    /// computed.
    pub(crate) fn plant(&mut self, tree: &TokenTree) {
        self.tree = tree.clone();
        self.rows.resize(tree.len(), None);
    }

    /// Replaces the tree by its path down to `leaf`, with nodes numbered from 0, and returns that path.
    pub(crate) fn prune_to(&mut self, leaf: usize) -> TokenTree {
        self.rows = self.tree.path(leaf).into_iter().map(|node| self.rows[node]).collect();
        self.tree = self.tree.chain_to(leaf);
        self.tree.clone()
    }
}
