//! A session's text and its tree on one worker: what is committed, what of it is cached, which cache row is whose.

use tandem_decoding::{Accepted, AncestorMask, TokenId, TokenTree};
use thiserror::Error;

use crate::{Cache, EngineError, Keep, Logits, ModelThread, Pass};

/// The KV cache of a session, in terms of committed text and of the tree under its last token.
///
/// Rows of the cache: `base` rows that everything sees, then rows of the tree. Committed tokens that are not cached yet
/// are *pending* (always the last one, the root; for a draft sometimes the one before): the next pass takes them along, so
/// that a commit costs no pass of its own.
pub struct TreeCache {
    cache: Cache,
    base: usize,
    pending: Vec<TokenId>,
    tree: TokenTree,
    /// The cache row of each node of `tree` that was computed.
    rows: Vec<Option<usize>>,
    /// What the last commit keeps; applied with the next pass.
    keep: Option<Keep>,
}

/// Why a commit is impossible.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidCommit {
    #[error("node {node} was accepted, but the last tree has {nodes} nodes")]
    NoSuchNode { node: usize, nodes: usize },
    #[error("the accepted nodes {path:?} are no path of the last tree from the root downwards")]
    NoPath { path: Vec<usize> },
    #[error("the bonus token {token} is outside the vocabulary of {vocab} tokens")]
    TokenOutOfRange { token: TokenId, vocab: usize },
}

impl TreeCache {
    /// Prefills all of `prompt` but its last token, which is the first root. Room for `max_new_tokens` more and a tree of
    /// `max_tree_nodes` is reserved first.
    pub async fn open(
        thread: &ModelThread,
        prompt: &[TokenId],
        max_new_tokens: usize,
        max_tree_nodes: usize,
    ) -> Result<Self, EngineError> {
        let context = thread.spec().context_length;
        let Some((&root, before)) = prompt.split_last() else {
            return Err(EngineError::InvalidPass("the prompt is empty".into()));
        };
        if prompt.len() >= context {
            return Err(EngineError::ContextFull { position: prompt.len(), limit: context });
        }
        let text = prompt.len().saturating_add(max_new_tokens).min(context);
        let mut cache = thread.open(text + max_tree_nodes)?;
        cache.prefill(before).await?;
        Ok(Self {
            base: cache.len(),
            cache,
            pending: vec![root],
            tree: TokenTree::default(),
            rows: Vec::new(),
            keep: None,
        })
    }

    /// Committed tokens.
    pub fn committed(&self) -> usize {
        self.base + self.pending.len()
    }

    /// Checks that `accepted` is a path of the current tree.
    pub fn check_commit(&self, accepted: &Accepted, vocab: usize) -> Result<(), InvalidCommit> {
        let mut parent = None;
        for &node in &accepted.path {
            let nodes = self.tree.len();
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

    /// Commits `accepted` and drops the rest of the tree. [`Self::check_commit`] must have passed.
    pub fn commit(&mut self, accepted: &Accepted) {
        // Nodes are computed parents first, so those with a row come first.
        let rows: Vec<usize> = accepted.path.iter().map_while(|&n| self.rows[n]).collect();
        self.pending.extend(accepted.path[rows.len()..].iter().map(|&n| self.tree.tokens()[n]));
        self.pending.push(accepted.bonus);
        self.keep = Some(Keep { prefix: self.base, rows: rows.clone() });
        self.base += rows.len();
        self.tree = TokenTree::default();
        self.rows.clear();
    }

    /// Computes `nodes` of `tree`, together with what is pending. Logits: of the root, if it was pending, then of `nodes`.
    ///
    /// `tree` is the tree so far: the last one with nodes added. The parent of each of `nodes` was computed
    /// before, or comes before it in `nodes`.
    pub async fn grow(&mut self, tree: &TokenTree, nodes: &[usize]) -> Result<Logits, EngineError> {
        let chain = self.pending.len();
        let computed = self.rows.iter().flatten().count();
        let after_chain = self.base + chain;
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
        let pass = Pass {
            prefix: self.base,
            tokens: self.pending.iter().copied().chain(nodes.iter().map(|&n| tree.tokens()[n])).collect(),
            positions: (self.base..after_chain).chain(nodes.iter().map(|&n| root + tree.depth(n))).collect(),
            mask: AncestorMask::from_visible(columns, &visible),
            logits: (chain.saturating_sub(1)..chain + nodes.len()).collect(),
        };
        let logits = self.cache.run(self.keep.take(), pass).await?;
        self.base = after_chain;
        self.pending.clear();
        Ok(logits)
    }

    /// Makes `tree` the tree that the next commit is about: the last one, maybe with nodes that are proposed but not
    /// computed.
    pub fn plant(&mut self, tree: &TokenTree) {
        self.tree = tree.clone();
        self.rows.resize(tree.len(), None);
    }

    /// Replaces the tree by its path down to `leaf`, whose nodes are then numbered from 0.
    pub fn prune_to(&mut self, leaf: usize) -> TokenTree {
        self.rows = self.tree.path(leaf).into_iter().map(|n| self.rows[n]).collect();
        self.tree = self.tree.chain_to(leaf);
        self.tree.clone()
    }
}
