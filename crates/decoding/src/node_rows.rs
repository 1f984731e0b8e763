//! One value per row of a scored token tree.

use crate::{TokenId, TokenTree};

/// One value for the root of a token tree and one for each of its nodes, such as the distribution of the next
/// token or a token drawn from it: `[1 + nodes]`.
///
/// Rows of logits are computed and sent in this order: row 0 is the root, row `n + 1` is node `n`. No other
/// code needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRows<T> {
    /// Never empty: row 0 is the root.
    rows: Vec<T>,
}

impl<T> NodeRows<T> {
    /// Combines the value of the root with those of the nodes, in node order.
    pub fn new(root: T, nodes: impl IntoIterator<Item = T>) -> Self {
        Self { rows: std::iter::once(root).chain(nodes).collect() }
    }

    /// Takes values in row order, the root first. Returns `None` unless there is exactly one value for the
    /// root and one for each node of `tree`.
    pub fn from_rows(tree: &TokenTree, rows: Vec<T>) -> Option<Self> {
        (rows.len() == tree.len() + 1).then_some(Self { rows })
    }

    /// The value of the root.
    pub fn root(&self) -> &T {
        &self.rows[0]
    }

    /// The value of `node`; `None` is the root.
    ///
    /// # Panics
    /// If the tree has no such node.
    pub fn at(&self, node: Option<usize>) -> &T {
        &self.rows[node.map_or(0, |n| n + 1)]
    }

    /// A mutable reference to the value of `node`; `None` is the root.
    ///
    /// # Panics
    /// If the tree has no such node.
    pub fn at_mut(&mut self, node: Option<usize>) -> &mut T {
        &mut self.rows[node.map_or(0, |n| n + 1)]
    }

    /// The value of the parent of `node`. The distribution that predicts the token of `node` is the one at
    /// its parent.
    ///
    /// # Panics
    /// If the values belong to another tree.
    pub fn at_parent(&self, tree: &TokenTree, node: usize) -> &T {
        self.at(tree.parents()[node])
    }

    /// All values with their nodes, the root (`None`) first.
    pub fn iter(&self) -> impl Iterator<Item = (Option<usize>, &T)> {
        self.rows.iter().enumerate().map(|(row, value)| (row.checked_sub(1), value))
    }

    /// All values in row order, the root first.
    pub fn as_rows(&self) -> &[T] {
        &self.rows
    }

    /// All values in row order, the root first.
    pub fn into_rows(self) -> Vec<T> {
        self.rows
    }

    /// Applies `f` to the node and the value of every row.
    pub fn map<U>(&self, mut f: impl FnMut(Option<usize>, &T) -> U) -> NodeRows<U> {
        NodeRows { rows: self.iter().map(|(node, value)| f(node, value)).collect() }
    }
}

impl NodeRows<TokenId> {
    /// Where the tokens are draws: the child of `node` that carries the token drawn at `node`, if there is
    /// one. `None` as a node is the root.
    pub(crate) fn next(&self, tree: &TokenTree, node: Option<usize>) -> Option<usize> {
        tree.child(node, *self.at(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TreeLimits;

    /// ```text
    ///      root
    ///     /    \
    ///  7 (0)  9 (1)
    ///    |
    ///  4 (2)
    /// ```
    fn tree() -> TokenTree {
        let tokens = [7, 9, 4].map(TokenId).to_vec();
        TokenTree::new(tokens, vec![None, None, Some(0)], TreeLimits::default()).unwrap()
    }

    #[test]
    fn row_0_is_the_root_and_row_n_plus_1_is_node_n() {
        let rows = NodeRows::from_rows(&tree(), vec!['r', 'a', 'b', 'c']).unwrap();
        assert_eq!((*rows.root(), *rows.at(None)), ('r', 'r'));
        assert_eq!([0, 1, 2].map(|n| *rows.at(Some(n))), ['a', 'b', 'c']);
        assert_eq!([0, 1, 2].map(|n| *rows.at_parent(&tree(), n)), ['r', 'r', 'a']);
        assert_eq!(rows, NodeRows::new('r', "abc".chars()));
        assert_eq!(rows.map(|node, c| (node, *c)).as_rows()[3], (Some(2), 'c'));
    }

    #[test]
    fn rows_of_another_tree_are_rejected() {
        assert_eq!(NodeRows::from_rows(&tree(), vec!['r', 'a', 'b']), None);
        assert_eq!(NodeRows::<char>::from_rows(&TokenTree::default(), Vec::new()), None);
    }
}
