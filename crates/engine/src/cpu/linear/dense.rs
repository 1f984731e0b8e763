//! Products of f32 rows and weights in f32, f16 or bf16.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use half::{bf16, f16};

use super::output::Output;
use super::packed_rows::{PackedRows, STEP};
use crate::cpu::buffer::{Buffer, DisjointChunks};
use crate::cpu::element::Element;
use crate::cpu::isa::{Isa, for_each_isa};
use crate::cpu::level::Level;
use crate::cpu::thread_pool::parallel;

/// Outputs per panel: two AVX-512 vectors, four AVX2 ones.
pub(super) const PANEL: usize = 32;

/// Weights in panels of 32 outputs, and within a panel by inputs.
pub(crate) struct DensePanels {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    panels: Values,
}

enum Values {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
    BF16(Buffer<bf16>),
}

/// Inputs after the present one whose weights are requested from memory: they arrive while the first block of
/// rows is multiplied.
const AHEAD: usize = 64;

impl DensePanels {
    /// Packs `weight: [out, in]`, f32, f16 or bf16, on the CPU.
    pub(super) fn new(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let from = layout.start_offset();
        let range = from..from + outputs * inputs;
        let panels = match &*storage {
            Storage::Cpu(CpuStorage::F32(w)) => Values::F32(pack(&w[range], inputs)),
            Storage::Cpu(CpuStorage::F16(w)) => Values::F16(pack(&w[range], inputs)),
            Storage::Cpu(CpuStorage::BF16(w)) => Values::BF16(pack(&w[range], inputs)),
            other => candle_core::bail!(
                "weights of dtype {:?} cannot be packed: only f32, f16 and bf16 on the CPU can",
                other.dtype()
            ),
        };
        Ok(Self { inputs, outputs, panels })
    }

    /// Their dtype, and their bytes.
    pub(super) fn dtype_and_bytes(&self) -> (DType, usize) {
        match &self.panels {
            Values::F32(w) => (DType::F32, size_of_val(&**w)),
            Values::F16(w) => (DType::F16, size_of_val(&**w)),
            Values::BF16(w) => (DType::BF16, size_of_val(&**w)),
        }
    }

    /// The weights of one output.
    pub(super) fn row(&self, output: usize) -> Vec<f32> {
        let places = (0..self.inputs).map(|k| (output / PANEL * self.inputs + k) * PANEL + output % PANEL);
        match &self.panels {
            Values::F32(w) => places.map(|at| w[at]).collect(),
            Values::F16(w) => places.map(|at| w[at].to_f32()).collect(),
            Values::BF16(w) => places.map(|at| w[at].to_f32()).collect(),
        }
    }

    /// Multiplies all rows of `x` by the panels in `range`. No other thread may write these columns of `y`.
    pub(super) fn multiply(&self, level: Level, x: &PackedRows<'_>, y: Output, range: Range<usize>) {
        match &self.panels {
            Values::F32(w) => panels_f32(level, &self.task(w, x, y), range),
            Values::F16(w) => panels_f16(level, &self.task(w, x, y), range),
            Values::BF16(w) => panels_bf16(level, &self.task(w, x, y), range),
        }
    }

    fn task<'a, W>(&self, weights: &'a [W], x: &'a PackedRows<'a>, y: Output) -> Task<'a, W> {
        Task { x, inputs: self.inputs, outputs: self.outputs, weights, y }
    }
}

/// What multiplies them.
pub(super) fn kernel(level: Level) -> &'static str {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Amx | Level::Vnni | Level::Avx512 => {
            "f32 multiply-adds (AVX-512), weights widened in registers"
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => "f32 multiply-adds (AVX2), weights widened in registers",
        Level::Portable => "f32 multiply-adds (portable), weights widened in registers",
    }
}

/// `[out, in]` to `[panel][in][PANEL]`. The last panel is filled up with zeros.
fn pack<W: Element>(weight: &[W], inputs: usize) -> Buffer<W> {
    let outputs = weight.len() / inputs.max(1);
    let count = outputs.div_ceil(PANEL);
    let mut packed = Buffer::zeroed(count * PANEL * inputs);
    let panels = DisjointChunks::new(&mut packed, PANEL * inputs);
    parallel(count, true, |range| {
        for panel in range {
            // SAFETY: every panel is used once.
            let packed = unsafe { panels.chunk(panel) };
            let rows = &weight[panel * PANEL * inputs..outputs.min((panel + 1) * PANEL) * inputs];
            // Square pieces, so that both sides stay in the L1 cache.
            for first in (0..inputs).step_by(PANEL) {
                let last = inputs.min(first + PANEL);
                for (out, row) in rows.chunks_exact(inputs.max(1)).enumerate() {
                    for (k, &w) in row[first..last].iter().enumerate() {
                        packed[(first + k) * PANEL + out] = w;
                    }
                }
            }
        }
    });
    packed
}

/// One multiplication.
struct Task<'a, W> {
    x: &'a PackedRows<'a>,
    inputs: usize,
    outputs: usize,
    weights: &'a [W],
    y: Output,
}

for_each_isa! { fn panels_f32(task: &Task<'_, f32>, range: Range<usize>) = panels }
for_each_isa! { fn panels_f16(task: &Task<'_, f16>, range: Range<usize>) = panels }
for_each_isa! { fn panels_bf16(task: &Task<'_, bf16>, range: Range<usize>) = panels }

/// All rows of the panels in `range`.
///
/// # Safety
/// The machine has `I`; no other thread writes these columns of `y`.
#[inline(always)]
unsafe fn panels<I: Isa>(task: &Task<'_, impl Element>, range: Range<usize>) {
    if task.x.rows == 1 {
        // Several panels at once: the two or four sums of a single row cannot hide the latency of a
        // multiply-add.
        let mut panel = range.start;
        while panel < range.end {
            let count = (range.end - panel).min(4);
            // SAFETY: the contract of the caller.
            unsafe {
                match count {
                    1 => tile::<I, _, 1, 1>(task, 0, panel),
                    2 => tile::<I, _, 1, 2>(task, 0, panel),
                    3 => tile::<I, _, 1, 3>(task, 0, panel),
                    _ => tile::<I, _, 1, 4>(task, 0, panel),
                }
            }
            panel += count;
        }
        return;
    }
    for panel in range {
        for &(row, size) in &task.x.blocks {
            // SAFETY: the contract of the caller.
            unsafe {
                match size {
                    1 => tile::<I, _, 1, 1>(task, row, panel),
                    2 => tile::<I, _, 2, 1>(task, row, panel),
                    3 => tile::<I, _, 3, 1>(task, row, panel),
                    4 => tile::<I, _, 4, 1>(task, row, panel),
                    5 => tile::<I, _, 5, 1>(task, row, panel),
                    6 => tile::<I, _, 6, 1>(task, row, panel),
                    7 => tile::<I, _, 7, 1>(task, row, panel),
                    8 => tile::<I, _, 8, 1>(task, row, panel),
                    9 => tile::<I, _, 9, 1>(task, row, panel),
                    10 => tile::<I, _, 10, 1>(task, row, panel),
                    11 => tile::<I, _, 11, 1>(task, row, panel),
                    _ => tile::<I, _, 12, 1>(task, row, panel),
                }
            }
        }
    }
}

/// `R` rows by `P` panels. Each sum runs over the inputs in order, in one accumulator, whatever `R` and `P`:
/// so results do not depend on the number of rows.
///
/// # Safety
/// The machine has `I`; the block and the panels exist; no other thread writes these columns of `y`.
#[inline(always)]
unsafe fn tile<I: Isa, W: Element, const R: usize, const P: usize>(
    task: &Task<'_, W>,
    row: usize,
    panel: usize,
) {
    let inputs = task.inputs;
    let vectors = PANEL / I::LANES;
    // SAFETY: a block starts at its first row times the width and holds R rows; a panel holds `inputs` times
    // PANEL weights; columns beyond `outputs` are not written.
    unsafe {
        let mut x = task.x.values.as_ptr().add(row * task.x.width);
        let w = task.weights.as_ptr().add(panel * PANEL * inputs);
        let mut sums = [[[I::splat(0.0); 4]; P]; R];
        for group in 0..inputs / STEP {
            if R > 1 && row == 0 {
                for k in 0..STEP {
                    I::prefetch(w.wrapping_add((group * STEP + k + AHEAD) * PANEL).cast());
                }
            }
            for k in 0..STEP {
                step::<I, W, R, P>(x.add(k), w.add((group * STEP + k) * PANEL), inputs, &mut sums);
            }
            x = x.add(R * STEP);
        }
        for k in 0..inputs % STEP {
            step::<I, W, R, P>(x.add(k), w.add((inputs / STEP * STEP + k) * PANEL), inputs, &mut sums);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (p, sums) in sums.iter().enumerate() {
                let column = (panel + p) * PANEL;
                let y = task.y.at(row + r, column);
                if column + PANEL <= task.outputs {
                    for (v, &sum) in sums.iter().take(vectors).enumerate() {
                        I::store(y.add(v * I::LANES), sum);
                    }
                } else {
                    let mut last = [0f32; PANEL];
                    for (v, &sum) in sums.iter().take(vectors).enumerate() {
                        I::store(last.as_mut_ptr().add(v * I::LANES), sum);
                    }
                    std::ptr::copy_nonoverlapping(last.as_ptr(), y, task.outputs - column);
                }
            }
        }
    }
}

/// One input of `R` rows times its weights in `P` panels.
///
/// # Safety
/// As [`tile`]; `x` points to the input of the block's first row, `w` to its weights in the first panel.
#[inline(always)]
unsafe fn step<I: Isa, W: Element, const R: usize, const P: usize>(
    x: *const f32,
    w: *const W,
    inputs: usize,
    sums: &mut [[[I::V; 4]; P]; R],
) {
    let vectors = PANEL / I::LANES;
    for p in 0..P {
        // SAFETY: the contract of the caller.
        let load = |v: usize| unsafe { W::load::<I>(w.add(p * inputs * PANEL + v * I::LANES)) };
        if vectors == 2 {
            // All weights first: then each input needs a register only briefly. The other way round, the
            // compiler keeps all inputs for the second vector and has no registers left for the sums.
            let weights = [load(0), load(1)];
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the contract of the caller.
                let x = unsafe { I::splat(*x.add(r * STEP)) };
                for (v, &weights) in weights.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { sums[p][v] = I::mul_add(weights, x, sums[p][v]) };
                }
            }
            continue;
        }
        for v in 0..vectors {
            let weights = load(v);
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the contract of the caller.
                unsafe { sums[p][v] = I::mul_add(weights, I::splat(*x.add(r * STEP)), sums[p][v]) };
            }
        }
    }
}
