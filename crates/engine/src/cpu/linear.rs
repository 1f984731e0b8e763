//! Linear layers: `y = x · Wᵀ` for few rows of `x`, with `W` packed once.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use half::{bf16, f16};

use super::isa::{Isa, Level, for_each_isa, level};
use super::packed_rows::{PackedRows, STEP};
use super::rows::contiguous;
use super::thread_pool::parallel;

/// Outputs per panel: two AVX-512 vectors, four AVX2 ones.
const PANEL: usize = 32;
/// Multiply-adds from which a second thread is worthwhile.
const PARALLEL_WORK: usize = 20_000;

/// The weight of a linear layer, `[out, in]`, packed for [`CustomOp1`]: `x: [.., rows, in]` f32 to `[..,
/// rows, out]` f32.
///
/// Packed into panels of 32 outputs, and within a panel by inputs: a pass streams each panel once, whatever
/// the number of rows. The weights keep their dtype and are widened in registers.
pub struct PackedLinear {
    inputs: usize,
    outputs: usize,
    panels: Panels,
    level: Level,
}

enum Panels {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
}

/// A dtype that weights are stored in.
pub(crate) trait Weight: Copy + Default + Send + Sync {
    /// # Safety
    /// As [`Isa::load`].
    unsafe fn load<I: Isa>(p: *const Self) -> I::V;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const Self) -> I::V {
        // SAFETY: the contract of the caller.
        unsafe { I::load(p) }
    }
}

impl Weight for f16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const Self) -> I::V {
        // SAFETY: the contract of the caller.
        unsafe { I::load_f16(p) }
    }
}

impl Weight for bf16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const Self) -> I::V {
        // SAFETY: the contract of the caller.
        unsafe { I::load_bf16(p) }
    }
}

impl PackedLinear {
    /// Packs `weight: [out, in]`, f32, f16 or bf16, on the CPU.
    ///
    /// # Errors
    /// If the weight has another dtype or another number of dimensions.
    pub fn new(weight: &Tensor) -> Result<Self> {
        Self::for_level(weight, level())
    }

    fn for_level(weight: &Tensor, level: Level) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let flat = weight.flatten_all()?;
        let panels = match weight.dtype() {
            DType::F32 => Panels::F32(pack(&flat.to_vec1()?, inputs)),
            DType::F16 => Panels::F16(pack(&flat.to_vec1()?, inputs)),
            DType::BF16 => Panels::BF16(pack(&flat.to_vec1()?, inputs)),
            other => {
                candle_core::bail!("weights of dtype {other:?} cannot be packed: only f32, f16 and bf16 can")
            }
        };
        Ok(Self { inputs, outputs, panels, level })
    }

    /// `x: [rows, in]` to `y: [rows, out]`, both row-major.
    fn run(&self, x: &[f32], y: &mut [f32]) {
        let x = PackedRows::new(x, self.inputs, self.level);
        match &self.panels {
            Panels::F32(w) => run_f32(&self.task(w, &x, y)),
            Panels::F16(w) => run_f16(&self.task(w, &x, y)),
            Panels::BF16(w) => run_bf16(&self.task(w, &x, y)),
        }
    }

    fn task<'a, W>(&self, weights: &'a [W], x: &'a PackedRows<'a>, y: &'a mut [f32]) -> Task<'a, W> {
        Task { x, inputs: self.inputs, outputs: self.outputs, weights, y: y.as_mut_ptr(), level: self.level }
    }
}

impl CustomOp1 for PackedLinear {
    fn name(&self) -> &'static str {
        "packed-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout, self.name())?;
        let mut dims = layout.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == self.inputs => *last = self.outputs,
            _ => candle_core::bail!(
                "packed-linear: an input of shape {:?} for a layer of {} inputs",
                layout.dims(),
                self.inputs
            ),
        }
        let mut y = vec![0f32; x.len() / self.inputs.max(1) * self.outputs];
        self.run(x, &mut y);
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }
}

/// `[out, in]` to `[panel][in][PANEL]`. The last panel is filled up with zeros.
fn pack<W: Weight>(weight: &[W], inputs: usize) -> Vec<W> {
    if inputs == 0 {
        return Vec::new();
    }
    let outputs = weight.len() / inputs;
    let mut packed = vec![W::default(); outputs.div_ceil(PANEL) * PANEL * inputs];
    for (out, row) in weight.chunks_exact(inputs).enumerate() {
        let panel = &mut packed[out / PANEL * PANEL * inputs..];
        for (k, &w) in row.iter().enumerate() {
            panel[k * PANEL + out % PANEL] = w;
        }
    }
    packed
}

/// One multiplication.
struct Task<'a, W> {
    x: &'a PackedRows<'a>,
    inputs: usize,
    outputs: usize,
    weights: &'a [W],
    y: *mut f32,
    level: Level,
}

// SAFETY: threads read `x` and `weights` and write disjoint columns of `y`, one range of panels each.
unsafe impl<W: Sync> Sync for Task<'_, W> {}

impl<W: Weight> Task<'_, W> {
    /// Runs all panels on the thread pool.
    fn run(&self, run: fn(Level, &Self, Range<usize>)) {
        // The first rows cost memory traffic, further ones arithmetic.
        let work = self.inputs * self.outputs * self.x.rows.div_ceil(4);
        let panels = self.outputs.div_ceil(PANEL);
        parallel(panels, work > PARALLEL_WORK, |range| run(self.level, self, range));
    }
}

macro_rules! for_weight {
    ($name:ident, $panels:ident, $w:ty) => {
        fn $name(task: &Task<'_, $w>) {
            task.run(|level, task, range| $panels(level, task, range));
        }
        for_each_isa! { fn $panels(task: &Task<'_, $w>, range: Range<usize>) = panels }
    };
}

for_weight!(run_f32, panels_f32, f32);
for_weight!(run_f16, panels_f16, f16);
for_weight!(run_bf16, panels_bf16, bf16);

/// All rows of the panels in `range`.
///
/// # Safety
/// The machine has `I`; no other thread writes these columns of `y`.
#[inline(always)]
unsafe fn panels<I: Isa>(task: &Task<'_, impl Weight>, range: Range<usize>) {
    if task.x.rows == 1 {
        // Several panels at once: the two or four sums of a single row cannot hide the latency of a
        // multiply-add.
        let fours = range.start + range.len() / 4 * 4;
        for first in (range.start..fours).step_by(4) {
            // SAFETY: the contract of the caller.
            unsafe { tile::<I, _, 1, 4>(task, 0, first) };
        }
        for first in fours..range.end {
            // SAFETY: the contract of the caller.
            unsafe { tile::<I, _, 1, 1>(task, 0, first) };
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
unsafe fn tile<I: Isa, W: Weight, const R: usize, const P: usize>(
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
                let y = task.y.add((row + r) * task.outputs + column);
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
unsafe fn step<I: Isa, W: Weight, const R: usize, const P: usize>(
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::cpu::isa::all_levels;

    fn random(shape: (usize, usize)) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    /// Every level and dtype, and odd sizes.
    #[test]
    fn results_equal_those_of_candle() {
        for level in all_levels() {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for (rows, inputs, outputs) in
                    [(1, 5, 3), (1, 64, 200), (2, 33, 32), (5, 64, 65), (17, 96, 130), (33, 7, 31)]
                {
                    let w = random((outputs, inputs)).to_dtype(dtype).unwrap();
                    let x = random((rows, inputs));
                    let ours = x.apply_op1_no_bwd(&PackedLinear::for_level(&w, level).unwrap()).unwrap();
                    let w = w.to_dtype(DType::F32).unwrap();
                    let theirs = x.matmul(&w.t().unwrap()).unwrap();
                    let diff = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap();
                    let diff = diff.to_scalar::<f32>().unwrap();
                    assert!(diff < 2e-5, "{level:?} {dtype:?} {rows}x{inputs}x{outputs}: {diff}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        for level in all_levels() {
            let layer = PackedLinear::for_level(&random((150, 64)), level).unwrap();
            let x = random((29, 64));
            let all = x.apply_op1_no_bwd(&layer).unwrap().to_vec2::<f32>().unwrap();
            for (row, together) in all.iter().enumerate() {
                let alone = x.narrow(0, row, 1).unwrap().apply_op1_no_bwd(&layer).unwrap();
                assert_eq!(&alone.to_vec2::<f32>().unwrap()[0], together, "{level:?}, row {row}");
            }
        }
    }

    #[test]
    fn a_wrong_width_is_an_error() {
        let layer = PackedLinear::new(&random((4, 8))).unwrap();
        assert!(random((1, 9)).apply_op1_no_bwd(&layer).is_err());
    }
}
