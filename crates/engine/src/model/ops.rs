//! The operations of a decoder layer: our kernels on the CPU, candle's everywhere else.

use candle_core::{D, DType, Device, Result, Tensor};
use tandem_decoding::AncestorMask;

use crate::cpu::{AddAssign, AppendKv, Attend, Attended, Rope, SiluMul, Visible};
use crate::kv_cache::KvCache;
use crate::{Kernels, RopeScaling};

/// Rotary angles of the rows of a pass.
pub(crate) struct Angles {
    /// `[rows, head_dim / 2]`, row-major.
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The same on the device, for candle's operations.
    tensors: Option<(Tensor, Tensor)>,
}

/// What one session's rows of a pass see.
pub(crate) enum Sight {
    Rows(Visible),
    /// Additive, `[rows, cached rows]`, f32: 0 or -inf.
    Additive(Tensor),
}

/// Shape of the heads in the fused projection `[rows, (heads + 2 kv_heads) * head_dim]`.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// `[rows, 2n]` to `silu(left half) * right half: [rows, n]`.
pub(crate) fn silu_mul(kernels: Kernels, x: &Tensor) -> Result<Tensor> {
    match kernels {
        Kernels::Packed => x.apply_op1_no_bwd(&SiluMul),
        Kernels::Candle => candle_nn::ops::swiglu(x),
    }
}

/// `x + y`, in place where it can.
pub(crate) fn add(kernels: Kernels, x: Tensor, y: &Tensor) -> Result<Tensor> {
    match kernels {
        Kernels::Packed => {
            x.inplace_op2(y, &AddAssign)?;
            Ok(x)
        }
        Kernels::Candle => x + y,
    }
}

/// `x: [rows, n]` plus `bias: [n]` in every row, in place where it can.
pub(crate) fn add_bias(kernels: Kernels, x: Tensor, bias: &Tensor) -> Result<Tensor> {
    match kernels {
        Kernels::Packed => add(kernels, x, bias),
        Kernels::Candle => x.broadcast_add(bias),
    }
}

/// cos and sin of every position, for the rotary embedding (scaling included).
pub(crate) struct RotaryTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RotaryTable {
    /// For heads of `head_dim`, positions below `context`.
    pub(crate) fn new(theta: f32, scaling: Option<&RopeScaling>, head_dim: usize, context: usize) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| 1.0 / theta.powf(2.0 * i as f32 / head_dim as f32))
            .enumerate()
            .map(|(i, f)| scaling.map_or(f, |s| scaled(i, f, s)))
            .collect();
        let angles = || (0..context).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        Self { cos: angles().map(f32::cos).collect(), sin: angles().map(f32::sin).collect(), half }
    }

    pub(crate) fn rows(
        &self,
        positions: &[usize],
        kernels: Kernels,
        dtype: DType,
        device: &Device,
    ) -> Result<Angles> {
        let pick = |table: &[f32]| -> Vec<f32> {
            positions.iter().flat_map(|&p| &table[p * self.half..(p + 1) * self.half]).copied().collect()
        };
        let (cos, sin) = (pick(&self.cos), pick(&self.sin));
        let tensors = match kernels {
            Kernels::Packed => None,
            Kernels::Candle => {
                let tensor =
                    |v: &[f32]| Tensor::from_slice(v, (positions.len(), self.half), device)?.to_dtype(dtype);
                Some((tensor(&cos)?, tensor(&sin)?))
            }
        };
        Ok(Angles { cos, sin, tensors })
    }
}

/// The `i`-th frequency.
fn scaled(i: usize, frequency: f32, scaling: &RopeScaling) -> f32 {
    let (factor, low, high, original) = match scaling {
        RopeScaling::Divisors(divisors) => return frequency / divisors[i],
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            (factor, low_freq_factor, high_freq_factor, *original_context as f32)
        }
    };
    let wavelength = 2.0 * std::f32::consts::PI / frequency;
    if wavelength < original / high {
        frequency
    } else if wavelength > original / low {
        frequency / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

impl Sight {
    pub(crate) fn new(kernels: Kernels, prefix: usize, mask: &AncestorMask, device: &Device) -> Result<Self> {
        if kernels == Kernels::Packed {
            return Ok(Self::Rows(Visible::new(prefix, mask)));
        }
        let mut values = Vec::with_capacity(mask.rows() * (prefix + mask.columns()));
        for row in mask.as_slice().chunks_exact(mask.columns().max(1)) {
            values.extend(std::iter::repeat_n(0f32, prefix));
            values.extend(row.iter().map(|&seen| if seen { 0.0 } else { f32::NEG_INFINITY }));
        }
        Ok(Self::Additive(Tensor::from_vec(values, (mask.rows(), prefix + mask.columns()), device)?))
    }
}

/// Rotates queries and keys of `qkv`, in place where it can.
pub(crate) fn rope(qkv: Tensor, angles: &Angles, h: Heads) -> Result<Tensor> {
    let Some((cos, sin)) = &angles.tensors else {
        let op =
            Rope { cos: &angles.cos, sin: &angles.sin, heads: h.heads + h.kv_heads, head_dim: h.head_dim };
        qkv.inplace_op1(&op)?;
        return Ok(qkv);
    };
    let (rows, rotated) = (qkv.dims()[0], (h.heads + h.kv_heads) * h.head_dim);
    let x = qkv.narrow(1, 0, rotated)?.reshape((1, rows, h.heads + h.kv_heads, h.head_dim))?;
    let x = candle_nn::rotary_emb::rope_thd(&x.contiguous()?, cos, sin)?.reshape((rows, rotated))?;
    Tensor::cat(&[x, qkv.narrow(1, rotated, h.kv_heads * h.head_dim)?], D::Minus1)
}

/// One session's part of an attention.
pub(crate) struct Session<'a> {
    pub(crate) cache: &'a KvCache,
    pub(crate) sight: &'a Sight,
    /// Its rows of the pass.
    pub(crate) rows: usize,
}

/// Appends the keys and values of `qkv: [rows, width]` to a layer's caches, each session's to its own, then attends from its
/// queries: `[rows, heads * head_dim]`.
pub(crate) fn attend(qkv: &Tensor, sessions: &[Session<'_>], layer: usize, h: Heads) -> Result<Tensor> {
    let (keys, values) = (h.heads * h.head_dim, (h.heads + h.kv_heads) * h.head_dim);
    let (mut attended, mut additive) = (Vec::new(), Vec::new());
    let mut first = 0;
    for session in sessions {
        let (k, v) = session.cache.layer(layer);
        let qkv = qkv.narrow(0, first, session.rows)?;
        first += session.rows;
        match session.sight {
            Sight::Rows(visible) => {
                k.inplace_op2(&qkv, &AppendKv { from: keys, at: session.cache.len() })?;
                v.inplace_op2(&qkv, &AppendKv { from: values, at: session.cache.len() })?;
                attended.push(Attended { k, v, visible });
            }
            Sight::Additive(mask) => additive.push(attend_additive(&qkv, session.cache, layer, mask, h)?),
        }
    }
    match additive.as_slice() {
        [] => qkv.apply_op1_no_bwd(&Attend { heads: h.heads, sessions: attended }),
        [one] => Ok(one.clone()),
        _ => Tensor::cat(&additive, 0),
    }
}

/// The same for one session with candle's operations and an additive mask.
fn attend_additive(qkv: &Tensor, cache: &KvCache, layer: usize, mask: &Tensor, h: Heads) -> Result<Tensor> {
    let (k, v) = cache.layer(layer);
    let (keys, values) = (h.heads * h.head_dim, (h.heads + h.kv_heads) * h.head_dim);
    let rows = qkv.dims()[0];
    let by_head = |from: usize, heads: usize| {
        let x = qkv.narrow(1, from, heads * h.head_dim)?.reshape((rows, heads, h.head_dim))?;
        x.transpose(0, 1)?.contiguous()
    };
    k.slice_set(&by_head(keys, h.kv_heads)?, 1, cache.len())?;
    v.slice_set(&by_head(values, h.kv_heads)?, 1, cache.len())?;
    let seen = cache.len() + rows;
    let (k, v) = (k.narrow(1, 0, seen)?, v.narrow(1, 0, seen)?);
    // The query heads of a key head are consecutive, so one matrix per key head serves its whole group.
    let group = h.heads / h.kv_heads;
    let q = by_head(0, h.heads)?.reshape((h.kv_heads, group * rows, h.head_dim))?;
    let scores = (q.matmul(&k.transpose(1, 2)?)? * (1.0 / (h.head_dim as f64).sqrt()))?;
    let scores = scores.to_dtype(DType::F32)?.reshape((h.heads, rows, seen))?.broadcast_add(mask)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(v.dtype())?;
    let y = weights.reshape((h.kv_heads, group * rows, seen))?.matmul(&v)?;
    let y = y.reshape((h.heads, rows, h.head_dim))?.transpose(0, 1)?;
    y.reshape((rows, h.heads * h.head_dim))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.2 1B's frequencies: kept, blended and stretched ones, computed in f64 from the published formula.
    #[test]
    fn llama_3_stretches_long_wavelengths() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let expected = [
            (0, 1.0),
            (8, 3.760_603e-2),
            (13, 4.839_421_3e-3),
            (14, 3.211_446e-3),
            (15, 1.290_547_9e-3),
            (16, 4.295_568e-4),
            (17, 9.708_288e-5),
            (20, 8.570_255e-6),
            (31, 9.418_307e-8),
        ];
        for (i, expected) in expected {
            let frequency = scaled(i, 1.0 / 500_000f32.powf(2.0 * i as f32 / 64.0), &scaling);
            assert!((frequency / expected - 1.0).abs() < 2e-5, "{i}: {frequency:e} instead of {expected:e}");
        }
    }
}
