//! GGUF files: their metadata and tensors.

mod header;

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use self::header::{Header, HeaderError, TensorInfo};
pub(super) use self::header::{TensorType, Value};
use super::error::LoadError;
use crate::blocks::Blocks;

/// An open GGUF file.
pub(crate) struct Gguf {
    path: PathBuf,
    header: Header,
    file: RefCell<File>,
}

/// A tensor in the form in which it is stored.
pub(super) enum GgufTensor {
    Dense(Tensor),
    Quantised(Blocks),
}

impl Gguf {
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let read = |source| LoadError::read(path, source);
        let file = File::open(path).map_err(read)?;
        let len = file.metadata().map_err(read)?.len();
        let header = Header::read(BufReader::new(&file), len).map_err(|error| match error {
            HeaderError::Io(error) => LoadError::corrupt(path, &error),
            HeaderError::Invalid(what) => LoadError::corrupt(path, &what),
            HeaderError::Unsupported(what) => LoadError::unsupported(path, what),
        })?;
        Ok(Self { path: path.to_owned(), header, file: RefCell::new(file) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The architecture of the model; empty if the file does not state it.
    pub(crate) fn architecture(&self) -> &str {
        self.metadata("general.architecture").and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// The types of the matrices.
    pub(crate) fn matrix_types(&self) -> impl Iterator<Item = TensorType> {
        self.header.tensors.values().filter(|info| info.shape.len() == 2).map(|info| info.kind)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.header.tensors.contains_key(name)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, LoadError> {
        let info = self.header.tensors.get(name);
        info.ok_or_else(|| LoadError::MissingTensor { name: name.to_owned() })
    }

    /// The shape of a tensor, `[rows, columns]` for a matrix.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], LoadError> {
        Ok(&self.info(name)?.shape)
    }

    /// Bytes of a tensor in the file.
    pub(super) fn bytes(&self, name: &str) -> Result<usize, LoadError> {
        Ok(self.info(name)?.bytes)
    }

    /// The tensor `name`. With `rotary_heads`, the rows within each head are reordered: files of the `llama`
    /// architecture store the two values of a rotary pair next to each other; the decoder expects them half a
    /// head apart. Rows are whole numbers of blocks, so they move as they are.
    pub(super) fn tensor(&self, name: &str, rotary_heads: Option<usize>) -> Result<GgufTensor, LoadError> {
        let info = self.info(name)?;
        let mut bytes = self.read(info)?;
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

    fn read(&self, info: &TensorInfo) -> Result<Vec<u8>, LoadError> {
        let mut file = self.file.borrow_mut();
        // `info.bytes` was checked against the length of the file.
        let mut bytes = vec![0; info.bytes];
        file.seek(SeekFrom::Start(info.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| LoadError::corrupt(&self.path, &error))?;
        Ok(bytes)
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
