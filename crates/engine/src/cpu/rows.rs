//! Row-wise kernels: sums, rotary embedding, gating.

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, InplaceOp2, Layout, Result, Shape};

use super::buffer::written;
use super::isa::{Isa, for_each_isa};
use super::level::level;
use super::thread_pool::parallel;

/// The values of a contiguous f32 operand.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => candle_core::bail!("{op}: the operand is not contiguous"),
    }
}

/// The values of a contiguous f32 operand that is changed in place.
pub(crate) fn contiguous_mut<'a>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
    op: &str,
) -> Result<&'a mut [f32]> {
    let (CpuStorage::F32(values), Some((from, to))) = (storage, layout.contiguous_offsets()) else {
        candle_core::bail!("{op}: the operand is not contiguous f32");
    };
    Ok(&mut values[from..to])
}

/// `e^x`, with an error of at most 2 units in the last place between -87 and 88; `x` is clamped to that
/// range.
///
/// It has no branches or calls, so that loops over it vectorise. Range reduction and polynomial are those of
/// Cephes `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding this rounds to an integer and leaves the integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut y = 1.987_569_1e-4f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        y = y * r + c;
    }
    let power = (shifted.to_bits() as i32 - ROUND.to_bits() as i32 + 127) << 23;
    (y * r * r + r + 1.0) * f32::from_bits(power as u32)
}

/// Values from which a second thread is worthwhile for an operation that takes little time per value.
const PARALLEL_VALUES: usize = 8_000;

/// Runs `body` on whole rows of `width` values of `x`, in parallel if there are many. It gets the index of its
/// first row.
pub(super) fn for_rows(x: &mut [f32], width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = x.len() / width.max(1);
    let many = rows > 1 && x.len() > PARALLEL_VALUES;
    let out = Rows(x.as_mut_ptr());
    parallel(rows, many, |range| {
        // SAFETY: ranges of rows are disjoint and within `x`.
        let own = unsafe {
            std::slice::from_raw_parts_mut(out.start(range.start * width), (range.end - range.start) * width)
        };
        body(range.start, own);
    });
}

/// `x += y`, elementwise; a `y` of one row is added to every row of `x`.
pub(crate) struct AddAssign;

impl InplaceOp2 for AddAssign {
    fn name(&self) -> &'static str {
        "add-assign"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, xl: &Layout, y: &CpuStorage, yl: &Layout) -> Result<()> {
        let x = contiguous_mut(x, xl, self.name())?;
        let y = contiguous(y, yl, self.name())?;
        let one_row = xl.dims().last().copied() == Some(y.len());
        if x.len() != y.len() && !one_row {
            candle_core::bail!("add-assign: cannot add shape {:?} to {:?}", yl.dims(), xl.dims());
        }
        let level = level();
        let width = xl.dims().last().copied().unwrap_or(1);
        for_rows(x, width, |row, x| {
            let y = if one_row { y } else { &y[row * width..][..x.len()] };
            x.chunks_exact_mut(y.len().max(1)).for_each(|x| add_assign(level, x, y));
        });
        Ok(())
    }
}

for_each_isa! { fn add_assign(x: &mut [f32], y: &[f32]) = add_assign_values }

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn add_assign_values<I: Isa>(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Gated activation: `[rows, 2n]`, with gate and up side by side, to `silu(gate) * up: [rows, n]`.
pub(crate) struct SiluMul;

impl CustomOp1 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout, self.name())?;
        let (rows, width) = layout.shape().dims2()?;
        let n = width / 2;
        let level = level();
        let write = |y: *mut f32| {
            let out = Rows(y);
            parallel(rows, rows > 1, |range| {
                let x = &x[range.start * width..range.end * width];
                // SAFETY: ranges of rows are disjoint and within the output.
                silu_mul(level, x, n, unsafe { out.start(range.start * n) });
            });
        };
        // SAFETY: all rows are written.
        let y = unsafe { written(rows * n, write) };
        Ok((CpuStorage::F32(y), Shape::from((rows, n))))
    }
}

/// A pointer to rows that several threads write, each its own.
pub(super) struct Rows(pub(super) *mut f32);

// SAFETY: threads write disjoint rows.
unsafe impl Sync for Rows {}

impl Rows {
    /// # Safety
    /// `at` is within the allocation.
    pub(super) unsafe fn start(&self, at: usize) -> *mut f32 {
        // SAFETY: the contract of the caller.
        unsafe { self.0.add(at) }
    }
}

for_each_isa! { fn silu_mul(x: &[f32], n: usize, y: *mut f32) = silu_mul_rows }

/// # Safety
/// The machine has `I`; `y` is valid for `n` values for each `2 n` of `x`.
#[inline(always)]
unsafe fn silu_mul_rows<I: Isa>(x: &[f32], n: usize, y: *mut f32) {
    for (row, x) in x.chunks_exact((2 * n).max(1)).enumerate() {
        let (gate, up) = x.split_at(n);
        for (i, (g, u)) in gate.iter().zip(up).enumerate() {
            // SAFETY: the contract of the caller.
            unsafe { y.add(row * n + i).write(g / (1.0 + exp(-g)) * u) };
        }
    }
}

/// Rotary embedding, in place, of the first `heads` heads of `[rows, width]`. A pair is a value of the first
/// half of a head and the same value of the second half (the HF layout of Llama).
pub(crate) struct Rope<'a> {
    /// `[rows, head_dim / 2]`, for the position of each row.
    pub(crate) cos: &'a [f32],
    /// As `cos`.
    pub(crate) sin: &'a [f32],
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl InplaceOp1 for Rope<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (rows, width) = layout.shape().dims2()?;
        let half = self.head_dim / 2;
        if width < self.heads * self.head_dim
            || self.cos.len() != rows * half
            || self.sin.len() != rows * half
        {
            candle_core::bail!("rope: {} heads of {} do not fit rows of {width}", self.heads, self.head_dim);
        }
        let x = contiguous_mut(x, layout, self.name())?;
        let level = level();
        for_rows(x, width, |row, x| rope(level, x, width, row, self));
        Ok(())
    }
}

for_each_isa! { fn rope(x: &mut [f32], width: usize, first: usize, rope: &Rope<'_>) = rope_rows }

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn rope_rows<I: Isa>(x: &mut [f32], width: usize, first: usize, rope: &Rope<'_>) {
    let half = rope.head_dim / 2;
    let angles = rope.cos.chunks_exact(half).zip(rope.sin.chunks_exact(half)).skip(first);
    for (row, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
        for head in row.chunks_exact_mut(rope.head_dim).take(rope.heads) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Tensor};

    use super::*;
    use crate::cpu::test_tensors::{assert_close, random};

    #[test]
    fn exp_is_the_exponential() {
        for i in -8600..8700 {
            let x = i as f32 / 100.0;
            let ours = f64::from(exp(x));
            let exact = f64::from(x).exp();
            assert!((ours / exact - 1.0).abs() < 3e-7, "exp({x}) is {ours} instead of {exact}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn a_single_row_is_added_to_every_row() {
        let x = random((5, 33));
        let bias = random((1, 33)).flatten_all().unwrap();
        let expected = x.broadcast_add(&bias).unwrap();
        x.inplace_op2(&bias, &AddAssign).unwrap();
        assert_close(&x, &expected);
        assert!(x.inplace_op2(&random((1, 11)), &AddAssign).is_err());
    }

    #[test]
    fn silu_mul_equals_that_of_candle() {
        let x = random((7, 66));
        let gate = x.narrow(1, 0, 33).unwrap();
        let up = x.narrow(1, 33, 33).unwrap();
        let theirs = (gate.silu().unwrap() * up).unwrap();
        assert_close(&x.apply_op1_no_bwd(&SiluMul).unwrap(), &theirs);
    }

    #[test]
    fn rope_equals_that_of_candle_and_leaves_values_unchanged() {
        let (rows, heads, dim) = (5, 3, 8);
        // Three heads to rotate, followed by a value head.
        let x = random((rows, (heads + 1) * dim));
        let angle = random((rows, dim / 2));
        let cos = angle.cos().unwrap();
        let sin = angle.sin().unwrap();
        let rotated = x.narrow(1, 0, heads * dim).unwrap().reshape((1, rows, heads, dim)).unwrap();
        let rotated = rotated.transpose(1, 2).unwrap().contiguous().unwrap();
        let rotated = candle_nn::rotary_emb::rope(&rotated, &cos, &sin).unwrap();
        let rotated = rotated.transpose(1, 2).unwrap().reshape((rows, heads * dim)).unwrap();
        let theirs = Tensor::cat(&[rotated, x.narrow(1, heads * dim, dim).unwrap()], D::Minus1).unwrap();
        let cos: Vec<f32> = cos.flatten_all().unwrap().to_vec1().unwrap();
        let sin: Vec<f32> = sin.flatten_all().unwrap().to_vec1().unwrap();
        x.inplace_op1(&Rope { cos: &cos, sin: &sin, heads, head_dim: dim }).unwrap();
        assert_close(&x, &theirs);
    }
}
