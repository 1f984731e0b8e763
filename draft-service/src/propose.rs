//! The work of a step: beams from the draft's joint distribution.

use tandem_decoding::{BeamSearch, DraftTree, Expansion, Purpose};
use tandem_engine::ModelSpec;
use tandem_proto::{Fault, ProposeShape, v1};
use tandem_worker::{Job, SessionState, engine_fault};

/// Proposes a tree of this shape under the last committed token.
pub(crate) struct Propose(pub(crate) ProposeShape);

impl Job for Propose {
    type Reply = v1::ProposeResponse;

    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), Fault> {
        let ProposeShape { beam_width, draft_tokens, .. } = self.0;
        state.check_tree(beam_width * draft_tokens, draft_tokens, committed, spec)
    }

    async fn run(self, state: &mut SessionState) -> Result<v1::ProposeResponse, Fault> {
        let DraftTree { tree, joint } = self.search(state).await?;
        let best = tandem_decoding::best_beam(&tree, &joint).filter(|_| self.0.best_beam_only);
        let (tree, joint) = match best {
            Some(leaf) => {
                let path = tree.path(leaf);
                (state.cache.prune_to(leaf), path.into_iter().map(|n| joint.get(n)).collect())
            }
            None => (tree, joint.as_slice().to_vec()),
        };
        Ok(v1::ProposeResponse { tree: Some((&tree).into()), joint_log_probs: joint })
    }
}

impl Propose {
    /// One pass per depth; the nodes of the last depth are proposed, not computed.
    async fn search(&self, state: &mut SessionState) -> Result<DraftTree, Fault> {
        let expansion = if state.sampling.is_greedy() {
            Expansion::Top
        } else {
            Expansion::Sampled { replacement: self.0.with_replacement }
        };
        let root = state.cache.committed();
        let mut search = BeamSearch::new(self.0.beam_width, expansion);
        for depth in 0..self.0.draft_tokens {
            let nodes: Vec<usize> = search.frontier().iter().flatten().copied().collect();
            let logits =
                state.cache.grow(search.tree(), &nodes).await.map_err(|e| engine_fault(e, "tree"))?;
            let distributions = state.warp(&logits)?;
            search.advance(&distributions, state.draws.uniforms(root, Purpose::DraftBeams { depth }));
        }
        let draft = search.finish();
        state.cache.plant(&draft.tree);
        Ok(draft)
    }
}
