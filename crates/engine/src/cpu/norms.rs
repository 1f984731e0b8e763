//! Row-wise kernels: normalisations.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, InplaceOp2, Layout, Result, Shape};

use super::isa::{Isa, for_each_isa};
use super::level::level;
use super::rows::{contiguous, contiguous_mut, for_rows};

/// RMS normalisation of `x: [.., n]` with `weight: [n]`, both f32.
pub(crate) struct RmsNorm {
    pub(crate) eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, xl, self.name())?;
        let w = contiguous(w, wl, self.name())?;
        if w.is_empty() || xl.dims().last() != Some(&w.len()) {
            candle_core::bail!("rms-norm: {} weights for an input of shape {:?}", w.len(), xl.dims());
        }
        let mut y = vec![0f32; x.len()];
        let level = level();
        for_rows(&mut y, w.len(), |row, y| {
            rms_norm(level, &x[row * w.len()..][..y.len()], w, self.eps, y);
        });
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }
}

for_each_isa! { fn rms_norm(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) = rms_norm_rows }

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn rms_norm_rows<I: Isa>(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(w.len()).zip(y.chunks_exact_mut(w.len())) {
        let scale = 1.0 / (mean_square(x, 0.0) + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * scale * w;
        }
    }
}

/// The mean of `(x - centre)²`, in sixteen partial sums, so that the loop vectorises.
#[inline(always)]
fn mean_square(x: &[f32], centre: f32) -> f32 {
    let mut sums = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let mut rest = 0.0;
    for x in chunks.remainder() {
        rest += (x - centre) * (x - centre);
    }
    for chunk in chunks {
        for (s, x) in sums.iter_mut().zip(chunk) {
            *s += (x - centre) * (x - centre);
        }
    }
    (sums.iter().sum::<f32>() + rest) / x.len() as f32
}

/// Layer normalisation of `x: [.., n]` with `weight: [n]` and `bias: [n]`, all f32.
pub(crate) struct LayerNorm {
    pub(crate) eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, xl, self.name())?;
        let w = contiguous(w, wl, self.name())?;
        let b = contiguous(b, bl, self.name())?;
        if w.is_empty() || xl.dims().last() != Some(&w.len()) || b.len() != w.len() {
            candle_core::bail!("layer-norm: {} weights for an input of shape {:?}", w.len(), xl.dims());
        }
        let mut y = vec![0f32; x.len()];
        let level = level();
        for_rows(&mut y, w.len(), |row, y| {
            layer_norm(level, &x[row * w.len()..][..y.len()], w, b, self.eps, y);
        });
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }
}

for_each_isa! { fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) = layer_norm_rows }

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn layer_norm_rows<I: Isa>(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(w.len()).zip(y.chunks_exact_mut(w.len())) {
        let mean = x.iter().sum::<f32>() / w.len() as f32;
        let scale = 1.0 / (mean_square(x, mean) + eps).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = (x - mean) * scale * w + b;
        }
    }
}

/// RMS normalisation, in place, of each head in the first columns of `x: [rows, width]`. `weight: [heads *
/// head_dim]` has a part for every such head.
pub(crate) struct HeadRmsNorm {
    pub(crate) eps: f32,
    pub(crate) head_dim: usize,
}

impl InplaceOp2 for HeadRmsNorm {
    fn name(&self) -> &'static str {
        "head-rms-norm"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<()> {
        let (_, width) = xl.shape().dims2()?;
        let x = contiguous_mut(x, xl, self.name())?;
        let w = contiguous(w, wl, self.name())?;
        if w.len() > width || !w.len().is_multiple_of(self.head_dim.max(1)) {
            candle_core::bail!("head-rms-norm: {} weights do not fit rows of {width}", w.len());
        }
        let level = level();
        for_rows(x, width, |_, x| head_rms_norm(level, x, w, width, self));
        Ok(())
    }
}

for_each_isa! {
    fn head_rms_norm(x: &mut [f32], w: &[f32], width: usize, op: &HeadRmsNorm) = head_rms_norm_rows
}

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn head_rms_norm_rows<I: Isa>(x: &mut [f32], w: &[f32], width: usize, op: &HeadRmsNorm) {
    for row in x.chunks_exact_mut(width) {
        for (head, w) in row.chunks_exact_mut(op.head_dim).zip(w.chunks_exact(op.head_dim)) {
            let scale = 1.0 / (mean_square(head, 0.0) + op.eps).sqrt();
            for (x, w) in head.iter_mut().zip(w) {
                *x = *x * scale * w;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::cpu::test_tensors::{assert_close, random};

    #[test]
    fn rms_norm_equals_that_of_candle() {
        for n in [8, 33, 384] {
            let x = random((5, n));
            let w = random((1, n)).flatten_all().unwrap();
            let ours = x.apply_op2_no_bwd(&w, &RmsNorm { eps: 1e-5 }).unwrap();
            assert_close(&ours, &candle_nn::ops::rms_norm(&x, &w, 1e-5).unwrap());
        }
    }

    #[test]
    fn layer_norm_equals_that_of_candle() {
        for n in [8, 33, 384] {
            let x = random((5, n));
            let parameters = random((2, n));
            let w = parameters.get(0).unwrap();
            let b = parameters.get(1).unwrap().contiguous().unwrap();
            let ours = x.apply_op3_no_bwd(&w, &b, &LayerNorm { eps: 1e-5 }).unwrap();
            assert_close(&ours, &candle_nn::ops::layer_norm(&x, &w, &b, 1e-5).unwrap());
        }
    }

    #[test]
    fn each_head_is_normalised_by_itself_and_values_are_unchanged() {
        let (rows, heads, dim) = (5, 3, 24);
        let x = random((rows, (heads + 1) * dim));
        let w = random((heads, dim));
        let expected: Vec<Tensor> = (0..=heads)
            .map(|head| {
                let x = x.narrow(1, head * dim, dim).unwrap().contiguous().unwrap();
                match head < heads {
                    true => candle_nn::ops::rms_norm(&x, &w.get(head).unwrap(), 1e-6).unwrap(),
                    false => x,
                }
            })
            .collect();
        let expected = Tensor::cat(&expected, 1).unwrap();
        let w = w.flatten_all().unwrap();
        x.inplace_op2(&w, &HeadRmsNorm { eps: 1e-6, head_dim: dim }).unwrap();
        assert_close(&x, &expected);
    }
}
