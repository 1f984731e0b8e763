//! The work of a target step: scoring a token tree.

use tandem_decoding::{
    Distribution, JointLogProbs, NodeRows, Purpose, RowQuery, RowSummary, TokenTree, Unwarped,
};
use tandem_engine::ModelSpec;
use tandem_generation::{ScoreRequest, Scores, TokenLogProbs};
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
        state.check_tokens(&self.tree, spec)?;
        let distributions = if self.request.distributions { 1 + self.tree.len() } else { 0 };
        state.check_distributions("distributions", distributions)
    }

    async fn run(self, state: &mut SessionState) -> Result<Scores, WorkerError> {
        let nodes: Vec<usize> = (0..self.tree.len()).collect();
        let queries = self.queries(state).into_rows();
        let rows = state.cache.compute(&self.tree, &nodes, queries).await;
        self.scores(rows.map_err(|error| WorkerError::engine(error, "tree"))?, state)
    }
}

impl ScoreTask {
    /// What is needed of the root and of every node: a token, the log-probabilities of the children, and what was requested.
    fn queries(&self, state: &SessionState) -> NodeRows<RowQuery> {
        let tree = &self.tree;
        let committed = state.cache.committed();
        let at_depth = |depth| RowQuery {
            uniform: Some(state.draws.uniform(committed + depth, Purpose::TargetToken)),
            distribution: self.request.distributions,
            unwarped: self.request.log_probs.then_some(self.request.top_log_probs),
            ..state.query()
        };
        let mut queries = NodeRows::new(at_depth(0), (0..tree.len()).map(|node| at_depth(tree.depth(node))));
        for (&token, &parent) in tree.tokens().iter().zip(tree.parents()) {
            queries.at_mut(parent).tokens.push(token);
        }
        queries
    }

    /// Takes apart what was computed of each row.
    fn scores(&self, rows: Vec<RowSummary>, state: &SessionState) -> Result<Scores, WorkerError> {
        let tree = &self.tree;
        let mut drawn = Vec::with_capacity(rows.len());
        let mut log_probs = Vec::with_capacity(rows.len());
        let mut distributions = Vec::new();
        let mut unwarped = Vec::new();
        for row in rows {
            drawn.push(row.drawn.ok_or_else(|| WorkerError::Internal("a row has no drawn token".into()))?);
            log_probs.push(row.log_probs);
            distributions.extend(row.distribution);
            unwarped.extend(row.unwarped);
        }
        let steps = of_nodes(tree, &state.rows(tree, log_probs)?);
        let joint = JointLogProbs::from_steps(tree, &steps);
        let distributions = match self.request.distributions {
            true => Some(state.rows(tree, distributions)?),
            false => None,
        };
        let log_probs = match self.request.log_probs {
            true => Some(self.token_log_probs(state.rows(tree, unwarped)?, distributions.as_ref())),
            false => None,
        };
        Ok(Scores {
            joint: joint.map_err(|e| WorkerError::Internal(e.to_string()))?,
            drawn: state.rows(tree, drawn)?,
            distributions,
            log_probs,
        })
    }

    fn token_log_probs(
        &self,
        rows: NodeRows<Unwarped>,
        distributions: Option<&NodeRows<Distribution>>,
    ) -> TokenLogProbs {
        TokenLogProbs {
            nodes: of_nodes(&self.tree, &rows.map(|_, row| row.log_probs.clone())),
            drawn: rows.map(|_, row| row.drawn.unwrap_or(f64::NEG_INFINITY)),
            distribution_offsets: distributions.map(|_| rows.map(|_, row| row.offset)),
            top: (self.request.top_log_probs > 0).then(|| rows.map(|_, row| row.top.clone())),
        }
    }
}

/// `[nodes]`: the value of each node, from the values of its parent's children in order.
fn of_nodes(tree: &TokenTree, of_children: &NodeRows<Vec<f64>>) -> Vec<f64> {
    let mut taken = of_children.map(|_, _| 0);
    let next = |&parent: &Option<usize>| {
        let index = taken.at_mut(parent);
        *index += 1;
        of_children.at(parent).get(*index - 1).copied().unwrap_or(f64::NEG_INFINITY)
    };
    tree.parents().iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use tandem_decoding::{TokenId, TreeLimits};

    use super::*;

    #[test]
    fn values_of_children_are_those_of_the_nodes() {
        //        root
        //       /    \
        //    7 (0)  9 (2)
        //    /  \
        // 4 (1) 5 (3)
        let tokens = [7, 4, 9, 5].map(TokenId).to_vec();
        let tree = TokenTree::new(tokens, vec![None, Some(0), None, Some(0)], TreeLimits::default()).unwrap();
        let of_children = NodeRows::new(vec![0.5, 2.5], [vec![1.5, 3.5], vec![], vec![], vec![]]);
        assert_eq!(of_nodes(&tree, &of_children), [0.5, 1.5, 2.5, 3.5]);
    }
}
