//! The KV cache of a session that decodes token trees.

use tandem_decoding::{Accepted, RowQuery, RowSummary, TokenId, TokenTree};
use tokio::sync::oneshot;

use super::model_thread::{Cache, ModelThread};
use super::tree_growth::{Growing, TreeGrowth};
use crate::model::{EngineError, InvalidCommit, TreeRows};

/// The KV cache of a session, in terms of committed tokens and of the tree under the last of them.
///
/// A commit is applied with the next pass, and committed tokens that are not cached yet go along in it, so
/// that a commit needs no pass of its own.
pub struct TreeCache {
    cache: Cache,
    rows: TreeRows,
}

impl TreeCache {
    /// Opens a cache and prefills all of `prompt` but its last token, which is the first root. Room for
    /// `max_new_tokens` more and for a tree of `max_tree_nodes` is reserved first.
    ///
    /// # Errors
    /// If the prompt is empty or fills the context, if the budget is full, or if the prefill fails.
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
        let max_tokens = prompt.len().saturating_add(max_new_tokens).min(context);
        let mut cache = thread.open(max_tokens + max_tree_nodes)?;
        cache.prefill(before).await?;
        let rows = TreeRows::new(before.len(), root);
        Ok(Self { cache, rows })
    }

    /// The number of committed tokens.
    pub fn committed(&self) -> usize {
        self.rows.committed()
    }

    /// Checks that `accepted` is a path of the current tree.
    ///
    /// # Errors
    /// The first reason why it cannot be committed.
    pub fn check_commit(&self, accepted: &Accepted, vocab: usize) -> Result<(), InvalidCommit> {
        self.rows.check_commit(accepted, vocab)
    }

    /// Commits `accepted` and drops the rest of the tree. [`Self::check_commit`] must have passed.
    pub fn commit(&mut self, accepted: &Accepted) {
        self.rows.commit(accepted);
    }

    /// Computes `nodes` of `tree`, together with committed tokens that are not cached yet. `queries` are for
    /// the root, if it was not cached, then for `nodes`; there is one summary for each.
    ///
    /// `tree` is the current tree, with or without additional nodes. The parent of each of `nodes` was
    /// computed before, or comes before it in `nodes`.
    ///
    /// # Errors
    /// As [`Cache::run`].
    pub async fn compute(
        &mut self,
        tree: &TokenTree,
        nodes: &[usize],
        queries: Vec<RowQuery>,
    ) -> Result<Vec<RowSummary>, EngineError> {
        let (keep, pass) = self.rows.grow(tree, nodes, queries);
        let outputs = self.cache.run(keep, pass).await?;
        self.rows.passed();
        Ok(outputs)
    }

    /// Grows the tree pass by pass, and returns `growth` as it is at the end.
    ///
    /// # Errors
    /// As [`Cache::run`], and those of `growth`. The cache is then of no further use.
    pub async fn grow<G: TreeGrowth>(&mut self, growth: G) -> Result<G, EngineError> {
        let (reply, replied) = oneshot::channel();
        // The model thread returns the rows with its reply.
        let rows = std::mem::replace(&mut self.rows, TreeRows::new(0, TokenId(0)));
        self.cache.start(Box::new(Growing { growth, rows, reply })).await?;
        let (growth, rows) = replied.await.map_err(|_| EngineError::Stopped)??;
        self.rows = rows;
        Ok(growth)
    }

    /// Makes `tree` the tree that the next commit refers to: the tree before, with or without additional
    /// nodes that are proposed but not computed.
    pub fn plant(&mut self, tree: &TokenTree) {
        self.rows.plant(tree);
    }

    /// Replaces the tree by its path down to `leaf`, with nodes numbered from 0, and returns that path.
    pub fn prune_to(&mut self, leaf: usize) -> TokenTree {
        self.rows.prune_to(leaf)
    }
}
