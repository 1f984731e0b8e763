//! Linear layers and embeddings, dense or quantised.

use std::sync::Arc;

use candle_core::quantized::QMatMul;
use candle_core::{CpuStorage, D, DType, Device, Result, Storage, Tensor};

use super::ops::add_bias;
use crate::cpu::{KernelUse, PackedLinear, Panels};
use crate::load::{Kernels, Matrix};

/// A linear layer. Several layers over the same input are one, with their outputs side by side.
pub(super) struct Linear {
    weight: Weight,
    /// `[out]`
    bias: Option<Tensor>,
    kernels: Kernels,
}

/// The weight of a linear layer or an embedding. Clones share it.
#[derive(Clone)]
enum Weight {
    /// For our kernels.
    Packed(Arc<PackedLinear>),
    /// For candle's: parts whose outputs are side by side.
    Candle(Vec<Part>),
}

#[derive(Clone)]
enum Part {
    /// `[out, in]`
    Dense(Tensor),
    /// On a GPU.
    Quantised(QMatMul, Matrix),
}

impl Linear {
    /// `parts: [out_i, in]` are over the same input; `biases: [out_i]` are none, or one per part.
    pub(super) fn new(parts: Vec<Matrix>, biases: &[Tensor], kernels: Kernels) -> Result<Self> {
        let bias = match biases {
            [] => None,
            _ => Some(Tensor::cat(biases, 0)?),
        };
        Ok(Self { weight: Weight::new(parts, kernels)?, bias, kernels })
    }

    /// `x: [rows, in]` to `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        match &self.bias {
            Some(bias) => add_bias(self.kernels, y, bias),
            None => Ok(y),
        }
    }

    /// `x: [rows, in]` to the values of `[rows, out]`, f32, without a copy of them on the CPU.
    pub(super) fn forward_values(&self, x: &Tensor) -> Result<Vec<f32>> {
        if let (Weight::Packed(packed), None) = (&self.weight, &self.bias) {
            let (storage, layout) = x.storage_and_layout();
            if let (Storage::Cpu(CpuStorage::F32(x)), Some((from, to))) =
                (&*storage, layout.contiguous_offsets())
            {
                return Ok(packed.apply(&x[from..to]));
            }
        }
        self.forward(x)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }

    /// The kernels of its weights.
    pub(super) fn kernels(&self) -> Vec<KernelUse> {
        match &self.weight {
            Weight::Packed(packed) => packed.kernels().collect(),
            Weight::Candle(parts) => parts.iter().map(Part::kernel_use).collect(),
        }
    }
}

/// The vectors of the tokens.
pub(super) struct Embedding(Weight);

impl Embedding {
    /// `matrix: [vocab, hidden]`.
    pub(super) fn new(matrix: Matrix, kernels: Kernels) -> Result<Self> {
        Weight::new(vec![matrix], kernels).map(Self)
    }

    /// The weight of `head: [vocab, hidden]`, in memory once.
    pub(super) fn tied(head: &Linear) -> Self {
        Self(head.weight.clone())
    }

    /// The vectors of `ids`, `[ids, hidden]`. Every id is below the size of the vocabulary.
    pub(super) fn forward(&self, ids: Vec<u32>, device: &Device) -> Result<Tensor> {
        match &self.0 {
            Weight::Packed(packed) => {
                let rows = ids.len();
                let values = packed.rows(&ids);
                let hidden = values.len() / rows.max(1);
                Tensor::from_vec(values, (rows, hidden), device)
            }
            Weight::Candle(parts) => {
                let ids = Tensor::new(ids, device)?;
                let vectors = parts.iter().map(|part| part.rows(&ids)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&vectors, D::Minus1)
            }
        }
    }
}

impl Weight {
    fn new(parts: Vec<Matrix>, kernels: Kernels) -> Result<Self> {
        if kernels == Kernels::Packed {
            // One matrix after the other, so that only one of them is in memory twice.
            let panels = parts.into_iter().map(panels).collect::<Result<_>>()?;
            return Ok(Self::Packed(Arc::new(PackedLinear::new(panels)?)));
        }
        let parts = parts.into_iter().map(Part::new).collect::<Result<Vec<_>>>()?;
        let dense = parts.iter().map(|part| match part {
            Part::Dense(tensor) => Some(tensor),
            Part::Quantised(..) => None,
        });
        // Quantised ones stay apart, because each may have another quantisation.
        match dense.collect::<Option<Vec<_>>>() {
            Some(dense) if dense.len() > 1 => Ok(Self::Candle(vec![Part::Dense(Tensor::cat(&dense, 0)?)])),
            _ => Ok(Self::Candle(parts)),
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => x.apply_op1_no_bwd(&**packed),
            Self::Candle(parts) => match parts.as_slice() {
                [one] => one.forward(x),
                parts => {
                    let outputs = parts.iter().map(|part| part.forward(x)).collect::<Result<Vec<_>>>()?;
                    Tensor::cat(&outputs, D::Minus1)
                }
            },
        }
    }
}

fn panels(matrix: Matrix) -> Result<Panels> {
    match matrix {
        Matrix::Blocks(blocks) => Panels::quantised(&blocks),
        other => Panels::dense(&other.dense()?),
    }
}

impl Part {
    fn new(matrix: Matrix) -> Result<Self> {
        if let Some(layer) = matrix.quantised_layer() {
            return Ok(Self::Quantised(layer?, matrix));
        }
        let weight = matrix.dense()?;
        // candle's CPU matmul requires both sides to have one dtype, and is slow in f16.
        Ok(Self::Dense(if weight.device().is_cpu() { weight.to_dtype(DType::F32)? } else { weight }))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => x.matmul(&weight.t()?),
            Self::Quantised(weight, _) => x.apply(weight),
        }
    }

    fn kernel_use(&self) -> KernelUse {
        let (dtype, weights, bytes) = match self {
            Self::Dense(tensor) => {
                let weights = tensor.elem_count();
                (tensor.dtype().as_str().to_owned(), weights, weights * tensor.dtype().size_in_bytes())
            }
            Self::Quantised(_, matrix) => (matrix.dtype(), matrix.elements(), matrix.bytes()),
        };
        let (weights, bytes) = (weights as u64, bytes as u64);
        KernelUse { dtype, kernel: "candle", integer: false, weights, bytes }
    }

    fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => weight.index_select(ids, 0),
            Self::Quantised(_, matrix) => matrix.rows(ids),
        }
    }
}
