//! A matrix of weights, dense or quantised.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{Result, Tensor};

/// The weight of a linear layer or an embedding, `[out, in]`.
#[derive(Clone)]
pub(crate) enum Matrix {
    Dense(Tensor),
    Quantised(Arc<QTensor>),
}

impl Matrix {
    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Self::Quantised(tensor) => tensor.storage_size_in_bytes(),
        }
    }

    /// The number of its weights.
    pub(crate) fn elements(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.elem_count(),
            Self::Quantised(tensor) => tensor.shape().elem_count(),
        }
    }

    /// Its dtype, such as `bf16` or `q4k`.
    pub(crate) fn dtype(&self) -> String {
        match self {
            Self::Dense(tensor) => tensor.dtype().as_str().to_owned(),
            Self::Quantised(tensor) => format!("{:?}", tensor.dtype()).to_lowercase(),
        }
    }

    /// The rows with the indices `ids: [n]`, `[n, in]`.
    pub(crate) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.index_select(ids, 0),
            Self::Quantised(tensor) => tensor.embedding(ids),
        }
    }
}
