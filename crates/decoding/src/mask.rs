//! The attention mask of a forward pass over a token tree.

use crate::TokenTree;

/// The ancestor mask of a forward pass, `[rows, columns]`: whether a row may attend to a column.
///
/// Rows are the tokens of the pass. Columns are the rows of the KV cache after the committed prefix, which is
/// not part of the mask because every row attends to it. The last `rows` columns are the tokens of this pass.
/// The columns before them come from earlier passes over the same tree: a draft grows its tree depth by
/// depth. A row attends to its ancestors and to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AncestorMask {
    rows: usize,
    columns: usize,
    /// `[rows, columns]`, row by row.
    visible: Vec<bool>,
}

impl AncestorMask {
    /// The causal mask, for prompts and other chains: row `i` attends to the columns `0..=i`.
    pub fn causal(rows: usize) -> Self {
        let mut visible = vec![false; rows * rows];
        for row in 0..rows {
            visible[row * rows..=row * rows + row].fill(true);
        }
        Self { rows, columns: rows, visible }
    }

    /// The mask of a target's pass. Its rows are `chain` committed tokens that are not in the cache yet, the
    /// last of which is the root, followed by all nodes of `tree`. A committed token attends to those before
    /// it and to itself, a node to the chain, its ancestors and itself.
    pub fn chain_then_tree(chain: usize, tree: &TokenTree) -> Self {
        let size = chain + tree.len();
        let mut mask = Self { rows: size, columns: size, visible: vec![false; size * size] };
        for row in 0..chain {
            mask.visible[row * size..=row * size + row].fill(true);
        }
        for node in 0..tree.len() {
            let row = chain + node;
            // A parent comes before its children, so its row is complete.
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

    /// Builds a mask from the columns that each row attends to, its own included. Columns from `columns` on
    /// are ignored.
    pub fn from_visible(columns: usize, rows: &[Vec<usize>]) -> Self {
        let mut visible = vec![false; rows.len() * columns];
        for (row, seen) in rows.iter().enumerate() {
            for &column in seen.iter().filter(|&&c| c < columns) {
                visible[row * columns + column] = true;
            }
        }
        Self { rows: rows.len(), columns, visible }
    }

    /// The number of rows: the tokens of the pass.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns: cache rows after the committed prefix, including those of this pass.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether `row` may attend to `column`.
    pub fn sees(&self, row: usize, column: usize) -> bool {
        self.visible[row * self.columns + column]
    }

    /// The whole mask, `[rows, columns]`, row by row.
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
        fn nodes_attend_to_the_chain_their_ancestors_and_themselves(tree in any_tree(), chain in 1usize..4) {
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
    fn the_mask_of_a_chain_without_a_tree_is_causal() {
        assert_eq!(AncestorMask::chain_then_tree(5, &TokenTree::default()), AncestorMask::causal(5));
    }
}
