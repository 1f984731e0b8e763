use candle_core::{DType, Result, Tensor};

use crate::{Kernels, PackedLinear};

/// A linear layer without bias, by the kernels of its device.
pub(crate) enum Linear {
    Packed(PackedLinear),
    /// `[out, in]`
    Dense(Tensor),
}

impl Linear {
    /// From `parts: [out_i, in]`, side by side: several layers over the same input are one multiplication.
    pub(crate) fn new(parts: &[Tensor], kernels: Kernels) -> Result<Self> {
        let weight = if let [one] = parts { one.clone() } else { Tensor::cat(parts, 0)? };
        Ok(match kernels {
            Kernels::Packed => Self::Packed(PackedLinear::new(&weight)?),
            // candle's CPU matmul wants both sides of one dtype, and f16 there is slow.
            Kernels::Candle if weight.device().is_cpu() => Self::Dense(weight.to_dtype(DType::F32)?),
            Kernels::Candle => Self::Dense(weight),
        })
    }

    /// `x: [rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => x.apply_op1_no_bwd(packed),
            Self::Dense(weight) => x.matmul(&weight.t()?),
        }
    }
}
