//! GGUF files: their metadata and tensors, as candle reads them.

use std::cell::RefCell;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::error::LoadError;

/// An open GGUF file.
pub(crate) struct Gguf {
    path: PathBuf,
    content: Content,
    file: RefCell<BufReader<File>>,
}

impl Gguf {
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let file = File::open(path).map_err(|source| LoadError::read(path, source))?;
        let mut file = BufReader::new(file);
        let content = Content::read(&mut file).map_err(|error| LoadError::corrupt(path, &error))?;
        Ok(Self { path: path.to_owned(), content, file: RefCell::new(file) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The architecture of the model; empty if the file does not state it.
    pub(crate) fn architecture(&self) -> &str {
        let name = self.metadata("general.architecture").and_then(|value| value.to_string().ok());
        name.map(String::as_str).unwrap_or_default()
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// The dtypes of the matrices.
    pub(crate) fn matrix_dtypes(&self) -> impl Iterator<Item = GgmlDType> {
        let matrices = self.content.tensor_infos.values().filter(|info| info.shape.rank() == 2);
        matrices.map(|info| info.ggml_dtype)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// The shape of a tensor, `[rows, columns]` for a matrix.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], LoadError> {
        match self.content.tensor_infos.get(name) {
            Some(info) => Ok(info.shape.dims()),
            None => Err(LoadError::MissingTensor { name: name.to_owned() }),
        }
    }

    /// The tensor `name` in the form in which it is stored.
    pub(crate) fn tensor(&self, name: &str, device: &Device) -> Result<QTensor, LoadError> {
        self.shape(name)?;
        let read = self.content.tensor(&mut *self.file.borrow_mut(), name, device);
        read.map_err(|error| LoadError::corrupt(&self.path, &error))
    }
}

/// Reorders the rows within each head of `tensor: [heads * head_dim, ..]`.
///
/// Files of the `llama` architecture store the two values of a rotary pair next to each other; the decoder
/// expects them half a head apart. Rows are whole numbers of quantisation blocks, so they move as they are.
pub(super) fn rotary_halves(tensor: QTensor, heads: usize) -> candle_core::Result<QTensor> {
    let device = tensor.device();
    let dims = tensor.shape().dims().to_vec();
    let rows = dims.first().copied().unwrap_or(0);
    let half = rows / heads / 2;
    let data = tensor.data()?;
    let row = data.len() / rows.max(1);
    let mut moved = Vec::with_capacity(data.len());
    for head in data.chunks_exact(row * 2 * half) {
        for part in [0, 1] {
            for pair in head.chunks_exact(row * 2) {
                moved.extend_from_slice(&pair[part * row..][..row]);
            }
        }
    }
    qtensor_from_ggml(tensor.dtype(), &moved, dims, &device)
}

/// Whether values of this dtype are stored in quantised blocks.
pub(super) fn is_quantised(dtype: GgmlDType) -> bool {
    !matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}
