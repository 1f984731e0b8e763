//! The work of a target step: scoring a token tree.

use tandem_decoding::{Distribution, JointLogProbs, NodeRows, Purpose, TokenId, TokenTree, log_normalizer};
use tandem_engine::{Logits, ModelSpec};
use tandem_generation::{ScoreRequest, Scores, TokenLogProbs, TopTokens};
use tandem_worker::{SessionState, StepTask, WorkerError};

/// Scores this tree under the last committed token.
pub(crate) struct ScoreTask {
    pub(crate) tree: TokenTree,
    pub(crate) request: ScoreRequest,
}

impl StepTask for ScoreTask {
    type Reply = Scores;

    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), WorkerError> {
        state.check_tree(self.tree.len(), self.tree.max_depth(), committed, spec)?;
        state.check_tokens(&self.tree, spec)
    }

    async fn run(self, state: &mut SessionState) -> Result<Scores, WorkerError> {
        let tree = &self.tree;
        let committed = state.cache.committed();
        let nodes: Vec<usize> = (0..tree.len()).collect();
        let logits = state.cache.grow(tree, &nodes).await;
        let logits = logits.map_err(|error| WorkerError::engine(error, "tree"))?;
        let p = state.rows(tree, state.warp(&logits)?)?;
        let drawn = p.map(|node, p| {
            let depth = node.map_or(0, |node| tree.depth(node));
            state.sampling.pick(p, state.draws.uniform(committed + depth, Purpose::TargetToken))
        });
        let steps: Vec<f64> =
            nodes.iter().map(|&node| p.at_parent(tree, node).log_prob(tree.tokens()[node])).collect();
        let joint = JointLogProbs::from_steps(tree, &steps);
        let joint = joint.map_err(|e| WorkerError::Internal(e.to_string()))?;
        let distributions = self.request.distributions.then_some(p);
        let log_probs = match self.request.log_probs {
            true => Some(token_log_probs(&self, &drawn, distributions.as_ref(), &logits, state)?),
            false => None,
        };
        Ok(Scores { joint, drawn, distributions, log_probs })
    }
}

/// A row of logits, of the allowed tokens, and its log-sum-exp.
struct Row<'a> {
    logits: &'a [f32],
    normalizer: f64,
}

impl Row<'_> {
    /// Under the unwarped softmax. A token outside the vocabulary that both models have is impossible.
    fn log_prob(&self, token: TokenId) -> f64 {
        let logit = self.logits.get(token.0 as usize);
        logit.map_or(f64::NEG_INFINITY, |&logit| f64::from(logit) - self.normalizer)
    }
}

fn token_log_probs(
    task: &ScoreTask,
    drawn: &NodeRows<TokenId>,
    distributions: Option<&NodeRows<Distribution>>,
    logits: &Logits,
    state: &SessionState,
) -> Result<TokenLogProbs, WorkerError> {
    let tree = &task.tree;
    let rows = logits.rows().map(|row| {
        let logits = state.allowed(row);
        Row { logits, normalizer: log_normalizer(logits) }
    });
    let rows = state.rows(tree, rows.collect())?;
    let offset = |node: Option<usize>, p: &Distribution| match p.iter().next() {
        Some((token, warped)) => state.sampling.unwarping_offset(rows.at(node).log_prob(token), warped),
        None => 0.0,
    };
    let nodes =
        (0..tree.len()).map(|node| rows.at_parent(tree, node).log_prob(tree.tokens()[node])).collect();
    Ok(TokenLogProbs {
        nodes,
        drawn: drawn.map(|node, &token| rows.at(node).log_prob(token)),
        distribution_offsets: distributions.map(|p| p.map(offset)),
        top: match task.request.top_log_probs {
            0 => None,
            n => Some(rows.map(|_, row| likeliest(row.logits, row.normalizer, n))),
        },
    })
}

/// The `n` likeliest tokens of a row of logits, best first; of equal ones, the lower id first.
fn likeliest(row: &[f32], normalizer: f64, n: usize) -> TopTokens {
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(n + 1);
    for (id, &logit) in row.iter().enumerate() {
        // Nearly every token of a vocabulary ends here.
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
