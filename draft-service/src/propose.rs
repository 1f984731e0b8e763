//! The work of a draft step: a tree from the draft's distributions.

use tandem_decoding::{
    Distribution, Drafting, Draws, Purpose, RowQuery, RowSummary, Sampling, TreeSearch, Unwarped,
};
use tandem_engine::{EngineError, Growth, ModelSpec, TreeGrowth};
use tandem_generation::{DraftRequest, Proposal};
use tandem_worker::{SessionState, StepTask, WorkerError};

/// Proposes a tree under the last committed token.
pub(crate) struct ProposeTask(pub(crate) DraftRequest);

impl StepTask for ProposeTask {
    type Reply = Proposal;

    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), WorkerError> {
        let drafting = &self.0.drafting;
        state.check_tree(drafting.max_nodes(), drafting.depth(), committed, spec)?;
        let distributions = match drafting {
            // Greedy candidates are not drawn, and need no distributions.
            _ if state.sampling.is_greedy() => 0,
            Drafting::Beams { .. } => 0,
            // At the root and at every node but the deepest.
            Drafting::Candidates { branching, .. } => {
                1 + drafting.clone().no_deeper_than(branching.len() - 1).max_nodes()
            }
        };
        state.check_distributions("candidates", distributions)
    }

    async fn run(self, state: &mut SessionState) -> Result<Proposal, WorkerError> {
        let Proposal { draft, log_probs } = self.search(state).await?;
        if matches!(self.0.drafting, Drafting::Beams { best_only: true, .. })
            && let Some((leaf, alone)) = draft.best_beam_alone()
        {
            let path = draft.tree.path(leaf);
            let log_probs = path.into_iter().filter_map(|node| log_probs.get(node).copied()).collect();
            state.cache.prune_to(leaf);
            return Ok(Proposal { draft: alone, log_probs });
        }
        Ok(Proposal { draft, log_probs })
    }
}

impl ProposeTask {
    /// Searches on the model thread. The nodes of the last depth are proposed, not computed.
    async fn search(&self, state: &mut SessionState) -> Result<Proposal, WorkerError> {
        let search = Search {
            tree: TreeSearch::new(&self.0.drafting, state.sampling.is_greedy()),
            depth: 0,
            max_depth: self.0.drafting.depth(),
            query: RowQuery { distribution: true, unwarped: self.0.log_probs.then_some(0), ..state.query() },
            draws: state.draws,
            root: state.cache.committed(),
            log_probs: Vec::new(),
        };
        let search = state.cache.grow(search).await;
        let Search { tree, log_probs, .. } = search.map_err(|error| WorkerError::engine(error, "tree"))?;
        let draft = tree.finish();
        state.cache.plant(&draft.tree);
        Ok(Proposal { draft, log_probs })
    }
}

/// A search for a tree, one pass per depth.
struct Search {
    tree: TreeSearch,
    depth: usize,
    max_depth: usize,
    /// What is needed of every row.
    query: RowQuery,
    draws: Draws,
    /// The position of the root's children.
    root: usize,
    /// `[nodes]`, if requested: under the unwarped softmax.
    log_probs: Vec<f64>,
}

impl TreeGrowth for Search {
    fn next(&mut self) -> Option<Growth<'_>> {
        if self.depth == self.max_depth {
            return None;
        }
        let frontier = self.tree.frontier();
        Some(Growth {
            tree: self.tree.tree(),
            nodes: frontier.iter().flatten().copied().collect(),
            queries: vec![self.query.clone(); frontier.len()],
        })
    }

    fn take(&mut self, outputs: Vec<RowSummary>) -> Result<(), EngineError> {
        let mut distributions = Vec::with_capacity(outputs.len());
        let mut unwarped = Vec::new();
        for row in outputs {
            distributions.extend(row.distribution);
            unwarped.extend(row.unwarped);
        }
        let frontier = self.tree.frontier().to_vec();
        if distributions.len() != frontier.len() {
            let (given, needed) = (distributions.len(), frontier.len());
            return Err(EngineError::Failed(format!("{given} distributions for {needed} rows")));
        }
        let draws = self.draws.uniforms(self.root, Purpose::DraftBeams { depth: self.depth });
        self.tree.advance(&distributions, draws);
        self.append_log_probs(&frontier, &distributions, &unwarped);
        self.depth += 1;
        Ok(())
    }
}

impl Search {
    /// Appends the log-probabilities of the nodes that are new in the tree: children of `frontier`, whose rows these are.
    fn append_log_probs(
        &mut self,
        frontier: &[Option<usize>],
        distributions: &[Distribution],
        unwarped: &[Unwarped],
    ) {
        if unwarped.is_empty() {
            return;
        }
        let sampling: Sampling = self.query.sampling;
        let tree = self.tree.tree();
        for node in self.log_probs.len()..tree.len() {
            let row = frontier.iter().position(|&at| at == tree.parents()[node]).unwrap_or_default();
            let warped = distributions[row].log_prob(tree.tokens()[node]);
            self.log_probs.push(sampling.unwarp(warped, unwarped[row].offset));
        }
    }
}
