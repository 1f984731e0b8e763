//! The generations that an evaluation consists of.

use tandem_eval::{CellSpec, Dataset, Item, run_order};

/// The generations to run: every item under every cell with every seed.
pub(super) struct Plan<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) cells: &'a [CellSpec],
    pub(super) seeds: u64,
}

impl Plan<'_> {
    /// All generations, item by item. For each item and seed the cells run in a new order, so that a change of
    /// the machine's speed affects all of them alike.
    pub(super) fn runs(&self) -> impl Iterator<Item = (&CellSpec, &Item, u64)> {
        let rounds = self.dataset.items.iter().flat_map(|item| (0..self.seeds).map(move |seed| (item, seed)));
        (0..).zip(rounds).flat_map(move |(round, (item, seed))| {
            run_order(self.cells.len(), round).into_iter().map(move |cell| (&self.cells[cell], item, seed))
        })
    }
}
