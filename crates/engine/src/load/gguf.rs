//! GGUF files: metadata and tensors, as candle reads them.

use std::cell::RefCell;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use crate::LoadError;
use crate::error::first_line;

/// An open GGUF file.
pub(crate) struct Gguf {
    path: PathBuf,
    content: Content,
    file: RefCell<BufReader<File>>,
}

impl Gguf {
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(read)?);
        let content = Content::read(&mut file)
            .map_err(|e| LoadError::CorruptWeights { path: path.to_owned(), reason: first_line(&e) })?;
        Ok(Self { path: path.to_owned(), content, file: RefCell::new(file) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of model it is; empty if it does not say.
    pub(crate) fn architecture(&self) -> &str {
        let name = self.metadata("general.architecture").and_then(|value| value.to_string().ok());
        name.map(String::as_str).unwrap_or_default()
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// Names and dtypes of the matrices.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (&str, GgmlDType)> {
        let matrices = self.content.tensor_infos.iter().filter(|(_, info)| info.shape.rank() == 2);
        matrices.map(|(name, info)| (name.as_str(), info.ggml_dtype))
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// Sizes of a tensor, rows first.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], LoadError> {
        let info = self.content.tensor_infos.get(name);
        info.map(|i| i.shape.dims()).ok_or_else(|| LoadError::MissingTensor { name: name.to_owned() })
    }

    /// The tensor `name`, as it is stored.
    pub(crate) fn tensor(&self, name: &str, device: &Device) -> Result<QTensor, LoadError> {
        self.shape(name)?;
        let read = self.content.tensor(&mut *self.file.borrow_mut(), name, device);
        read.map_err(|e| LoadError::CorruptWeights { path: self.path.clone(), reason: first_line(&e) })
    }
}

/// `tensor: [heads * head_dim, ..]` with the rows of every head in another order.
///
/// In the files of the `llama` architecture the two values of a rotary pair stand side by side; in the layout of the decoder they
/// are half a head apart. Rows are whole numbers of quantisation blocks, so they move as they are.
pub(crate) fn rotary_halves(tensor: QTensor, heads: usize) -> candle_core::Result<QTensor> {
    let (dims, device) = (tensor.shape().dims().to_vec(), tensor.device());
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

/// Whether it has fewer bits than a number.
pub(crate) fn is_quantised(dtype: GgmlDType) -> bool {
    !matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}
