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

    /// The rows with the indices `ids: [n]`, `[n, in]`.
    pub(crate) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.index_select(ids, 0),
            Self::Quantised(tensor) => tensor.embedding(ids),
        }
    }
}
