//! Reading weights, and what is known of a loaded model.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use tandem_decoding::TokenId;

use crate::{DeviceChoice, Kernels, LoadError, ModelFiles, Vocabulary, WeightDtype};

/// Called while weights are read: (bytes read, bytes in all).
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// How to load a model.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// What its weights are kept as.
    pub dtype: WeightDtype,
    /// CPU kernels.
    pub kernels: Kernels,
    /// Told of each tensor read.
    pub progress: Option<Progress>,
}

/// What is known of a loaded model.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// The name it was loaded by.
    pub id: String,
    /// Rows of its embedding.
    pub vocab_size: usize,
    /// Tokens that a text may have.
    pub context_length: usize,
    /// Tokens that end a text.
    pub eos: Vec<TokenId>,
    /// `None` for random weights.
    pub vocabulary: Option<Vocabulary>,
    /// Weights, a shared head counted once.
    pub parameters: u64,
    /// Bytes of weights that one pass reads.
    pub weight_bytes: u64,
    /// Bytes of KV cache that a token takes.
    pub kv_bytes_per_token: u64,
    /// What the weights are kept as.
    pub dtype: DType,
    /// Where it runs.
    pub device: DeviceChoice,
}

/// The tensors of a checkpoint, or random ones.
pub(crate) struct Weights {
    from: From,
    pub(crate) device: Device,
    dtype: WeightDtype,
    total: u64,
    read: Cell<u64>,
    progress: Option<Progress>,
}

enum From {
    Files { tensors: MmapedSafetensors, path: PathBuf },
    Random,
}

impl Weights {
    pub(crate) fn open(
        files: &ModelFiles,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let mut total = 0;
        for path in &files.weights {
            let read = |source| LoadError::Read { path: path.clone(), source };
            total += std::fs::metadata(path).map_err(read)?.len();
        }
        let from = match files.weights.first() {
            None => From::Random,
            Some(path) => {
                // SAFETY: the files are mapped; as everywhere in this ecosystem, whoever changes them while they are
                // being loaded breaks the load. They are not looked at afterwards.
                let tensors = unsafe { MmapedSafetensors::multi(&files.weights) };
                let corrupt = |e: candle_core::Error| {
                    // The message does not say which of several it was.
                    // SAFETY: as above.
                    let broken = |path: &&PathBuf| unsafe { MmapedSafetensors::new(path) }.is_err();
                    let path = files.weights.iter().find(broken).unwrap_or(path).clone();
                    LoadError::CorruptWeights { path, reason: root_cause(&e) }
                };
                From::Files { tensors: tensors.map_err(corrupt)?, path: path.clone() }
            }
        };
        Ok(Self {
            from,
            device: device.clone(),
            dtype: options.dtype,
            total,
            read: Cell::new(0),
            progress: options.progress.clone(),
        })
    }

    /// The dtype of the model's matrices, from one of them.
    pub(crate) fn dtype_of(&self, name: &str) -> Result<DType, LoadError> {
        let stored = match &self.from {
            From::Random => DType::BF16,
            From::Files { tensors, .. } => tensors
                .get(name)
                .ok()
                .and_then(|view| DType::try_from(view.dtype()).ok())
                .ok_or_else(|| LoadError::MissingTensor { name: name.to_owned() })?,
        };
        Ok(self.dtype.resolve(stored))
    }

    /// The tensor `name` of exactly `shape`, as `dtype`, on the model's device.
    pub(crate) fn get(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        let (tensors, path) = match &self.from {
            From::Files { tensors, path } => (tensors, path),
            // Vectors are normalisation weights, which stay near 1.
            From::Random if shape.len() == 1 => return Ok(Tensor::ones(shape, dtype, &self.device)?),
            From::Random => {
                return Ok(Tensor::randn(0f32, 0.02, shape, &self.device)?.to_dtype(dtype)?);
            }
        };
        let view = tensors.get(name).map_err(|_| LoadError::MissingTensor { name: name.to_owned() })?;
        use safetensors::Dtype::{BF16, F16, F32, F64};
        if !matches!(view.dtype(), F16 | BF16 | F32 | F64) {
            let what = format!(
                "tensor {name} is {:?}: only f16, bf16, f32 and f64 weights are supported",
                view.dtype()
            );
            return Err(LoadError::Unsupported { path: path.clone(), what });
        }
        if view.shape() != shape {
            return Err(LoadError::WrongShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        self.read.set(self.read.get() + view.data().len() as u64);
        if let Some(progress) = &self.progress {
            progress(self.read.get(), self.total);
        }
        let corrupt =
            |e: candle_core::Error| LoadError::CorruptWeights { path: path.clone(), reason: root_cause(&e) };
        let tensor = tensors.load(name, &Device::Cpu).map_err(corrupt)?;
        Ok(tensor.to_dtype(dtype)?.to_device(&self.device)?)
    }
}

/// candle attaches backtraces to its messages; a person wants the first line.
fn root_cause(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
