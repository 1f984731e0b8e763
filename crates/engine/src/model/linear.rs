use candle_core::quantized::{GgmlDType, QMatMul};
use candle_core::{D, DType, Result, Tensor};

use crate::weights::Matrix;
use crate::{Kernels, PackedLinear, ops};

/// A linear layer, by the kernels of its device. Several layers over the same input are one, with their outputs side by
/// side.
pub(crate) struct Linear {
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
        /// Whether a row alone is multiplied by another kernel than rows together.
        lone_row_differs: bool,
    },
}

impl Linear {
    /// From `parts: [out_i, in]` over the same input, and the biases of all of them.
    pub(crate) fn new(parts: &[Matrix], biases: &[Tensor], kernels: Kernels) -> Result<Self> {
        let bytes = parts.iter().map(Matrix::bytes).sum::<usize>() as u64;
        let dense: Vec<&Tensor> = parts
            .iter()
            .filter_map(|part| match part {
                Matrix::Dense(tensor) => Some(tensor),
                Matrix::Quantised(_) => None,
            })
            .collect();
        let parts = if dense.len() == parts.len() {
            vec![dense_part(&beside(&dense)?, kernels)?]
        } else {
            // Quantised ones may each be quantised otherwise.
            let part = |part: &Matrix| match part {
                Matrix::Dense(tensor) => dense_part(tensor, kernels),
                Matrix::Quantised(tensor) => Ok(Part::Quantised {
                    lone_row_differs: tensor.device().is_cpu() && tensor.dtype() == GgmlDType::Q6K,
                    weight: QMatMul::from_arc(tensor.clone())?,
                }),
            };
            parts.iter().map(part).collect::<Result<_>>()?
        };
        let bias = match biases {
            [] => None,
            all => Some(beside(&all.iter().collect::<Vec<_>>())?),
        };
        Ok(Self { parts, bias, kernels, bytes })
    }

    /// `x: [rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match self.parts.as_slice() {
            [one] => one.forward(x)?,
            parts => {
                let outputs = parts.iter().map(|part| part.forward(x)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&outputs, D::Minus1)?
            }
        };
        match &self.bias {
            Some(bias) => ops::add_bias(self.kernels, y, bias),
            None => Ok(y),
        }
    }

    /// Bytes of its weights.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Part {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => x.apply_op1_no_bwd(packed),
            Self::Dense(weight) => x.matmul(&weight.t()?),
            // Twice, then: what a row gives must not depend on its company.
            Self::Quantised { weight, lone_row_differs: true } if x.dims()[0] == 1 => {
                Tensor::cat(&[x, x], 0)?.apply(weight)?.narrow(0, 0, 1)
            }
            Self::Quantised { weight, .. } => x.apply(weight),
        }
    }
}

fn beside(parts: &[&Tensor]) -> Result<Tensor> {
    match parts {
        [one] => Ok((*one).clone()),
        all => Tensor::cat(all, 0),
    }
}

fn dense_part(weight: &Tensor, kernels: Kernels) -> Result<Part> {
    Ok(match kernels {
        Kernels::Packed => Part::Packed(PackedLinear::new(weight)?),
        // candle's CPU matmul wants both sides of one dtype, and f16 there is slow.
        Kernels::Candle if weight.device().is_cpu() => Part::Dense(weight.to_dtype(DType::F32)?),
        Kernels::Candle => Part::Dense(weight.clone()),
    })
}
