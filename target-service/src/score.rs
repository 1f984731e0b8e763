//! The work of a step: the target's view of every node.

use tandem_decoding::{Distribution, JointLogProbs, Purpose, TokenId, TokenTree, log_normalizer};
use tandem_engine::{Logits, ModelSpec};
use tandem_proto::{Fault, Scores, TokenLogProbs, TopTokens, Wanted, v1};
use tandem_worker::{Job, SessionState, engine_fault};

/// Scores this tree under the last committed token.
pub(crate) struct Score {
    pub(crate) tree: TokenTree,
    pub(crate) wanted: Wanted,
}

impl Job for Score {
    type Reply = v1::ScoreTreeResponse;

    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), Fault> {
        state.check_tree(self.tree.len(), self.tree.max_depth(), committed, spec)?;
        state.check_tokens(&self.tree, spec)
    }

    async fn run(self, state: &mut SessionState) -> Result<v1::ScoreTreeResponse, Fault> {
        let tree = &self.tree;
        let committed = state.cache.committed();
        let nodes: Vec<usize> = (0..tree.len()).collect();
        let logits = state.cache.grow(tree, &nodes).await.map_err(|e| engine_fault(e, "tree"))?;
        // `p` of the root, then of each node.
        let p = state.warp(&logits)?;
        let mut drawn = Vec::with_capacity(p.len());
        for (row, p) in p.iter().enumerate() {
            let depth = row.checked_sub(1).map_or(0, |node| tree.depth(node));
            let uniform = state.draws.uniform(committed + depth, Purpose::TargetToken);
            drawn.push(state.sampling.pick(p, uniform));
        }
        let steps: Vec<f64> =
            (0..tree.len()).map(|n| p[parent_row(tree, n)].log_prob(tree.tokens()[n])).collect();
        let joint = JointLogProbs::from_steps(tree, &steps).map_err(|e| Fault::Bug(e.to_string()))?;
        let p = if self.wanted.distributions { p } else { Vec::new() };
        let log_probs = self.wanted.log_probs.then(|| {
            let top = self.wanted.top_log_probs;
            unwarped(tree, (&drawn, &p), &logits, state, top)
        });
        Ok(Scores { joint, drawn, distributions: p, log_probs }.into())
    }
}

/// The row of logits that judges `node`: row 0 is the root's, row `i + 1` node `i`'s.
fn parent_row(tree: &TokenTree, node: usize) -> usize {
    tree.parents()[node].map_or(0, |parent| parent + 1)
}

fn unwarped(
    tree: &TokenTree,
    (drawn, p): (&[TokenId], &[Distribution]),
    logits: &Logits,
    state: &SessionState,
    top: usize,
) -> TokenLogProbs {
    let rows: Vec<&[f32]> = logits.rows().map(|row| state.possible(row)).collect();
    let normalizers: Vec<f64> = rows.iter().map(|row| log_normalizer(row)).collect();
    // A token beyond the vocabulary that both models have is impossible.
    let log_prob = |row: usize, token: TokenId| {
        rows[row].get(token.0 as usize).map_or(f64::NEG_INFINITY, |&x| f64::from(x) - normalizers[row])
    };
    let scale = state.sampling.likelihood_temperature();
    let offset = |(row, p): (usize, &Distribution)| {
        p.iter().next().map_or(0.0, |(token, warped)| log_prob(row, token) - scale * warped)
    };
    TokenLogProbs {
        nodes: (0..tree.len()).map(|n| log_prob(parent_row(tree, n), tree.tokens()[n])).collect(),
        drawn: drawn.iter().enumerate().map(|(row, &token)| log_prob(row, token)).collect(),
        distribution_offsets: p.iter().enumerate().map(offset).collect(),
        top: match top {
            0 => Vec::new(),
            n => rows
                .iter()
                .zip(&normalizers)
                .map(|(row, &normalizer)| likeliest(row, normalizer, n))
                .collect(),
        },
    }
}

/// The `n` likeliest tokens of a row of logits, best first; of equal ones the lower id first.
fn likeliest(row: &[f32], normalizer: f64, n: usize) -> TopTokens {
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(n + 1);
    for (id, &logit) in row.iter().enumerate() {
        // Nearly all of a vocabulary ends here.
        if best.len() == n && best.last().is_none_or(|worst| logit <= worst.1) {
            continue;
        }
        best.insert(best.partition_point(|b| b.1 >= logit), (id, logit));
        best.truncate(n);
    }
    let token = |id: usize| TokenId(u32::try_from(id).unwrap_or(u32::MAX));
    best.into_iter().map(|(id, logit)| (token(id), f64::from(logit) - normalizer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_are_the_best_in_order() {
        let row = [0.5, 2.0, -1.0, 2.0, 1.0];
        let ids = |n| likeliest(&row, 3.0, n).iter().map(|t| t.0.0).collect::<Vec<_>>();
        assert_eq!(ids(3), [1, 3, 4]);
        assert_eq!(ids(5), [1, 3, 4, 0, 2]);
        assert_eq!(ids(9), [1, 3, 4, 0, 2]);
        assert_eq!(likeliest(&row, 3.0, 1), [(TokenId(1), -1.0)]);
    }
}
