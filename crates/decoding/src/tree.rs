//! The token tree that a draft proposes under the root, the last committed token.

use std::collections::HashSet;

use thiserror::Error;

use crate::TokenId;

/// A tree of tokens proposed under the root, the last committed token, which is not a node itself.
///
/// Nodes are numbered from 0 in topological order, a parent before its children. Siblings carry different
/// tokens: equal (parent, token) pairs are one node. An empty tree is valid; it means that nothing was
/// drafted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenTree {
    /// `[nodes]`
    tokens: Vec<TokenId>,
    /// `[nodes]`: `None` is the root.
    parents: Vec<Option<usize>>,
    /// `[nodes]`: the distance from the root, 1 for its children.
    depths: Vec<usize>,
}

/// The maximum size of a tree. The default is 1024 nodes and depth 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// The maximum number of nodes, not counting the root.
    pub max_nodes: usize,
    /// The maximum number of nodes on a path, not counting the root.
    pub max_depth: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { max_nodes: 1024, max_depth: 32 }
    }
}

/// Why a list of nodes is not a token tree.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidTree {
    #[error("the tree has {tokens} tokens but {parents} parents: give one parent per token")]
    LengthMismatch { tokens: usize, parents: usize },
    #[error("the tree has {nodes} nodes, but the limit is {limit}: draft fewer or shorter beams")]
    TooManyNodes { nodes: usize, limit: usize },
    #[error("node {node} is at depth {depth}, but the limit is {limit}: draft shorter beams")]
    TooDeep { node: usize, depth: usize, limit: usize },
    #[error("node {node} has parent {parent}: a parent must come before its children")]
    ParentNotBefore { node: usize, parent: usize },
    #[error(
        "node {node} carries token {token} like one of its siblings: \
         merge equal (parent, token) pairs into one node"
    )]
    EqualSiblings { node: usize, token: TokenId },
}

impl TokenTree {
    /// Checks a tree of `tokens` and `parents`, both `[nodes]`. The parent of a child of the root is `None`.
    ///
    /// # Errors
    /// If the lengths differ, a parent does not come before its child, siblings carry the same token, or the
    /// tree exceeds `limits`.
    pub fn new(
        tokens: Vec<TokenId>,
        parents: Vec<Option<usize>>,
        limits: TreeLimits,
    ) -> Result<Self, InvalidTree> {
        if tokens.len() != parents.len() {
            return Err(InvalidTree::LengthMismatch { tokens: tokens.len(), parents: parents.len() });
        }
        if tokens.len() > limits.max_nodes {
            return Err(InvalidTree::TooManyNodes { nodes: tokens.len(), limit: limits.max_nodes });
        }
        let mut depths: Vec<usize> = Vec::with_capacity(tokens.len());
        let mut seen = HashSet::with_capacity(tokens.len());
        for (node, (&token, &parent)) in tokens.iter().zip(&parents).enumerate() {
            let depth = match parent {
                None => 1,
                Some(p) => 1 + depths.get(p).ok_or(InvalidTree::ParentNotBefore { node, parent: p })?,
            };
            if depth > limits.max_depth {
                return Err(InvalidTree::TooDeep { node, depth, limit: limits.max_depth });
            }
            if !seen.insert((parent, token)) {
                return Err(InvalidTree::EqualSiblings { node, token });
            }
            depths.push(depth);
        }
        Ok(Self { tokens, parents, depths })
    }

    /// Adds `token` under `parent` (`None`: the root), unless there is such a node already. Returns the node,
    /// and whether it is new.
    ///
    /// # Panics
    /// If `parent` is not a node of this tree.
    pub(crate) fn insert(&mut self, parent: Option<usize>, token: TokenId) -> (usize, bool) {
        if let Some(node) = self.child(parent, token) {
            return (node, false);
        }
        self.tokens.push(token);
        self.parents.push(parent);
        self.depths.push(parent.map_or(0, |p| self.depths[p]) + 1);
        (self.tokens.len() - 1, true)
    }

    /// The number of nodes, not counting the root.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the tree has no nodes: nothing was drafted.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// `[nodes]`: the token of every node.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// `[nodes]`: the parent of every node; `None` is the root.
    pub fn parents(&self) -> &[Option<usize>] {
        &self.parents
    }

    /// The depth of `node`: its distance from the root, at least 1.
    pub fn depth(&self, node: usize) -> usize {
        self.depths[node]
    }

    /// The depth of the deepest node; 0 for an empty tree.
    pub fn max_depth(&self) -> usize {
        self.depths.iter().copied().max().unwrap_or(0)
    }

    /// The path to `node`: its ancestors from a child of the root downwards, then `node` itself.
    pub fn path(&self, node: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(node), |&n| self.parents[n]).collect();
        path.reverse();
        path
    }

    /// The child of `parent` (`None`: the root) that carries `token`, if there is one.
    pub fn child(&self, parent: Option<usize>, token: TokenId) -> Option<usize> {
        (0..self.len()).find(|&n| self.parents[n] == parent && self.tokens[n] == token)
    }

    /// The nodes at `depth`, in node order.
    pub fn level(&self, depth: usize) -> impl Iterator<Item = usize> {
        self.depths.iter().enumerate().filter(move |&(_, &d)| d == depth).map(|(node, _)| node)
    }

    /// A tree that contains only the path to `leaf`: a chain.
    pub fn chain_to(&self, leaf: usize) -> Self {
        let mut chain = Self::default();
        for node in self.path(leaf) {
            chain.insert(chain.len().checked_sub(1), self.tokens[node]);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(tokens: &[u32], parents: &[Option<usize>]) -> Result<TokenTree, InvalidTree> {
        let limits = TreeLimits { max_nodes: 4, max_depth: 2 };
        TokenTree::new(tokens.iter().copied().map(TokenId).collect(), parents.to_vec(), limits)
    }

    #[test]
    fn invalid_trees_are_rejected() {
        assert_eq!(tree(&[1], &[]), Err(InvalidTree::LengthMismatch { tokens: 1, parents: 0 }));
        assert_eq!(tree(&[1], &[Some(0)]), Err(InvalidTree::ParentNotBefore { node: 0, parent: 0 }));
        assert_eq!(tree(&[1, 2], &[Some(1), None]), Err(InvalidTree::ParentNotBefore { node: 0, parent: 1 }));
        assert_eq!(
            tree(&[1, 1], &[None, None]),
            Err(InvalidTree::EqualSiblings { node: 1, token: TokenId(1) })
        );
        assert_eq!(tree(&[1; 5], &[None; 5]), Err(InvalidTree::TooManyNodes { nodes: 5, limit: 4 }));
        assert_eq!(
            tree(&[1, 2, 3], &[None, Some(0), Some(1)]),
            Err(InvalidTree::TooDeep { node: 2, depth: 3, limit: 2 })
        );
    }

    #[test]
    fn equal_tokens_under_different_parents_are_different_nodes() {
        let t = tree(&[1, 2, 1, 1], &[None, None, Some(0), Some(1)]).unwrap();
        assert_eq!(t.path(3), [1, 3]);
        assert_eq!(t.child(Some(0), TokenId(1)), Some(2));
        assert_eq!(t.child(None, TokenId(3)), None);
        assert_eq!(t.level(2).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(t.chain_to(3), tree(&[2, 1], &[None, Some(0)]).unwrap());
    }

    #[test]
    fn the_empty_tree_is_valid() {
        let t = tree(&[], &[]).unwrap();
        assert_eq!((t.len(), t.max_depth()), (0, 0));
    }
}

#[cfg(test)]
pub(crate) mod tests_support {
    use proptest::prelude::*;

    use super::*;

    /// Trees of up to 24 nodes over a vocabulary of 4, so that equal tokens and deep paths are common.
    pub(crate) fn any_tree() -> impl Strategy<Value = TokenTree> {
        proptest::collection::vec((any::<prop::sample::Index>(), 0u32..4), 0..24).prop_map(|nodes| {
            let mut tree = TokenTree::default();
            for (at, token) in nodes {
                // The index `tree.len()` stands for the root.
                let parent = Some(at.index(tree.len() + 1)).filter(|&p| p < tree.len());
                tree.insert(parent, TokenId(token));
            }
            tree
        })
    }
}
