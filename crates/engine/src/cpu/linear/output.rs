//! Where the products of a linear layer go.

/// Columns of a row-major output `[rows, width]` that several threads write, each its own columns.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// The first row of the first of these columns.
    start: *mut f32,
    width: usize,
}

// SAFETY: threads write disjoint columns.
unsafe impl Sync for Output {}
// SAFETY: as above.
unsafe impl Send for Output {}

impl Output {
    /// The columns of `y: [rows, width]` from `column` on.
    pub(super) fn new(y: *mut f32, width: usize, column: usize) -> Self {
        debug_assert!(column <= width);
        Self { start: y.wrapping_add(column), width }
    }

    /// The place of a value.
    ///
    /// # Safety
    /// The row and the column exist.
    #[inline(always)]
    pub(super) unsafe fn at(self, row: usize, column: usize) -> *mut f32 {
        // SAFETY: the contract of the caller.
        unsafe { self.start.add(row * self.width + column) }
    }

    /// Writes `values` to a row, from `column` on.
    ///
    /// # Safety
    /// The row and the columns exist; no other thread uses them.
    #[inline(always)]
    pub(super) unsafe fn write(self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: the contract of the caller.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.at(row, column), values.len()) }
    }
}
