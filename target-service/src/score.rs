//! The work of a step: the target's view of every node.

use tandem_decoding::{Purpose, TokenTree};
use tandem_engine::ModelSpec;
use tandem_proto::{Fault, v1};
use tandem_worker::{Job, SessionState, engine_fault};

/// Scores this tree under the last committed token.
pub(crate) struct Score(pub(crate) TokenTree);

impl Job for Score {
    type Reply = v1::ScoreTreeResponse;

    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), Fault> {
        state.check_tree(self.0.len(), self.0.max_depth(), committed, spec)?;
        state.check_tokens(&self.0, spec)
    }

    async fn run(self, state: &mut SessionState) -> Result<v1::ScoreTreeResponse, Fault> {
        let tree = &self.0;
        let committed = state.cache.committed();
        let nodes: Vec<usize> = (0..tree.len()).collect();
        let logits = state.cache.grow(tree, &nodes).await.map_err(|e| engine_fault(e, "tree"))?;
        // `p` of the root, then of each node.
        let p = state.warp(&logits)?;
        let mut joint = Vec::with_capacity(tree.len());
        let mut drawn = Vec::with_capacity(p.len());
        for (i, p) in p.iter().enumerate() {
            let depth = i.checked_sub(1).map_or(0, |node| tree.depth(node));
            let uniform = state.draws.uniform(committed + depth, Purpose::TargetToken);
            drawn.push(state.sampling.pick(p, uniform).0);
        }
        for node in 0..tree.len() {
            let parent = tree.parents()[node];
            let before = parent.map_or(0.0, |n| joint[n]);
            joint.push(before + p[parent.map_or(0, |n| n + 1)].log_prob(tree.tokens()[node]));
        }
        Ok(v1::ScoreTreeResponse { joint_log_probs: joint, drawn_tokens: drawn })
    }
}
