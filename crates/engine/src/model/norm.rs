//! Normalisations of a decoder layer: our kernels on the CPU, candle's everywhere else.

use candle_core::{D, Result, Tensor};

use crate::cpu::{HeadRmsNorm, LayerNorm, RmsNorm};
use crate::load::{Heads, Kernels};

/// A normalisation of rows. Weights and biases are `[hidden]`.
pub(super) enum Norm {
    Rms { weight: Tensor },
    Layer { weight: Tensor, bias: Tensor },
}

impl Norm {
    /// `x: [rows, hidden]`, normalised row by row.
    pub(super) fn forward(&self, kernels: Kernels, x: &Tensor, eps: f32) -> Result<Tensor> {
        match (kernels, self) {
            (Kernels::Packed, Self::Rms { weight }) => x.apply_op2_no_bwd(weight, &RmsNorm { eps }),
            (Kernels::Candle, Self::Rms { weight }) => candle_nn::ops::rms_norm(x, weight, eps),
            (Kernels::Packed, Self::Layer { weight, bias }) => {
                x.apply_op3_no_bwd(weight, bias, &LayerNorm { eps })
            }
            (Kernels::Candle, Self::Layer { weight, bias }) => {
                candle_nn::ops::layer_norm(x, weight, bias, eps)
            }
        }
    }
}

/// The RMS normalisation of every head of the queries and keys.
pub(super) struct HeadNorm {
    /// `[(heads + kv_heads) * head_dim]`: the weight of the queries for each query head, then that of the
    /// keys for each key head.
    weight: Tensor,
    /// `[head_dim]`
    ones: Tensor,
}

impl HeadNorm {
    /// `q: [head_dim]` and `k: [head_dim]` are the weights of a query head and of a key head.
    pub(super) fn new(q: &Tensor, k: &Tensor, heads: Heads) -> Result<Self> {
        let weight = Tensor::cat(&[q.repeat(heads.heads)?, k.repeat(heads.kv_heads)?], 0)?;
        Ok(Self { weight, ones: q.ones_like()? })
    }

    /// `qkv: [rows, (heads + 2 kv_heads) * head_dim]` with normalised queries and keys, in place where
    /// possible.
    pub(super) fn forward(&self, kernels: Kernels, qkv: Tensor, h: Heads, eps: f32) -> Result<Tensor> {
        if kernels == Kernels::Packed {
            qkv.inplace_op2(&self.weight, &HeadRmsNorm { eps, head_dim: h.head_dim })?;
            return Ok(qkv);
        }
        let rows = qkv.dims()[0];
        let width = self.weight.elem_count();
        let heads = qkv.narrow(1, 0, width)?.reshape((rows, width / h.head_dim, h.head_dim))?;
        let heads =
            candle_nn::ops::rms_norm(&heads.contiguous()?, &self.ones, eps)?.reshape((rows, width))?;
        let heads = heads.broadcast_mul(&self.weight)?;
        let values = qkv.narrow(1, width, h.kv_heads * h.head_dim)?;
        Tensor::cat(&[heads, values], D::Minus1)
    }
}
