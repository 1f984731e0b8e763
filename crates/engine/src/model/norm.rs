//! Normalisations.

use candle_core::{D, Result, Tensor};

use crate::cpu::{HeadRmsNorm, LayerNorm, RmsNorm};
use crate::ops::Heads;
use crate::{Kernels, LoadError};

/// A normalisation of rows.
pub(crate) enum Norm {
    Rms { weight: Tensor },
    Layer { weight: Tensor, bias: Tensor },
}

impl Norm {
    pub(crate) fn forward(&self, kernels: Kernels, x: &Tensor, eps: f32) -> Result<Tensor> {
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

/// The RMS normalisation of every head of the queries and of the keys.
pub(crate) struct HeadNorm {
    /// `[(heads + kv_heads) * head_dim]`: each head has a copy of the weight of its kind.
    weight: Tensor,
    /// `[head_dim]`
    ones: Tensor,
}

impl HeadNorm {
    /// From the weights of a query head and of a key head.
    pub(crate) fn new(q: &Tensor, k: &Tensor, heads: Heads) -> std::result::Result<Self, LoadError> {
        let weight = Tensor::cat(&[q.repeat(heads.heads)?, k.repeat(heads.kv_heads)?], 0)?;
        Ok(Self { weight, ones: q.ones_like()? })
    }

    /// The heads of `qkv: [rows, (heads + 2 kv_heads) * head_dim]` but for the values, in place where it can.
    pub(crate) fn forward(&self, kernels: Kernels, qkv: Tensor, h: Heads, eps: f32) -> Result<Tensor> {
        if kernels == Kernels::Packed {
            qkv.inplace_op2(&self.weight, &HeadRmsNorm { eps, head_dim: h.head_dim })?;
            return Ok(qkv);
        }
        let (rows, width) = (qkv.dims()[0], self.weight.elem_count());
        let heads = qkv.narrow(1, 0, width)?.reshape((rows, width / h.head_dim, h.head_dim))?;
        let heads =
            candle_nn::ops::rms_norm(&heads.contiguous()?, &self.ones, eps)?.reshape((rows, width))?;
        let heads = heads.broadcast_mul(&self.weight)?;
        Tensor::cat(&[heads, qkv.narrow(1, width, h.kv_heads * h.head_dim)?], D::Minus1)
    }
}
