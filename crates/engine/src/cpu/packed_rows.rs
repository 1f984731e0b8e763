//! The rows that a linear layer multiplies, as its tiles read them.

use std::borrow::Cow;

use super::isa::Level;
use super::rows::Rows;
use super::team;

/// Values from which a second thread is worth its while for copying them.
const PARALLEL_COPY: usize = 16_000;

/// Inputs that a row of [`PackedRows`] has side by side.
pub(super) const STEP: usize = 4;

/// The rows of `x` in blocks as high as a tile, within a block by groups of [`STEP`] inputs: a tile then reads one
/// stream. Row by row they would be a dozen streams, whose distance is often a power of two, so that they evict one
/// another from the L1 cache.
pub(super) struct PackedRows<'a> {
    pub(super) values: Cow<'a, [f32]>,
    /// First row and rows of each block.
    pub(super) blocks: Vec<(usize, usize)>,
    pub(super) rows: usize,
    /// Values per row: the inputs, padded with zeros to whole groups.
    pub(super) width: usize,
}

impl<'a> PackedRows<'a> {
    pub(super) fn new(x: &'a [f32], inputs: usize, level: Level) -> Self {
        let (rows, width) = (x.len() / inputs.max(1), inputs.next_multiple_of(STEP));
        // Even blocks: 17 rows are 9 + 8, not 12 + 5.
        let count = rows.div_ceil(level.tile_rows());
        let bounds = |block: usize| rows * block / count;
        let blocks: Vec<_> = (0..count).map(|b| (bounds(b), bounds(b + 1) - bounds(b))).collect();
        if rows == 1 && width == inputs {
            return Self { values: x.into(), blocks, rows, width };
        }
        let mut values = vec![0f32; rows * width];
        let packed = Rows(values.as_mut_ptr());
        team::parallel(count, rows * width > PARALLEL_COPY, |range| {
            for &(first, size) in &blocks[range] {
                // SAFETY: every block has values of its own, its rows times the width.
                let packed =
                    unsafe { std::slice::from_raw_parts_mut(packed.start(first * width), size * width) };
                pack_block(&x[first * inputs..(first + size) * inputs], inputs, packed);
            }
        });
        Self { values: values.into(), blocks, rows, width }
    }
}

/// The rows of a block by groups of [`STEP`] inputs; `packed` is zero where the last group is not full.
fn pack_block(block: &[f32], inputs: usize, packed: &mut [f32]) {
    let mut packed = packed.chunks_exact_mut(STEP);
    for k in (0..inputs).step_by(STEP) {
        for (row, group) in block.chunks_exact(inputs).zip(&mut packed) {
            let values = &row[k..inputs.min(k + STEP)];
            group[..values.len()].copy_from_slice(values);
        }
    }
}
