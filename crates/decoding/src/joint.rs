//! Joint log-probabilities of the nodes of a tree.

use thiserror::Error;

use crate::TokenTree;

/// The joint log-probability of every node of a tree: the sum of the log-probabilities (natural log) of the
/// tokens on the path from the root to the node. `[nodes]`; `P` when the target computed them, `Q` when the
/// draft did.
///
/// A value is never NaN and, up to a rounding tolerance of 1e-5, never positive and never above the value of
/// the parent. A node with an impossible (−∞) ancestor is therefore impossible too, also when the values came
/// from another process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JointLogProbs(Vec<f64>);

/// Why values are not the joint log-probabilities of a tree.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidJoint {
    #[error("{given} joint log-probabilities for {nodes} nodes: give one per node")]
    LengthMismatch { given: usize, nodes: usize },
    #[error("the joint log-probability of node {node} is {value}: it must be at most 0 (-inf is allowed)")]
    NotALogProb { node: usize, value: f64 },
    #[error(
        "the joint log-probability of node {node} is {value}, above its parent's {parent}: \
         it must be the sum along the path"
    )]
    AboveParent { node: usize, value: f64, parent: f64 },
}

impl JointLogProbs {
    /// The tolerance of the checks: rounding of an f32 log-softmax may leave a value slightly above 0 or
    /// above the value of its parent.
    const SLACK: f64 = 1e-5;

    /// Checks joint log-probabilities: `values[i]` is that of node `i` of `tree`, natural log.
    ///
    /// # Errors
    /// If there is not one value per node, or a value breaks one of the rules of [`JointLogProbs`].
    pub fn new(tree: &TokenTree, values: Vec<f64>) -> Result<Self, InvalidJoint> {
        if values.len() != tree.len() {
            return Err(InvalidJoint::LengthMismatch { given: values.len(), nodes: tree.len() });
        }
        for (node, &value) in values.iter().enumerate() {
            if value.is_nan() || value > Self::SLACK {
                return Err(InvalidJoint::NotALogProb { node, value });
            }
            let parent = tree.parents()[node].map_or(0.0, |p| values[p]);
            // Compared without subtracting: -inf below -inf is valid, but their difference is NaN.
            if value > parent + Self::SLACK {
                return Err(InvalidJoint::AboveParent { node, value, parent });
            }
        }
        Ok(Self(values))
    }

    /// Sums log-probabilities along the paths: `steps[i]` is the log-probability (natural log) of the token
    /// of node `i` given the path to its parent.
    ///
    /// # Errors
    /// As for [`Self::new`].
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

    /// Takes sums of log-probabilities of [`crate::Distribution`]s along the paths, which are valid by
    /// construction.
    pub(crate) fn from_sums(values: Vec<f64>) -> Self {
        Self(values)
    }

    /// The joint log-probability of `node`, natural log.
    pub fn get(&self, node: usize) -> f64 {
        self.0[node]
    }

    /// `[nodes]`: the joint log-probabilities in node order, natural log.
    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenId, TreeLimits};

    #[test]
    fn invalid_joint_log_probabilities_are_rejected() {
        let tree =
            TokenTree::new(vec![TokenId(1), TokenId(2)], vec![None, Some(0)], TreeLimits::default()).unwrap();
        let impossible = f64::NEG_INFINITY;
        assert!(JointLogProbs::new(&tree, vec![-1.0]).is_err());
        assert!(JointLogProbs::new(&tree, vec![f64::NAN, -1.0]).is_err());
        assert!(JointLogProbs::new(&tree, vec![0.1, -1.0]).is_err());
        assert!(JointLogProbs::new(&tree, vec![-1.0, -0.5]).is_err());
        assert!(JointLogProbs::new(&tree, vec![impossible, -0.5]).is_err());
        assert!(JointLogProbs::new(&tree, vec![impossible, impossible]).is_ok());
        assert_eq!(JointLogProbs::from_steps(&tree, &[-1.0, -0.5]).unwrap().as_slice(), [-1.0, -1.5]);
        assert_eq!(JointLogProbs::from_steps(&tree, &[impossible, -0.5]).unwrap().get(1), impossible);
    }
}
