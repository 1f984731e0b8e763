//! The work of a draft step: a tree from the draft's distributions.

use tandem_decoding::{Drafting, Purpose, TreeSearch, log_normalizer};
use tandem_engine::{Logits, ModelSpec};
use tandem_generation::{DraftRequest, Proposal};
use tandem_worker::{SessionState, StepTask, WorkerError};

/// Proposes a tree under the last committed token.
pub(crate) struct ProposeTask(pub(crate) DraftRequest);

impl StepTask for ProposeTask {
    type Reply = Proposal;

    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), WorkerError> {
        let drafting = &self.0.drafting;
        state.check_tree(drafting.max_nodes(), drafting.depth(), committed, spec)
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
    /// Runs one pass per depth. The nodes of the last depth are proposed, not computed.
    async fn search(&self, state: &mut SessionState) -> Result<Proposal, WorkerError> {
        let root = state.cache.committed();
        let mut search = TreeSearch::new(&self.0.drafting, state.sampling.is_greedy());
        let mut log_probs = Vec::new();
        for depth in 0..self.0.drafting.depth() {
            let frontier = search.frontier().to_vec();
            let nodes: Vec<usize> = frontier.iter().flatten().copied().collect();
            let logits = state.cache.grow(search.tree(), &nodes).await;
            let logits = logits.map_err(|error| WorkerError::engine(error, "tree"))?;
            let distributions = state.warp(&logits)?;
            search.advance(&distributions, state.draws.uniforms(root, Purpose::DraftBeams { depth }));
            if self.0.log_probs {
                append_log_probs(&search, &frontier, &logits, state, &mut log_probs);
            }
        }
        let draft = search.finish();
        state.cache.plant(&draft.tree);
        Ok(Proposal { draft, log_probs })
    }
}

/// Appends the log-probabilities, under the unwarped softmax, of the nodes that are new in the tree: children of `frontier`, whose
/// logits these are.
fn append_log_probs(
    search: &TreeSearch,
    frontier: &[Option<usize>],
    logits: &Logits,
    state: &SessionState,
    log_probs: &mut Vec<f64>,
) {
    let rows: Vec<&[f32]> = logits.rows().map(|row| state.allowed(row)).collect();
    let normalizers: Vec<f64> = rows.iter().map(|row| log_normalizer(row)).collect();
    let tree = search.tree();
    for node in log_probs.len()..tree.len() {
        let row = frontier.iter().position(|&at| at == tree.parents()[node]).unwrap_or_default();
        log_probs.push(f64::from(rows[row][tree.tokens()[node].0 as usize]) - normalizers[row]);
    }
}
