//! The input of a linear layer, in the order in which its tiles read it.

use std::borrow::Cow;

use crate::cpu::level::Level;
use crate::cpu::rows::Rows;
use crate::cpu::thread_pool::parallel;

/// Values from which a second thread is worthwhile for copying them.
const PARALLEL_COPY: usize = 4_000;

/// Inputs of a row that [`PackedRows`] stores side by side.
pub(super) const STEP: usize = 4;

/// The rows of `x` in blocks as high as a tile, and within a block by groups of [`STEP`] inputs, so that a
/// tile reads one stream. Row by row it would read a dozen streams. Their distance is often a power of two,
/// so they would evict each other from the L1 cache.
pub(super) struct PackedRows<'a> {
    pub(super) values: Cow<'a, [f32]>,
    /// The first row and the number of rows of each block.
    pub(super) blocks: Vec<(usize, usize)>,
    pub(super) rows: usize,
    /// Values per row: the inputs, padded with zeros to whole groups.
    pub(super) width: usize,
}

impl<'a> PackedRows<'a> {
    pub(super) fn new(x: &'a [f32], inputs: usize, level: Level) -> Self {
        let rows = x.len() / inputs.max(1);
        let width = inputs.next_multiple_of(STEP);
        // Even blocks: 17 rows are 8 + 9, not 12 + 5.
        let count = rows.div_ceil(level.tile_rows());
        let start = |block: usize| rows * block / count;
        let blocks: Vec<_> = (0..count).map(|b| (start(b), start(b + 1) - start(b))).collect();
        if rows == 1 && width == inputs {
            return Self { values: x.into(), blocks, rows, width };
        }
        let mut values = vec![0f32; rows * width];
        let packed = Rows(values.as_mut_ptr());
        parallel(count, rows * width > PARALLEL_COPY, |range| {
            for &(first, size) in &blocks[range] {
                // SAFETY: blocks are disjoint, and each has its rows times the width.
                let packed =
                    unsafe { std::slice::from_raw_parts_mut(packed.start(first * width), size * width) };
                pack_block(&x[first * inputs..(first + size) * inputs], inputs, packed);
            }
        });
        Self { values: values.into(), blocks, rows, width }
    }
}

/// Packs the rows of a block by groups of [`STEP`] inputs. The rest of the last group stays as it is: zero.
fn pack_block(block: &[f32], inputs: usize, packed: &mut [f32]) {
    let mut packed = packed.chunks_exact_mut(STEP);
    for k in (0..inputs).step_by(STEP) {
        for (row, group) in block.chunks_exact(inputs).zip(&mut packed) {
            let values = &row[k..inputs.min(k + STEP)];
            group[..values.len()].copy_from_slice(values);
        }
    }
}
