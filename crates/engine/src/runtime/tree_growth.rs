//! A tree that grows pass by pass on the model thread.

use tandem_decoding::{RowQuery, RowSummary, TokenTree};
use tokio::sync::oneshot;

use super::steps::{Step, Steps};
use crate::model::{EngineError, TreeRows};

/// How a tree grows: which nodes are computed next may depend on the outputs of those before.
pub trait TreeGrowth: Send + 'static {
    /// What to compute next; `None` at the end.
    fn next(&mut self) -> Option<Growth<'_>>;

    /// Takes the outputs of the last [`Growth`]: one per query, in order.
    ///
    /// # Errors
    /// An error ends the growth.
    fn take(&mut self, outputs: Vec<RowSummary>) -> Result<(), EngineError>;
}

/// What one pass computes.
pub struct Growth<'a> {
    /// The tree before, with or without additional nodes.
    pub tree: &'a TokenTree,
    /// The nodes to compute. The parent of each was computed before, or comes before it.
    pub nodes: Vec<usize>,
    /// For the root, if it was not computed yet, then for each of `nodes`.
    pub queries: Vec<RowQuery>,
}

/// What the session's task gets back: the growth and the rows of the cache.
pub(super) type Grown<G> = Result<(G, TreeRows), EngineError>;

/// A growth on its way through the model thread.
pub(super) struct Growing<G> {
    pub(super) growth: G,
    pub(super) rows: TreeRows,
    pub(super) reply: oneshot::Sender<Grown<G>>,
}

impl<G: TreeGrowth> Steps for Growing<G> {
    fn next(&mut self) -> Option<Step> {
        let Growth { tree, nodes, queries } = self.growth.next()?;
        let (keep, pass) = self.rows.grow(tree, &nodes, queries);
        Some(Step { keep, pass })
    }

    fn take(&mut self, outputs: Vec<RowSummary>) -> Result<(), EngineError> {
        self.rows.passed();
        self.growth.take(outputs)
    }

    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    fn finish(self: Box<Self>, result: Result<(), EngineError>) {
        let Self { growth, rows, reply } = *self;
        let _ = reply.send(result.map(|()| (growth, rows)));
    }
}
