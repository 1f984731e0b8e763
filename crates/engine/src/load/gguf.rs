//! GGUF files: their metadata and tensors.

mod header;
mod part;
mod split;
mod tensor_type;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use self::header::TensorInfo;
pub(super) use self::header::Value;
use self::part::Part;
pub(super) use self::tensor_type::TensorType;
use super::error::LoadError;
use crate::blocks::Blocks;

/// An open GGUF file, or all files of a model that was split.
pub(crate) struct Gguf {
    /// The file with the metadata.
    first: Part,
    others: Vec<Part>,
}

/// A tensor in the form in which it is stored.
pub(super) enum GgufTensor {
    Dense(Tensor),
    Quantised(Blocks),
}

impl Gguf {
    /// Opens the file at `path` and, if it is the first part of a model, all other parts.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let first = Part::open(path)?;
        let others = split::open_others(&first)?;
        Ok(Self { first, others })
    }

    /// The file with the metadata.
    pub(crate) fn path(&self) -> &Path {
        &self.first.path
    }

    /// All files of the model.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts().map(|part| part.path.as_path())
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The architecture of the model; empty if the file does not state it.
    pub(crate) fn architecture(&self) -> &str {
        self.metadata("general.architecture").and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&Value> {
        self.first.header.metadata.get(key)
    }

    /// The types of the matrices.
    pub(crate) fn matrix_types(&self) -> impl Iterator<Item = TensorType> {
        let tensors = self.parts().flat_map(|part| part.header.tensors.values());
        tensors.filter(|info| info.shape.len() == 2).map(|info| info.kind)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts().flat_map(|part| part.header.tensors.keys().map(String::as_str))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.parts().any(|part| part.header.tensors.contains_key(name))
    }

    /// The tensor `name`, and the file that it is in.
    fn find(&self, name: &str) -> Result<(&Part, &TensorInfo), LoadError> {
        let found = self.parts().find_map(|part| Some((part, part.header.tensors.get(name)?)));
        found.ok_or_else(|| LoadError::MissingTensor { name: name.to_owned() })
    }

    /// The shape of a tensor, `[rows, columns]` for a matrix.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], LoadError> {
        Ok(&self.find(name)?.1.shape)
    }

    /// Bytes of a tensor in the file.
    pub(super) fn bytes(&self, name: &str) -> Result<usize, LoadError> {
        Ok(self.find(name)?.1.bytes)
    }

    /// The tensor `name`. With `rotary_heads`, the rows within each head are reordered: files of the `llama`
    /// architecture store the two values of a rotary pair next to each other; the decoder expects them half a
    /// head apart. Rows are whole numbers of blocks, so they move as they are.
    pub(super) fn tensor(&self, name: &str, rotary_heads: Option<usize>) -> Result<GgufTensor, LoadError> {
        let (part, info) = self.find(name)?;
        let mut bytes = part.read(info)?;
        if let Some(heads) = rotary_heads {
            bytes = rotary_halves(&bytes, info.shape.first().copied().unwrap_or(0), heads);
        }
        let shape = info.shape.as_slice();
        Ok(match (info.kind, shape) {
            (TensorType::Blocks(kind), &[rows, columns]) => {
                GgufTensor::Quantised(Blocks { kind, shape: [rows, columns], bytes })
            }
            (TensorType::Blocks(kind), _) => {
                let columns = shape.last().copied().unwrap_or(1);
                let rows = shape.iter().product::<usize>() / columns.max(1);
                let values = Blocks { kind, shape: [rows, columns], bytes }.widened();
                GgufTensor::Dense(Tensor::from_vec(values, shape, &Device::Cpu)?)
            }
            (TensorType::F32, _) => dense(&bytes, shape, f32::from_le_bytes)?,
            (TensorType::F16, _) => dense(&bytes, shape, f16::from_le_bytes)?,
            (TensorType::BF16, _) => dense(&bytes, shape, bf16::from_le_bytes)?,
        })
    }

    /// The values of the tensor `name` as f32.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        Ok(match self.tensor(name, None)? {
            GgufTensor::Quantised(blocks) => blocks.widened(),
            GgufTensor::Dense(tensor) => tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
        })
    }
}

fn dense<T: candle_core::WithDType, const N: usize>(
    bytes: &[u8],
    shape: &[usize],
    value: impl Fn([u8; N]) -> T,
) -> Result<GgufTensor, LoadError> {
    let (values, _) = bytes.as_chunks::<N>();
    let values: Vec<T> = values.iter().map(|&bytes| value(bytes)).collect();
    Ok(GgufTensor::Dense(Tensor::from_vec(values, shape, &Device::Cpu)?))
}

/// Moves the even rows of each head before the odd ones.
fn rotary_halves(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let row = bytes.len() / rows.max(1);
    let head = row * (rows / heads.max(1));
    let mut moved = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head.max(1)) {
        for part in [0, 1] {
            for pair in head.chunks_exact((row * 2).max(1)) {
                moved.extend_from_slice(&pair[part * row..][..row]);
            }
        }
    }
    moved
}
