//! Rotary position embeddings.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::cpu::Rope;
use crate::load::{Heads, Kernels, RopeScaling};

/// Cosines and sines for every position, with the scaling applied.
pub(super) struct RotaryTable {
    /// `[context, head_dim / 2]`, row-major.
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// Cosines and sines for the rows of a pass.
pub(super) struct Angles {
    /// `[rows, head_dim / 2]`, row-major.
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The same values on the device, for candle's operations.
    tensors: Option<(Tensor, Tensor)>,
}

impl RotaryTable {
    /// For heads of `head_dim` values and positions below `context`.
    pub(super) fn new(theta: f32, scaling: Option<&RopeScaling>, head_dim: usize, context: usize) -> Self {
        let half = head_dim / 2;
        let mut frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / theta.powf(2.0 * i as f32 / head_dim as f32)).collect();
        if let Some(scaling) = scaling {
            for (i, frequency) in frequencies.iter_mut().enumerate() {
                *frequency = scaled(i, *frequency, scaling);
            }
        }
        let angles = || (0..context).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        Self { cos: angles().map(f32::cos).collect(), sin: angles().map(f32::sin).collect(), half }
    }

    pub(super) fn rows(
        &self,
        positions: &[usize],
        kernels: Kernels,
        dtype: DType,
        device: &Device,
    ) -> Result<Angles> {
        let cos = self.select(&self.cos, positions);
        let sin = self.select(&self.sin, positions);
        let tensors = match kernels {
            Kernels::Packed => None,
            Kernels::Candle => {
                let shape = (positions.len(), self.half);
                let cos = Tensor::from_slice(&cos, shape, device)?.to_dtype(dtype)?;
                let sin = Tensor::from_slice(&sin, shape, device)?.to_dtype(dtype)?;
                Some((cos, sin))
            }
        };
        Ok(Angles { cos, sin, tensors })
    }

    fn select(&self, table: &[f32], positions: &[usize]) -> Vec<f32> {
        positions.iter().flat_map(|&p| &table[p * self.half..(p + 1) * self.half]).copied().collect()
    }
}

/// The `i`-th frequency, scaled.
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

/// Rotates the queries and keys of `qkv: [rows, (heads + 2 kv_heads) * head_dim]`, in place where possible.
pub(super) fn rope(qkv: Tensor, angles: &Angles, h: Heads) -> Result<Tensor> {
    let rotated_heads = h.heads + h.kv_heads;
    let Some((cos, sin)) = &angles.tensors else {
        let op = Rope { cos: &angles.cos, sin: &angles.sin, heads: rotated_heads, head_dim: h.head_dim };
        qkv.inplace_op1(&op)?;
        return Ok(qkv);
    };
    let rows = qkv.dims()[0];
    let width = rotated_heads * h.head_dim;
    let x = qkv.narrow(1, 0, width)?.reshape((1, rows, rotated_heads, h.head_dim))?;
    let x = candle_nn::rotary_emb::rope_thd(&x.contiguous()?, cos, sin)?.reshape((rows, width))?;
    let values = qkv.narrow(1, width, h.kv_heads * h.head_dim)?;
    Tensor::cat(&[x, values], D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frequencies of Llama 3.2 1B, computed in f64 from the published formula: kept, blended and stretched
    /// ones.
    #[test]
    fn llama_3_scaling_stretches_long_wavelengths() {
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
