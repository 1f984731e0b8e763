//! The attention mask in the form that the attention kernel reads.

use tandem_decoding::AncestorMask;

/// An attention mask as the cache rows that each row of a pass attends to.
pub(crate) struct SparseMask {
    rows: Vec<MaskRow>,
}

/// The cache rows that one row attends to, in ascending order.
pub(super) struct MaskRow {
    /// It attends to the first cache rows without a gap.
    contiguous: usize,
    /// The cache rows after a gap.
    rest: Vec<usize>,
}

impl SparseMask {
    /// `prefix` rows that all attend to, then the columns of `ancestors`.
    pub(crate) fn new(prefix: usize, ancestors: &AncestorMask) -> Self {
        let row = |row| {
            let mut columns =
                (0..ancestors.columns()).filter(|&column| ancestors.sees(row, column)).peekable();
            let mut contiguous = prefix;
            while columns.next_if_eq(&(contiguous - prefix)).is_some() {
                contiguous += 1;
            }
            MaskRow { contiguous, rest: columns.map(|column| prefix + column).collect() }
        };
        Self { rows: (0..ancestors.rows()).map(row).collect() }
    }

    /// Rows of the pass.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &MaskRow {
        &self.rows[row]
    }

    /// The number of (row, cache row) pairs.
    pub(super) fn pairs(&self) -> usize {
        self.rows.iter().map(MaskRow::len).sum()
    }

    /// The cache rows of the row that attends to most.
    pub(super) fn longest(&self) -> usize {
        self.rows.iter().map(MaskRow::len).max().unwrap_or(0)
    }

    /// The number of cache rows that it refers to.
    pub(super) fn cache_rows(&self) -> usize {
        self.rows.iter().map(MaskRow::end).max().unwrap_or(0)
    }
}

impl MaskRow {
    /// The cache rows from the first on that it attends to without a gap.
    pub(super) fn contiguous(&self) -> usize {
        self.contiguous
    }

    /// The end of the cache rows that it attends to.
    pub(super) fn end(&self) -> usize {
        self.rest.last().map_or(self.contiguous, |&last| last + 1)
    }

    /// The number of cache rows that it attends to.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.contiguous + self.rest.len()
    }

    /// The `i`-th of them.
    #[inline(always)]
    pub(super) fn at(&self, i: usize) -> usize {
        if i < self.contiguous { i } else { self.rest[i - self.contiguous] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_at_the_first_gap() {
        let visible = [vec![0], vec![0, 1], vec![0, 2], vec![1, 3]];
        let mask = SparseMask::new(10, &AncestorMask::from_visible(4, &visible));
        let rows = |row: usize| {
            let row = mask.row(row);
            (row.contiguous(), (0..row.len()).map(|i| row.at(i)).skip(10).collect::<Vec<_>>(), row.end())
        };
        assert_eq!(rows(0), (11, vec![10], 11));
        assert_eq!(rows(1), (12, vec![10, 11], 12));
        assert_eq!(rows(2), (11, vec![10, 12], 13));
        assert_eq!(rows(3), (10, vec![11, 13], 14));
        assert_eq!((mask.rows(), mask.cache_rows(), mask.longest(), mask.pairs()), (4, 14, 12, 11 + 3 * 12));
    }
}
