//! The attention mask in the form that the attention kernel reads.

use tandem_decoding::AncestorMask;

/// An attention mask as the cache rows that each row of a pass attends to, in ascending order.
pub(crate) struct SparseMask {
    /// Cache rows that every row attends to.
    prefix: usize,
    /// For each row, the further cache rows that it attends to, counted from the end of the prefix.
    tail: Vec<Vec<usize>>,
}

impl SparseMask {
    /// `prefix` rows that all attend to, then the columns of `ancestors`.
    pub(crate) fn new(prefix: usize, ancestors: &AncestorMask) -> Self {
        let columns = |row| (0..ancestors.columns()).filter(|&c| ancestors.sees(row, c)).collect();
        Self { prefix, tail: (0..ancestors.rows()).map(columns).collect() }
    }

    /// Rows of the pass.
    pub(super) fn rows(&self) -> usize {
        self.tail.len()
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize, dim: usize) -> MaskRow<'_> {
        MaskRow { prefix: self.prefix, tail: &self.tail[row], dim }
    }

    /// The number of (row, cache row) pairs.
    pub(super) fn pairs(&self) -> usize {
        self.tail.iter().map(|tail| self.prefix + tail.len()).sum()
    }

    /// The number of cache rows that it refers to.
    pub(super) fn cache_rows(&self) -> usize {
        // Each list is in ascending order, so its last entry is the largest.
        let last = self.tail.iter().filter_map(|tail| tail.last()).max();
        self.prefix + last.map_or(0, |last| last + 1)
    }
}

/// The cache rows that one row attends to.
pub(super) struct MaskRow<'a> {
    prefix: usize,
    tail: &'a [usize],
    pub(super) dim: usize,
}

impl MaskRow<'_> {
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.prefix + self.tail.len()
    }

    /// The offset of the `i`-th of them in the cache of a head.
    #[inline(always)]
    pub(super) fn at(&self, i: usize) -> usize {
        let row = if i < self.prefix { i } else { self.prefix + self.tail[i - self.prefix] };
        row * self.dim
    }
}
