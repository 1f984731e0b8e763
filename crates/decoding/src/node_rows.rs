//! One value per row of a scored token tree.

use crate::{TokenId, TokenTree};

/// A value at the root of a token tree and one at each of its nodes, such as the token drawn there or the distribution
/// behind it. This type alone knows that row 0 is the root and row `n + 1` is node `n`, the order in which rows of logits are
/// computed and travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRows<T> {
    /// Never empty: the root comes first.
    rows: Vec<T>,
}

impl<T> NodeRows<T> {
    /// The values at the root and at the nodes, in node order.
    pub fn new(root: T, nodes: impl IntoIterator<Item = T>) -> Self {
        Self { rows: std::iter::once(root).chain(nodes).collect() }
    }

    /// Values in row order, the root first; `None` unless there is one for the root and one for each node of `tree`.
    pub fn from_rows(tree: &TokenTree, rows: Vec<T>) -> Option<Self> {
        (rows.len() == tree.len() + 1).then_some(Self { rows })
    }

    /// The value at the root.
    pub fn root(&self) -> &T {
        &self.rows[0]
    }

    /// The value at `node`; `None` is the root.
    ///
    /// # Panics
    /// If the tree has no such node.
    pub fn at(&self, node: Option<usize>) -> &T {
        &self.rows[node.map_or(0, |n| n + 1)]
    }

    /// The value at `node`, to be changed; `None` is the root.
    ///
    /// # Panics
    /// If the tree has no such node.
    pub fn at_mut(&mut self, node: Option<usize>) -> &mut T {
        &mut self.rows[node.map_or(0, |n| n + 1)]
    }

    /// The value at the parent of `node`: what is predicted there judges `node`.
    ///
    /// # Panics
    /// If the values belong to another tree.
    pub fn at_parent(&self, tree: &TokenTree, node: usize) -> &T {
        self.at(tree.parents()[node])
    }

    /// All values with their positions, the root first.
    pub fn iter(&self) -> impl Iterator<Item = (Option<usize>, &T)> {
        self.rows.iter().enumerate().map(|(row, value)| (row.checked_sub(1), value))
    }

    /// All values in row order, the root first.
    pub fn as_rows(&self) -> &[T] {
        &self.rows
    }

    /// Makes another value of each, knowing its position.
    pub fn map<U>(&self, mut f: impl FnMut(Option<usize>, &T) -> U) -> NodeRows<U> {
        NodeRows { rows: self.iter().map(|(node, value)| f(node, value)).collect() }
    }
}

impl NodeRows<TokenId> {
    /// Whether a child of `node` (`None`: the root) continues with the token at `node`, and which one.
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
    fn the_root_comes_first_and_every_node_has_its_row() {
        let rows = NodeRows::from_rows(&tree(), vec!['r', 'a', 'b', 'c']).unwrap();
        assert_eq!((*rows.root(), *rows.at(None)), ('r', 'r'));
        assert_eq!([0, 1, 2].map(|n| *rows.at(Some(n))), ['a', 'b', 'c']);
        assert_eq!([0, 1, 2].map(|n| *rows.at_parent(&tree(), n)), ['r', 'r', 'a']);
        assert_eq!(rows, NodeRows::new('r', "abc".chars()));
        assert_eq!(rows.map(|node, c| (node, *c)).as_rows()[3], (Some(2), 'c'));
    }

    #[test]
    fn rows_of_another_tree_are_refused() {
        assert_eq!(NodeRows::from_rows(&tree(), vec!['r', 'a', 'b']), None);
        assert_eq!(NodeRows::<char>::from_rows(&TokenTree::default(), Vec::new()), None);
    }
}
