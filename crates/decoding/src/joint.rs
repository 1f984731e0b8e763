//! Joint log-probabilities of the nodes of a tree.

use thiserror::Error;

use crate::TokenTree;

/// One joint log-probability per node of a tree (natural log): the sum over the path from the root to the node.
///
/// Never NaN, never positive, never above the parent's: so a node under an impossible (−∞) ancestor is impossible too,
/// whoever computed the numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JointLogProbs(Vec<f64>);

/// Why numbers are no joint log-probabilities of a tree.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidJoint {
    #[error("{given} joint log-probabilities for {nodes} nodes: give one per node")]
    LengthMismatch { given: usize, nodes: usize },
    #[error("the joint log-probability of node {node} is {value}: it must be at most 0, -inf allowed")]
    NotALogProb { node: usize, value: f64 },
    #[error(
        "the joint log-probability of node {node}, {value}, is above its parent's, {parent}: it must be summed along the path"
    )]
    AboveParent { node: usize, value: f64, parent: f64 },
}

impl JointLogProbs {
    /// Rounding of f32 log-softmax may leave a value a little above 0 or above its parent's.
    const SLACK: f64 = 1e-5;

    /// Checks `values[i]` for node `i` of `tree`.
    pub fn new(tree: &TokenTree, values: Vec<f64>) -> Result<Self, InvalidJoint> {
        if values.len() != tree.len() {
            return Err(InvalidJoint::LengthMismatch { given: values.len(), nodes: tree.len() });
        }
        for (node, &value) in values.iter().enumerate() {
            if value.is_nan() || value > Self::SLACK {
                return Err(InvalidJoint::NotALogProb { node, value });
            }
            let parent = tree.parents()[node].map_or(0.0, |p| values[p]);
            // -inf under -inf: the difference would be NaN, and the pair is fine.
            if value > parent + Self::SLACK {
                return Err(InvalidJoint::AboveParent { node, value, parent });
            }
        }
        Ok(Self(values))
    }

    /// Sums `steps[i]`, the log-probability of node `i` given the path to its parent, along the paths.
    pub fn from_steps(tree: &TokenTree, steps: &[f64]) -> Result<Self, InvalidJoint> {
        if steps.len() != tree.len() {
            return Err(InvalidJoint::LengthMismatch { given: steps.len(), nodes: tree.len() });
        }
        let mut joint: Vec<f64> = Vec::with_capacity(steps.len());
        for (node, step) in steps.iter().enumerate() {
            joint.push(tree.parents()[node].map_or(0.0, |p| joint[p]) + step);
        }
        Self::new(tree, joint)
    }

    /// Sums of log-probabilities of [`crate::Distribution`]s along the paths: valid by construction.
    pub(crate) fn from_sums(values: Vec<f64>) -> Self {
        Self(values)
    }

    /// The value of `node`.
    pub fn get(&self, node: usize) -> f64 {
        self.0[node]
    }

    /// The values in node order.
    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenId, TreeLimits};

    #[test]
    fn rejects_what_cannot_be_joint_log_probabilities() {
        let tree =
            TokenTree::new(vec![TokenId(1), TokenId(2)], vec![None, Some(0)], TreeLimits::default()).unwrap();
        let inf = f64::NEG_INFINITY;
        assert!(JointLogProbs::new(&tree, vec![-1.0]).is_err());
        assert!(JointLogProbs::new(&tree, vec![f64::NAN, -1.0]).is_err());
        assert!(JointLogProbs::new(&tree, vec![0.1, -1.0]).is_err());
        assert!(JointLogProbs::new(&tree, vec![-1.0, -0.5]).is_err());
        assert!(JointLogProbs::new(&tree, vec![inf, -0.5]).is_err());
        assert!(JointLogProbs::new(&tree, vec![inf, inf]).is_ok());
        assert_eq!(JointLogProbs::from_steps(&tree, &[-1.0, -0.5]).unwrap().as_slice(), [-1.0, -1.5]);
        assert_eq!(JointLogProbs::from_steps(&tree, &[inf, -0.5]).unwrap().get(1), inf);
    }
}
