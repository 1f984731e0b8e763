//! Products of quantised rows and quantised panels.

use std::ops::Range;

use super::activations::{GroupSums, QuantisedRows};
use super::chunk::{Chunk, STEPS};
use super::format::{BLOCK, CHUNK, PANEL, VECTOR, chunks};
use super::panels::QuantisedPanels;
use crate::blocks::Format;
use crate::cpu::int_isa::{IntIsa, for_each_int_isa};
use crate::cpu::isa::Isa;
use crate::cpu::linear::output::Output;

/// One multiplication.
pub(in crate::cpu::linear) struct Product<'a> {
    pub(in crate::cpu::linear) weight: &'a QuantisedPanels,
    pub(in crate::cpu::linear) x: &'a QuantisedRows,
    pub(in crate::cpu::linear) sums: &'a GroupSums,
    pub(in crate::cpu::linear) y: Output,
}

for_each_int_isa! {
    /// The sums of `x` that products with weights of `format` need.
    pub(in crate::cpu::linear) fn sums(x: &QuantisedRows, format: Format) -> GroupSums = sums_for
}

/// # Safety
/// None: it is marked as the kernels are, for the macro.
#[inline(always)]
unsafe fn sums_for<I: IntIsa>(x: &QuantisedRows, format: Format) -> GroupSums {
    x.sums(format, I::WIDE_ZERO)
}

/// What a thread works in.
#[derive(Default)]
pub(in crate::cpu::linear) struct Scratch {
    chunk: Chunk,
    /// `[row][PANEL]`
    sums: Vec<f32>,
}

for_each_int_isa! {
    /// All rows times the panels in `range`. No other thread may write these columns of the output.
    pub(in crate::cpu::linear) fn multiply(
        product: &Product<'_>,
        range: Range<usize>,
        scratch: &mut Scratch,
    ) = multiply_panels
}

/// # Safety
/// The machine has `I`; no other thread writes these columns of the output.
#[inline(always)]
unsafe fn multiply_panels<I: IntIsa>(product: &Product<'_>, range: Range<usize>, scratch: &mut Scratch) {
    let weight = product.weight;
    let Scratch { chunk: decoded, sums } = scratch;
    if sums.len() < product.x.rows * PANEL {
        sums.resize(product.x.rows * PANEL, 0.0);
    }
    let sums = &mut sums[..product.x.rows * PANEL];
    for panel in range {
        let mut rest = weight.panel(panel);
        for (index, blocks) in chunks(weight.inputs).enumerate() {
            let (chunk, others) = rest.split_at(weight.format.chunk_bytes(blocks));
            rest = others;
            // SAFETY: the contract of the caller; `chunk` is the next chunk of the panel.
            unsafe {
                decoded.decode::<I>(weight.format, chunk, blocks);
                Task::new(product, decoded, index, blocks).add_to::<I>(sums);
            }
        }
        let first = panel * PANEL;
        let columns = PANEL.min(weight.outputs - first);
        for (row, sums) in sums.chunks_exact(PANEL).enumerate() {
            // SAFETY: the contract of the caller.
            unsafe {
                if columns < PANEL {
                    product.y.write(row, first, &sums[..columns]);
                    continue;
                }
                for lane in (0..PANEL).step_by(I::Float::LANES) {
                    let sum = I::Float::load(sums.as_ptr().add(lane));
                    I::Float::store(product.y.at(row, first + lane), sum);
                }
            }
        }
    }
}

/// The products of all rows with one chunk of a panel.
struct Task<'a> {
    /// Whether it is the first chunk, so that sums start from zero.
    first: bool,
    chunk: &'a Chunk,
    blocks: usize,
    rows: usize,
    group: usize,
    minimum: bool,
    narrow: bool,
    /// `[row][CHUNK]`
    codes: &'a [i8],
    /// `[block][row]`
    scales: &'a [f32],
    /// `[group][row]`
    start: &'a [i32],
    /// `[group][row]`
    scaled: &'a [f32],
}

impl<'a> Task<'a> {
    fn new(product: &'a Product<'_>, chunk: &'a Chunk, index: usize, blocks: usize) -> Self {
        let (x, format) = (product.x, product.weight.format);
        let rows = x.rows;
        let groups = index * CHUNK / format.group..(index * CHUNK + blocks * BLOCK) / format.group;
        let by_group = groups.start * rows..groups.end * rows;
        Self {
            first: index == 0,
            chunk,
            blocks,
            rows,
            group: format.group,
            minimum: format.minimum,
            narrow: format.is_narrow(),
            codes: &x.codes[index * rows * CHUNK..][..rows * CHUNK],
            scales: &x.scales[index * CHUNK / BLOCK * rows..][..blocks * rows],
            start: &product.sums.start[by_group.clone()],
            scaled: if format.minimum { &product.sums.scaled[by_group] } else { &[] },
        }
    }

    /// # Safety
    /// The machine has `I`; `sums: [rows][PANEL]`.
    #[inline(always)]
    unsafe fn add_to<I: IntIsa>(&self, sums: &mut [f32]) {
        debug_assert_eq!(sums.len(), self.rows * PANEL);
        // SAFETY: the contract of the caller.
        unsafe {
            match (self.group, self.minimum, self.narrow) {
                (16, false, _) => self.rows::<I, true, false, true>(sums),
                (16, true, _) => self.rows::<I, true, true, true>(sums),
                (_, false, true) => self.rows::<I, false, false, true>(sums),
                (_, true, _) => self.rows::<I, false, true, true>(sums),
                (_, false, false) => self.rows::<I, false, false, false>(sums),
            }
        }
    }

    /// # Safety
    /// As [`Self::add_to`]; the constants are those of the format.
    #[inline(always)]
    unsafe fn rows<I: IntIsa, const HALVES: bool, const MINIMUM: bool, const NARROW: bool>(
        &self,
        sums: &mut [f32],
    ) {
        let mut row = 0;
        // SAFETY: the contract of the caller; tiles are within the rows.
        unsafe {
            if I::ROWS == 8 {
                while row + 8 <= self.rows {
                    self.tile::<I, 8, HALVES, MINIMUM, NARROW>(row, sums.as_mut_ptr());
                    row += 8;
                }
            }
            while row + 4 <= self.rows {
                self.tile::<I, 4, HALVES, MINIMUM, NARROW>(row, sums.as_mut_ptr());
                row += 4;
            }
            while row + 2 <= self.rows {
                self.tile::<I, 2, HALVES, MINIMUM, NARROW>(row, sums.as_mut_ptr());
                row += 2;
            }
            if row < self.rows {
                self.tile::<I, 1, HALVES, MINIMUM, NARROW>(row, sums.as_mut_ptr());
            }
        }
    }

    /// `R` rows from `row` on. The order of the operations on a sum does not depend on `R`.
    ///
    /// # Safety
    /// As [`Self::rows`]; `row + R` is at most the number of rows.
    #[inline(always)]
    unsafe fn tile<I: IntIsa, const R: usize, const HALVES: bool, const MINIMUM: bool, const NARROW: bool>(
        &self,
        row: usize,
        sums: *mut f32,
    ) {
        let groups = if HALVES { 2 } else { 1 };
        // SAFETY: the contract of the caller; all arrays hold their values for every block, group and row.
        unsafe {
            let x = self.codes.as_ptr().add(row * CHUNK);
            for lane in (0..PANEL).step_by(I::Float::LANES) {
                let to = sums.add(row * PANEL + lane);
                let mut totals = [I::Float::splat(0.0); R];
                if !self.first {
                    for (r, total) in totals.iter_mut().enumerate() {
                        *total = I::Float::load(to.add(r * PANEL));
                    }
                }
                for block in 0..self.blocks {
                    let scales = self.scales.as_ptr().add(block * self.rows + row);
                    for half in 0..groups {
                        let group = block * groups + half;
                        let by_row = group * self.rows + row;
                        let mut ints = [I::splat(0); R];
                        if !MINIMUM {
                            for (r, int) in ints.iter_mut().enumerate() {
                                *int = I::splat(*self.start.as_ptr().add(by_row + r));
                            }
                        }
                        let first = half * STEPS / groups;
                        for step in (first..first + STEPS / groups).step_by(2) {
                            let at = (block * STEPS + step) * VECTOR + 4 * lane;
                            let codes = self.chunk.codes.as_ptr().add(at);
                            let codes = [I::load(codes), I::load(codes.add(VECTOR))];
                            for (r, int) in ints.iter_mut().enumerate() {
                                let x = x.add(r * CHUNK + block * BLOCK + 4 * step);
                                *int = I::dot::<NARROW>(*int, codes, x);
                            }
                        }
                        let scale = I::Float::load(self.chunk.scales.as_ptr().add(group * PANEL + lane));
                        for (r, total) in totals.iter_mut().enumerate() {
                            let product = I::mul(I::to_floats(ints[r]), scale);
                            *total = I::fused(product, I::Float::splat(*scales.add(r)), *total);
                        }
                        if MINIMUM {
                            let minimum =
                                I::Float::load(self.chunk.minimums.as_ptr().add(group * PANEL + lane));
                            for (r, total) in totals.iter_mut().enumerate() {
                                let sum = I::Float::splat(*self.scaled.as_ptr().add(by_row + r));
                                *total = I::fused(minimum, sum, *total);
                            }
                        }
                    }
                }
                for (r, &total) in totals.iter().enumerate() {
                    I::Float::store(to.add(r * PANEL), total);
                }
            }
        }
    }
}
