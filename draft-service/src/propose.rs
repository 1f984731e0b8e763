//! The work of a step: a tree from the draft's distributions.

use tandem_decoding::{DraftTree, Drafting, Purpose, TreeSearch, log_normalizer};
use tandem_engine::{Logits, ModelSpec};
use tandem_proto::{Fault, Propose, v1};
use tandem_worker::{Job, SessionState, engine_fault};

/// Proposes a tree under the last committed token.
pub(crate) struct ProposeJob(pub(crate) Propose);

impl Job for ProposeJob {
    type Reply = v1::ProposeResponse;

    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), Fault> {
        let drafting = &self.0.drafting;
        state.check_tree(drafting.max_nodes(), drafting.depth(), committed, spec)
    }

    async fn run(self, state: &mut SessionState) -> Result<v1::ProposeResponse, Fault> {
        let (mut draft, mut log_probs) = self.search(state).await?;
        if matches!(self.0.drafting, Drafting::Beams { best_only: true, .. })
            && let Some((leaf, alone)) = draft.best_beam_alone()
        {
            log_probs = draft.tree.path(leaf).into_iter().filter_map(|n| log_probs.get(n).copied()).collect();
            state.cache.prune_to(leaf);
            draft = alone;
        }
        Ok(v1::ProposeResponse { log_probs, ..(&draft).into() })
    }
}

impl ProposeJob {
    /// One pass per depth; the nodes of the last depth are proposed, not computed. Also the nodes' log-probabilities under the
    /// unwarped softmax, if asked for.
    async fn search(&self, state: &mut SessionState) -> Result<(DraftTree, Vec<f64>), Fault> {
        let root = state.cache.committed();
        let mut search = TreeSearch::new(&self.0.drafting, state.sampling.is_greedy());
        let mut log_probs = Vec::new();
        for depth in 0..self.0.drafting.depth() {
            let frontier = search.frontier().to_vec();
            let nodes: Vec<usize> = frontier.iter().flatten().copied().collect();
            let logits =
                state.cache.grow(search.tree(), &nodes).await.map_err(|e| engine_fault(e, "tree"))?;
            let distributions = state.warp(&logits)?;
            search.advance(&distributions, state.draws.uniforms(root, Purpose::DraftBeams { depth }));
            if self.0.log_probs {
                unwarped(&search, &frontier, &logits, state, &mut log_probs);
            }
        }
        let draft = search.finish();
        state.cache.plant(&draft.tree);
        Ok((draft, log_probs))
    }
}

/// Appends the log-probabilities of the nodes that are new in the tree, children of `frontier`, whose logits these are.
fn unwarped(
    search: &TreeSearch,
    frontier: &[Option<usize>],
    logits: &Logits,
    state: &SessionState,
    log_probs: &mut Vec<f64>,
) {
    let rows: Vec<&[f32]> = logits.rows().map(|row| state.possible(row)).collect();
    let normalizers: Vec<f64> = rows.iter().map(|row| log_normalizer(row)).collect();
    let tree = search.tree();
    for node in log_probs.len()..tree.len() {
        let row = frontier.iter().position(|&at| at == tree.parents()[node]).unwrap_or_default();
        log_probs.push(f64::from(rows[row][tree.tokens()[node].0 as usize]) - normalizers[row]);
    }
}
