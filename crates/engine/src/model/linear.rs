//! Linear layers, dense or quantised.

use candle_core::quantized::{GgmlDType, QMatMul};
use candle_core::{D, DType, Result, Tensor};

use super::ops::add_bias;
use crate::cpu::PackedLinear;
use crate::load::{Kernels, Matrix};

/// A linear layer. Several layers over the same input are one, with their outputs side by side.
pub(super) struct Linear {
    parts: Vec<Part>,
    /// `[out]`
    bias: Option<Tensor>,
    kernels: Kernels,
    bytes: u64,
}

enum Part {
    Packed(PackedLinear),
    /// `[out, in]`
    Dense(Tensor),
    Quantised {
        weight: QMatMul,
        /// Whether candle multiplies a single row with another kernel than several rows.
        single_row_differs: bool,
    },
}

impl Linear {
    /// `parts: [out_i, in]` are over the same input; `biases: [out_i]` are none, or one per part.
    pub(super) fn new(parts: &[Matrix], biases: &[Tensor], kernels: Kernels) -> Result<Self> {
        let bytes = parts.iter().map(Matrix::bytes).sum::<usize>() as u64;
        let bias = match biases {
            [] => None,
            _ => Some(Tensor::cat(biases, 0)?),
        };
        Ok(Self { parts: fused(parts, kernels)?, bias, kernels, bytes })
    }

    /// `x: [rows, in]` to `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match self.parts.as_slice() {
            [one] => one.forward(x)?,
            parts => {
                let outputs = parts.iter().map(|part| part.forward(x)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&outputs, D::Minus1)?
            }
        };
        match &self.bias {
            Some(bias) => add_bias(self.kernels, y, bias),
            None => Ok(y),
        }
    }

    /// Bytes of its weights.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// One part if all are dense. Quantised ones stay apart, because each may have another quantisation.
fn fused(parts: &[Matrix], kernels: Kernels) -> Result<Vec<Part>> {
    let mut dense = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Matrix::Dense(tensor) => dense.push(tensor),
            Matrix::Quantised(_) => return parts.iter().map(|part| Part::new(part, kernels)).collect(),
        }
    }
    Ok(vec![Part::dense(&Tensor::cat(&dense, 0)?, kernels)?])
}

impl Part {
    fn new(matrix: &Matrix, kernels: Kernels) -> Result<Self> {
        match matrix {
            Matrix::Dense(tensor) => Self::dense(tensor, kernels),
            Matrix::Quantised(tensor) => Ok(Self::Quantised {
                single_row_differs: tensor.device().is_cpu() && tensor.dtype() == GgmlDType::Q6K,
                weight: QMatMul::from_arc(tensor.clone())?,
            }),
        }
    }

    fn dense(weight: &Tensor, kernels: Kernels) -> Result<Self> {
        Ok(match kernels {
            Kernels::Packed => Self::Packed(PackedLinear::new(weight)?),
            // candle's CPU matmul requires both sides to have one dtype, and is slow in f16.
            Kernels::Candle if weight.device().is_cpu() => Self::Dense(weight.to_dtype(DType::F32)?),
            Kernels::Candle => Self::Dense(weight.clone()),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => x.apply_op1_no_bwd(packed),
            Self::Dense(weight) => x.matmul(&weight.t()?),
            // Two copies of the row, because the result of a row must not depend on how many rows there are.
            Self::Quantised { weight, single_row_differs: true } if x.dims()[0] == 1 => {
                Tensor::cat(&[x, x], 0)?.apply(weight)?.narrow(0, 0, 1)
            }
            Self::Quantised { weight, .. } => x.apply(weight),
        }
    }
}
