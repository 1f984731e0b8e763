//! A matrix of weights, dense or quantised.

use std::sync::Arc;

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Device, Result, Tensor};

use crate::blocks::Blocks;

/// The weight of a linear layer or an embedding, `[out, in]`.
#[derive(Clone)]
pub(crate) enum Matrix {
    Dense(Tensor),
    /// As in a GGUF file, for our kernels.
    Blocks(Arc<Blocks>),
    /// The same for candle's kernels, on a GPU.
    Candle(Arc<QTensor>),
}

impl Matrix {
    /// `blocks`, for the kernels of `device`. Types that candle does not have are widened to f32 on a GPU.
    pub(super) fn quantised(blocks: Blocks, device: &Device) -> Result<Self> {
        if device.is_cpu() {
            return Ok(Self::Blocks(Arc::new(blocks)));
        }
        let [rows, columns] = blocks.shape;
        match blocks.kind.candle() {
            Some(dtype) => {
                let tensor = qtensor_from_ggml(dtype, &blocks.bytes, vec![rows, columns], device)?;
                Ok(Self::Candle(Arc::new(tensor)))
            }
            None => Ok(Self::Dense(Tensor::from_vec(blocks.widened(), (rows, columns), device)?)),
        }
    }

    /// As a tensor on the device where it is.
    pub(crate) fn dense(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Blocks(blocks) => Tensor::from_vec(blocks.widened(), &blocks.shape, &Device::Cpu),
            Self::Candle(tensor) => tensor.dequantize(&tensor.device()),
        }
    }

    /// The layer of candle that multiplies by it, if it is quantised on a GPU.
    pub(crate) fn quantised_layer(&self) -> Option<Result<QMatMul>> {
        match self {
            Self::Candle(tensor) => Some(QMatMul::from_arc(tensor.clone())),
            _ => None,
        }
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Self::Blocks(blocks) => blocks.bytes.len(),
            Self::Candle(tensor) => tensor.storage_size_in_bytes(),
        }
    }

    /// The number of its weights.
    pub(crate) fn elements(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.elem_count(),
            Self::Blocks(blocks) => blocks.shape.iter().product(),
            Self::Candle(tensor) => tensor.shape().elem_count(),
        }
    }

    /// Its dtype, such as `bf16` or `q4_k`.
    pub(crate) fn dtype(&self) -> String {
        match self {
            Self::Dense(tensor) => tensor.dtype().as_str().to_owned(),
            Self::Blocks(blocks) => blocks.kind.name(),
            Self::Candle(tensor) => format!("{:?}", tensor.dtype()).to_lowercase(),
        }
    }

    /// The rows with the indices `ids: [n]`, `[n, in]`.
    pub(crate) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Candle(tensor) => tensor.embedding(ids),
            Self::Dense(_) | Self::Blocks(_) => self.dense()?.index_select(ids, 0),
        }
    }
}
