//! Products of f32 rows and weights in bf16 or f16 by a tile unit, which multiplies bf16 and adds in f32.
//!
//! An input is split into three bf16, each the rounded rest of those before it, so that nothing of its 24 bits is
//! lost. A weight in f16 is the exact sum of two bf16. A sum runs over the inputs in order, 32 at a time, and
//! within them over the parts; for f16, 256 at a time, first with the high parts of the weights. So it depends
//! on its row alone.
//!
//! The kernel of a weight is chosen when the weight is packed, and never by the number of rows.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use half::{bf16, f16};

use super::output::Output;
use crate::cpu::buffer::{Buffer, DisjointChunks};
use crate::cpu::isa::{Isa, for_each_isa};
use crate::cpu::level::Level;
use crate::cpu::thread_pool::parallel;
#[cfg(target_arch = "x86_64")]
use crate::cpu::tiles::amx::AmxTiles;
use crate::cpu::tiles::emulated::EmulatedTiles;
use crate::cpu::tiles::{FloatTile, PARTS, Products, TILE_COLUMNS, TILE_ROWS, Tiles};

/// Outputs of a unit of work: four tiles, so that a product need not wait for the one before it.
pub(super) const GROUP: usize = 4 * TILE_COLUMNS;
/// What multiplies them.
pub(super) const KERNEL: &str = "bf16 tiles (AMX), inputs as sums of three bf16";
/// Inputs of a tile.
const TILE_INPUTS: usize = 32;
/// Inputs of f16 weights that are split at once: 64 KiB of a group.
const SPLIT_INPUTS: usize = 256;

/// Weights of a layer in panels of 16 outputs: `[panel][input / 2][output][2]`, 16 bits each. Inputs are filled
/// up with zeros to whole tiles, and outputs to whole groups of panels.
pub(crate) struct TiledPanels {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// bf16 or f16.
    pub(super) dtype: DType,
    bits: Buffer<u16>,
}

impl TiledPanels {
    /// Packs `weight: [out, in]` on the CPU; `None` if it is neither bf16 nor f16.
    pub(super) fn new(weight: &Tensor) -> Result<Option<Self>> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let from = layout.start_offset();
        let range = from..from + outputs * inputs;
        let bits = match &*storage {
            Storage::Cpu(CpuStorage::BF16(w)) => pack(&w[range], inputs, bf16::to_bits),
            Storage::Cpu(CpuStorage::F16(w)) => pack(&w[range], inputs, f16::to_bits),
            _ => return Ok(None),
        };
        Ok(Some(Self { inputs, outputs, dtype: weight.dtype(), bits }))
    }

    /// Groups of panels.
    pub(super) fn groups(&self) -> usize {
        self.outputs.div_ceil(GROUP)
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.bits)
    }

    /// The weights of one output.
    pub(super) fn row(&self, output: usize) -> Vec<f32> {
        let panel = output / TILE_COLUMNS * self.panel();
        let value = |bits| match self.dtype {
            DType::F16 => f16::from_bits(bits).to_f32(),
            _ => bf16::from_bits(bits).to_f32(),
        };
        (0..self.inputs).map(|k| value(self.bits[panel + place(k, output % TILE_COLUMNS)])).collect()
    }

    /// Values of a panel.
    fn panel(&self) -> usize {
        self.inputs.next_multiple_of(TILE_INPUTS) * TILE_COLUMNS
    }

    /// Multiplies all rows of `x` by the groups in `range`.
    ///
    /// # Safety
    /// The machine has the tile unit; no other thread writes these columns of `y`.
    pub(super) unsafe fn multiply<T: Tiles>(
        &self,
        level: Level,
        x: &SplitRows,
        y: Output,
        range: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let split = self.dtype == DType::F16;
        let inputs = self.inputs.next_multiple_of(TILE_INPUTS);
        let step = if split { SPLIT_INPUTS } else { inputs.max(1) };
        scratch.sums.resize(x.blocks.len(), [[[0.0; TILE_COLUMNS]; TILE_ROWS]; 4]);
        scratch.weights.resize(if split { 2 * GROUP * SPLIT_INPUTS } else { 0 }, 0);
        for group in range {
            let weights = &self.bits[group * 4 * self.panel()..][..4 * self.panel()];
            scratch.sums.fill([[[0.0; TILE_COLUMNS]; TILE_ROWS]; 4]);
            for first in (0..inputs).step_by(step) {
                let count = step.min(inputs - first);
                let half = scratch.weights.len() / 2;
                let (high, low) = scratch.weights.split_at_mut(half);
                if split {
                    for panel in 0..4 {
                        let from = panel * self.panel() + first * TILE_COLUMNS;
                        let to = panel * SPLIT_INPUTS * TILE_COLUMNS..;
                        let len = count * TILE_COLUMNS;
                        split_f16(
                            level,
                            &weights[from..][..len],
                            &mut high[to.clone()][..len],
                            &mut low[to][..len],
                        );
                    }
                }
                for (block, sums) in x.blocks.iter().zip(&mut scratch.sums) {
                    let from = &x.values[block.start + first * PARTS * block.rows..];
                    // SAFETY: the contract of the caller; the weights and the rows have these inputs.
                    unsafe {
                        T::start(Products::Floats, block.rows);
                        let tiles = count / TILE_INPUTS;
                        if split {
                            let panel = SPLIT_INPUTS * TILE_COLUMNS;
                            T::float_products(from.as_ptr(), block.rows, high.as_ptr(), panel, tiles, sums);
                            T::float_products(from.as_ptr(), block.rows, low.as_ptr(), panel, tiles, sums);
                        } else {
                            let weights = weights.as_ptr();
                            T::float_products(from.as_ptr(), block.rows, weights, self.panel(), tiles, sums);
                        }
                    }
                }
            }
            for (block, sums) in x.blocks.iter().zip(&scratch.sums) {
                for (panel, sums) in sums.iter().enumerate() {
                    let column = group * GROUP + panel * TILE_COLUMNS;
                    let columns = TILE_COLUMNS.min(self.outputs.saturating_sub(column));
                    for (row, sums) in sums.iter().enumerate().take(block.rows) {
                        if columns > 0 {
                            // SAFETY: the contract of the caller.
                            unsafe { y.write(block.first + row, column, &sums[..columns]) };
                        }
                    }
                }
            }
        }
        // SAFETY: the contract of the caller.
        unsafe { T::stop() };
    }
}

/// Multiplies all rows of `x` by some groups of panels. No other thread may write these columns of `y`.
pub(super) fn multiply(
    level: Level,
    weight: &TiledPanels,
    x: &SplitRows,
    y: Output,
    groups: Range<usize>,
    scratch: &mut Scratch,
) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a Level exists only where the machine has it.
        Level::Amx => unsafe { weight.multiply::<AmxTiles>(level, x, y, groups, scratch) },
        // SAFETY: the emulation runs everywhere. It is slow, and only used if a layer that was packed for
        // tiles runs at another level.
        _ => unsafe { weight.multiply::<EmulatedTiles>(level, x, y, groups, scratch) },
    }
}

/// What a thread works in.
#[derive(Default)]
pub(super) struct Scratch {
    /// By block of rows.
    sums: Vec<[FloatTile; 4]>,
    /// High and low parts of f16 weights.
    weights: Vec<u16>,
}

/// The place of a weight in its panel.
fn place(input: usize, lane: usize) -> usize {
    input / 2 * 2 * TILE_COLUMNS + 2 * lane + input % 2
}

fn pack<W: Copy + Sync>(weight: &[W], inputs: usize, bits: impl Fn(W) -> u16 + Sync) -> Buffer<u16> {
    let outputs = weight.len() / inputs.max(1);
    let panel = inputs.next_multiple_of(TILE_INPUTS) * TILE_COLUMNS;
    let mut packed = Buffer::zeroed(outputs.div_ceil(GROUP) * 4 * panel);
    let panels = DisjointChunks::new(&mut packed, panel);
    parallel(outputs.div_ceil(TILE_COLUMNS), true, |range| {
        for index in range {
            // SAFETY: every panel is used once.
            let packed = unsafe { panels.chunk(index) };
            let first = index * TILE_COLUMNS;
            let rows = &weight[first * inputs..outputs.min(first + TILE_COLUMNS) * inputs];
            for (lane, row) in rows.chunks_exact(inputs.max(1)).enumerate() {
                for (input, &w) in row.iter().enumerate() {
                    packed[place(input, lane)] = bits(w);
                }
            }
        }
    });
    packed
}

for_each_isa! {
    /// Splits f16 into bf16: the upper half of the f32 and the rest, which fits another one exactly.
    fn split_f16(weights: &[u16], high: &mut [u16], low: &mut [u16]) = split_f16_in
}

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn split_f16_in<I: Isa>(weights: &[u16], high: &mut [u16], low: &mut [u16]) {
    let mut values = [0f32; 16];
    for ((weights, high), low) in
        weights.chunks_exact(16).zip(high.chunks_exact_mut(16)).zip(low.chunks_exact_mut(16))
    {
        for at in (0..16).step_by(I::LANES) {
            // SAFETY: whole vectors of the chunk; the contract of the caller.
            unsafe {
                let wide = I::load_f16(weights.as_ptr().add(at).cast());
                I::store(values.as_mut_ptr().add(at), wide);
            }
        }
        for ((value, high), low) in values.iter().zip(high).zip(low) {
            *high = (value.to_bits() >> 16) as u16;
            let rest = value - f32::from_bits(u32::from(*high) << 16);
            *low = (rest.to_bits() >> 16) as u16;
        }
    }
}

/// Rows of inputs as sums of bf16, in blocks of up to 16 rows: `[block][32 inputs][part][row][32]`.
pub(super) struct SplitRows {
    blocks: Vec<Block>,
    values: Vec<u16>,
}

struct Block {
    /// Its first row.
    first: usize,
    rows: usize,
    /// Where its values start.
    start: usize,
}

impl SplitRows {
    /// Splits `x: [rows, inputs]`.
    pub(super) fn new(x: &[f32], inputs: usize) -> Self {
        let rows = x.len() / inputs.max(1);
        let width = inputs.next_multiple_of(TILE_INPUTS);
        let blocks: Vec<Block> = (0..rows)
            .step_by(TILE_ROWS)
            .map(|first| Block { first, rows: TILE_ROWS.min(rows - first), start: first * PARTS * width })
            .collect();
        let mut values = vec![0u16; PARTS * rows * width];
        for block in &blocks {
            let values = &mut values[block.start..][..PARTS * block.rows * width];
            for (tile, values) in values.chunks_exact_mut(PARTS * block.rows * TILE_INPUTS).enumerate() {
                for row in 0..block.rows {
                    let from = (block.first + row) * inputs;
                    let x = &x[from + tile * TILE_INPUTS..from + inputs.min((tile + 1) * TILE_INPUTS)];
                    for (i, &x) in x.iter().enumerate() {
                        let mut rest = x;
                        for part in 0..PARTS {
                            let rounded = bf16::from_f32(rest);
                            values[(part * block.rows + row) * TILE_INPUTS + i] = rounded.to_bits();
                            rest -= rounded.to_f32();
                        }
                    }
                }
            }
        }
        Self { blocks, values }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::cpu::test_tensors::{assert_products, random};

    fn products(weight: &TiledPanels, x: &[f32]) -> Vec<f32> {
        let rows = SplitRows::new(x, weight.inputs);
        let mut y = vec![0f32; x.len() / weight.inputs * weight.outputs];
        let output = Output::new(y.as_mut_ptr(), weight.outputs, 0);
        let groups = 0..weight.groups();
        // SAFETY: the emulation runs everywhere.
        unsafe {
            weight.multiply::<EmulatedTiles>(
                crate::cpu::level::level(),
                &rows,
                output,
                groups,
                &mut Scratch::default(),
            );
        }
        y
    }

    #[test]
    fn products_are_right_and_a_row_does_not_depend_on_others() {
        for dtype in [DType::BF16, DType::F16] {
            for (rows, inputs, outputs) in [(1, 5, 3), (17, 64, 200), (40, 33, 64), (3, 300, 70)] {
                let w = random((outputs, inputs)).to_dtype(dtype).unwrap();
                let x = random((rows, inputs));
                let weight = TiledPanels::new(&w).unwrap().unwrap();
                let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let ours = products(&weight, &values);
                let product = Tensor::from_slice(&ours, (rows, outputs), &Device::Cpu).unwrap();
                assert_products(&product, &x, &w, &format!("{dtype:?} {rows}x{inputs}x{outputs}"));
                for row in 0..rows {
                    let alone = products(&weight, &values[row * inputs..][..inputs]);
                    assert_eq!(alone, ours[row * outputs..][..outputs], "{dtype:?}, row {row}");
                }
                let w = w.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
                assert_eq!(weight.row(outputs - 1), w[outputs - 1]);
            }
        }
    }

    #[test]
    fn an_f16_is_the_sum_of_its_parts() {
        let all: Vec<u16> = (0..=u16::MAX).filter(|&bits| f16::from_bits(bits).is_finite()).collect();
        let all = &all[..all.len() / 16 * 16];
        let (mut high, mut low) = (vec![0; all.len()], vec![0; all.len()]);
        split_f16(crate::cpu::level::level(), all, &mut high, &mut low);
        for ((&bits, &high), &low) in all.iter().zip(&high).zip(&low) {
            let sum = bf16::from_bits(high).to_f32() + bf16::from_bits(low).to_f32();
            assert_eq!(sum, f16::from_bits(bits).to_f32());
        }
    }

    #[test]
    fn other_dtypes_are_left_to_other_kernels() {
        let weight = Tensor::zeros((4, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(TiledPanels::new(&weight).unwrap().is_none());
    }
}
