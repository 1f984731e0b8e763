//! Which rows a row of a forward pass may attend to, beyond the committed prefix that every row sees.

use crate::TokenTree;

/// Visibility over the newest rows of a KV cache: `sees(row, column)`.
///
/// Columns are the cache rows behind the committed prefix; the last `rows` of them are the rows of this pass, the ones
/// before were written by earlier passes over the same tree (a draft grows its tree depth by depth). A row sees
/// its ancestors and itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AncestorMask {
    rows: usize,
    columns: usize,
    visible: Vec<bool>,
}

impl AncestorMask {
    /// Plain causal order: row `i` sees columns `0..=i`. For prompts and other chains.
    pub fn causal(rows: usize) -> Self {
        let visible = (0..rows * rows).map(|i| i % rows <= i / rows).collect();
        Self { rows, columns: rows, visible }
    }

    /// The pass of a target: `chain` committed tokens that are not in the cache yet (the last is the root), each seeing
    /// those before it, then all nodes of `tree`, each seeing the chain, its ancestors and itself.
    pub fn chain_then_tree(chain: usize, tree: &TokenTree) -> Self {
        let size = chain + tree.len();
        let mut mask = Self { rows: size, columns: size, visible: vec![false; size * size] };
        for row in 0..chain {
            mask.visible[row * size..=row * size + row].fill(true);
        }
        for node in 0..tree.len() {
            let row = chain + node;
            // Parents come first, so the parent's row is complete.
            match tree.parents()[node] {
                Some(parent) => {
                    let from = (chain + parent) * size;
                    mask.visible.copy_within(from..from + size, row * size);
                }
                None => mask.visible[row * size..row * size + chain].fill(true),
            }
            mask.visible[row * size + row] = true;
        }
        mask
    }

    /// Rows given one by one: the columns that each of them sees (its own included), out of `columns`.
    /// Columns out of range are ignored.
    pub fn from_visible(columns: usize, rows: &[Vec<usize>]) -> Self {
        let mut visible = vec![false; rows.len() * columns];
        for (row, seen) in rows.iter().enumerate() {
            for &column in seen.iter().filter(|&&c| c < columns) {
                visible[row * columns + column] = true;
            }
        }
        Self { rows: rows.len(), columns, visible }
    }

    /// Rows of the pass.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Cache rows behind the prefix, those of this pass included.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether `row` may attend to `column`.
    pub fn sees(&self, row: usize, column: usize) -> bool {
        self.visible[row * self.columns + column]
    }

    /// All of it, row by row: `[rows, columns]`.
    pub fn as_slice(&self) -> &[bool] {
        &self.visible
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::tests_support::any_tree;

    proptest! {
        #[test]
        fn the_mask_is_the_ancestor_relation(tree in any_tree(), chain in 1usize..4) {
            let mask = AncestorMask::chain_then_tree(chain, &tree);
            prop_assert_eq!((mask.rows(), mask.columns()), (chain + tree.len(), chain + tree.len()));
            for node in 0..tree.len() {
                let path = tree.path(node);
                for column in 0..mask.columns() {
                    let expected = column < chain || path.contains(&(column - chain));
                    prop_assert_eq!(mask.sees(chain + node, column), expected);
                }
            }
            for row in 0..chain {
                for column in 0..mask.columns() {
                    prop_assert_eq!(mask.sees(row, column), column <= row);
                }
            }
        }
    }

    #[test]
    fn a_chain_without_a_tree_is_causal() {
        assert_eq!(AncestorMask::chain_then_tree(5, &TokenTree::default()), AncestorMask::causal(5));
    }
}
