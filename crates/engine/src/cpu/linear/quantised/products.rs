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
use crate::cpu::tiles::{IntTile, Products, TILE_ROWS, Tiles};

/// Rows from which a tile unit is worthwhile.
const FEWEST_TILE_ROWS: usize = 5;

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
    /// Integer sums of a chunk, by group.
    tiles: Vec<IntTile>,
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
    let Scratch { chunk: decoded, sums, tiles } = scratch;
    if I::Tiles::AVAILABLE {
        tiles.resize(CHUNK / 16, [[0; PANEL]; TILE_ROWS]);
    }
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
                Task::new(product, decoded, index, blocks).add_to::<I>(sums, tiles);
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
    if I::Tiles::AVAILABLE {
        // SAFETY: the contract of the caller.
        unsafe { I::Tiles::stop() };
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
    unsafe fn add_to<I: IntIsa>(&self, sums: &mut [f32], tiles: &mut [IntTile]) {
        debug_assert_eq!(sums.len(), self.rows * PANEL);
        // SAFETY: the contract of the caller.
        unsafe {
            match (self.group, self.minimum, self.narrow) {
                (16, false, _) => self.rows::<I, true, false, true>(sums, tiles),
                (16, true, _) => self.rows::<I, true, true, true>(sums, tiles),
                (_, false, true) => self.rows::<I, false, false, true>(sums, tiles),
                (_, true, _) => self.rows::<I, false, true, true>(sums, tiles),
                (_, false, false) => self.rows::<I, false, false, false>(sums, tiles),
            }
        }
    }

    /// # Safety
    /// As [`Self::add_to`]; the constants are those of the format.
    #[inline(always)]
    unsafe fn rows<I: IntIsa, const HALVES: bool, const MINIMUM: bool, const NARROW: bool>(
        &self,
        sums: &mut [f32],
        tiles: &mut [IntTile],
    ) {
        let mut row = 0;
        // SAFETY: the contract of the caller; tiles are within the rows.
        unsafe {
            // Few rows do not pay for a tile. Its sums are the same bits.
            while I::Tiles::AVAILABLE && self.rows - row >= FEWEST_TILE_ROWS {
                let rows = TILE_ROWS.min(self.rows - row);
                self.tiles::<I, HALVES, MINIMUM>(row, rows, sums.as_mut_ptr(), tiles);
                row += rows;
            }
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

    /// `rows` rows from `row` on, at most [`TILE_ROWS`], by the tile unit. Wide codes are multiplied as they
    /// are.
    ///
    /// # Safety
    /// As [`Self::rows`]; the machine has the unit; `row + rows` is at most the number of rows; `tiles` has
    /// room for all groups of a chunk.
    #[inline(always)]
    unsafe fn tiles<I: IntIsa, const HALVES: bool, const MINIMUM: bool>(
        &self,
        row: usize,
        rows: usize,
        sums: *mut f32,
        tiles: &mut [IntTile],
    ) {
        let groups = self.blocks * if HALVES { 2 } else { 1 };
        let size = if HALVES { BLOCK / 2 } else { BLOCK };
        // SAFETY: the contract of the caller. If the number of groups is odd, a group after them is multiplied
        // and ignored; it is within the chunk, which has room for eight blocks.
        unsafe {
            I::Tiles::start(if HALVES { Products::Halves } else { Products::Blocks }, rows);
            let x = self.codes.as_ptr().add(row * CHUNK);
            let (pairs, _) = tiles[..groups.next_multiple_of(2)].as_chunks_mut::<2>();
            for (pair, sums) in pairs.iter_mut().enumerate() {
                let x = x.add(2 * pair * size);
                let codes = self.chunk.codes.as_ptr().add(2 * pair * size * PANEL);
                if HALVES {
                    I::Tiles::int_products::<{ STEPS / 2 }>(x, CHUNK, codes, sums);
                } else {
                    I::Tiles::int_products::<STEPS>(x, CHUNK, codes, sums);
                }
            }
            for r in 0..rows {
                for lane in (0..PANEL).step_by(I::Float::LANES) {
                    let to = sums.add((row + r) * PANEL + lane);
                    let mut total = if self.first { I::Float::splat(0.0) } else { I::Float::load(to) };
                    for (group, ints) in tiles[..groups].iter().enumerate() {
                        let by_row = group * self.rows + row + r;
                        let mut int = I::load_ints(ints[r].as_ptr().add(lane));
                        if !MINIMUM {
                            int = I::add(int, I::splat(*self.start.as_ptr().add(by_row)));
                        }
                        let block = if HALVES { group / 2 } else { group };
                        let d = I::Float::splat(*self.scales.as_ptr().add(block * self.rows + row + r));
                        let scale = I::Float::load(self.chunk.scales.as_ptr().add(group * PANEL + lane));
                        total = I::fused(I::mul(I::to_floats(int), scale), d, total);
                        if MINIMUM {
                            let minimum =
                                I::Float::load(self.chunk.minimums.as_ptr().add(group * PANEL + lane));
                            let sum = I::Float::splat(*self.scaled.as_ptr().add(by_row));
                            total = I::fused(minimum, sum, total);
                        }
                    }
                    I::Float::store(to, total);
                }
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

/// The product with an emulated tile unit, on a machine with AVX-512 VNNI.
#[cfg(all(test, target_arch = "x86_64"))]
pub(in crate::cpu::linear) fn emulated_tiles(weight: &QuantisedPanels, x: &[f32]) -> Vec<f32> {
    use crate::cpu::int_isa::x86::Vnni;
    use crate::cpu::level::Level;
    use crate::cpu::tiles::emulated::EmulatedTiles;
    let x = QuantisedRows::new(Level::Vnni, x, weight.inputs);
    let sums = x.sums(weight.format, 0);
    let mut y = vec![0f32; x.rows * weight.outputs];
    let product = Product { weight, x: &x, sums: &sums, y: Output::new(y.as_mut_ptr(), weight.outputs, 0) };
    let panels = 0..weight.outputs.div_ceil(PANEL);
    // SAFETY: the machine has AVX-512 VNNI.
    unsafe { multiply_panels::<Vnni<EmulatedTiles>>(&product, panels, &mut Scratch::default()) };
    y
}
