//! Reading weights, and what is known of a loaded model.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use tandem_decoding::TokenId;

use crate::error::first_line;
use crate::gguf::{Gguf, is_quantised, rotary_halves};
use crate::{DeviceChoice, Kernels, LoadError, Vocabulary, WeightDtype};

/// Called while files are fetched and weights are read: (bytes so far, bytes in all), of what is being done.
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
    /// What the weights are kept as: `f32`, `bf16`, `f16`, or the quantisation that most of them have, like `q4k`.
    pub dtype: String,
    /// Where it runs.
    pub device: DeviceChoice,
}

/// The weight of a linear layer or an embedding, `[out, in]`.
#[derive(Clone)]
pub(crate) enum Matrix {
    Dense(Tensor),
    Quantised(Arc<QTensor>),
}

impl Matrix {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Self::Quantised(tensor) => tensor.storage_size_in_bytes(),
        }
    }

    /// The rows of `ids`.
    pub(crate) fn rows(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.index_select(ids, 0),
            Self::Quantised(tensor) => tensor.embedding(ids),
        }
    }
}

/// The tensors of a checkpoint, or random ones.
pub(crate) struct Weights {
    from: From,
    pub(crate) device: Device,
    /// dtype of activations and caches.
    pub(crate) activations: DType,
    /// dtype of the matrices that are not quantised.
    matrices: DType,
    total: u64,
    read: Cell<u64>,
    parameters: Cell<u64>,
    used: RefCell<BTreeSet<String>>,
    progress: Option<Progress>,
}

enum From {
    Safetensors {
        tensors: MmapedSafetensors,
        path: PathBuf,
    },
    Gguf {
        file: Gguf,
        /// Whether what is quantised stays so.
        keep: bool,
        /// Whether the values of a rotary pair stand side by side.
        paired: bool,
    },
    Random,
}

impl From {
    fn safetensors(paths: &[PathBuf]) -> Result<Self, LoadError> {
        let Some(path) = paths.first() else { return Ok(Self::Random) };
        // SAFETY: the files are mapped; as everywhere in this ecosystem, whoever changes them while they are
        // being loaded breaks the load. They are not looked at afterwards.
        let tensors = unsafe { MmapedSafetensors::multi(paths) };
        let corrupt = |e: candle_core::Error| {
            // The message does not say which of several it was.
            // SAFETY: as above.
            let broken = |path: &&PathBuf| unsafe { MmapedSafetensors::new(path) }.is_err();
            let path = paths.iter().find(broken).unwrap_or(path).clone();
            LoadError::CorruptWeights { path, reason: first_line(&e) }
        };
        Ok(Self::Safetensors { tensors: tensors.map_err(corrupt)?, path: path.clone() })
    }
}

impl Weights {
    /// The tensors of safetensors files, random ones if there are none. `embedding` is the matrix whose dtype is that of all.
    pub(crate) fn safetensors(
        paths: &[PathBuf],
        embedding: &str,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let total = total_bytes(paths)?;
        let from = From::safetensors(paths)?;
        let stored = match &from {
            From::Safetensors { tensors, .. } => tensors
                .get(embedding)
                .ok()
                .and_then(|view| DType::try_from(view.dtype()).ok())
                .ok_or_else(|| LoadError::MissingTensor { name: embedding.to_owned() })?,
            _ => DType::BF16,
        };
        let matrices = options.dtype.resolve(stored);
        Ok(Self::new(from, matrices, total, device, options))
    }

    /// The tensors of a GGUF file. What is quantised stays so, unless a dtype is asked for.
    pub(crate) fn gguf(file: Gguf, device: &Device, options: &LoadOptions) -> Result<Self, LoadError> {
        let total = total_bytes(&[file.path().to_owned()])?;
        let keep = options.dtype == WeightDtype::Auto && file.matrices().any(|(_, d)| is_quantised(d));
        let paired = file.architecture() == "llama";
        let halves = |half: GgmlDType| file.matrices().all(|(_, dtype)| dtype == half);
        let stored = match () {
            () if halves(GgmlDType::F16) => DType::F16,
            () if halves(GgmlDType::BF16) => DType::BF16,
            () => DType::F32,
        };
        let matrices = options.dtype.resolve(stored);
        Ok(Self::new(From::Gguf { file, keep, paired }, matrices, total, device, options))
    }

    fn new(from: From, matrices: DType, total: u64, device: &Device, options: &LoadOptions) -> Self {
        Self {
            from,
            device: device.clone(),
            activations: if device.is_cpu() { DType::F32 } else { matrices },
            matrices,
            total,
            read: Cell::new(0),
            parameters: Cell::new(0),
            used: RefCell::default(),
            progress: options.progress.clone(),
        }
    }

    /// The vector `name` of `len` values, in the dtype of activations. `heads`: as for [`Self::matrix`].
    pub(crate) fn vector(&self, name: &str, len: usize, heads: Option<usize>) -> Result<Tensor, LoadError> {
        match self.get(name, &[len], heads, self.activations)? {
            Matrix::Dense(tensor) => Ok(tensor),
            Matrix::Quantised(tensor) => Ok(tensor.dequantize(&self.device)?.to_dtype(self.activations)?),
        }
    }

    /// The matrix `name` of exactly `shape`. `heads`: how many its outputs are, if they are to be rotated.
    pub(crate) fn matrix(
        &self,
        name: &str,
        shape: [usize; 2],
        heads: Option<usize>,
    ) -> Result<Matrix, LoadError> {
        self.get(name, &shape, heads, self.matrices)
    }

    /// Whether matrices stay quantised.
    pub(crate) fn quantised(&self) -> bool {
        matches!(self.from, From::Gguf { keep: true, .. })
    }

    /// What the matrices are kept as, in a word.
    pub(crate) fn dtype(&self) -> String {
        let From::Gguf { file, keep: true, .. } = &self.from else {
            return self.matrices.as_str().to_owned();
        };
        let mut counts = BTreeMap::<String, usize>::new();
        for (_, dtype) in file.matrices() {
            *counts.entry(format!("{dtype:?}").to_lowercase()).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name).unwrap_or_default()
    }

    /// Numbers in all tensors that were asked for.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters.get()
    }

    /// Tensors that nobody asked for, though they may change what the model computes.
    pub(crate) fn unused(&self) -> Vec<String> {
        let names: Vec<String> = match &self.from {
            From::Safetensors { tensors, .. } => {
                tensors.tensors().into_iter().map(|(name, _)| name).collect()
            }
            From::Gguf { file, .. } => file.names().map(str::to_owned).collect(),
            From::Random => Vec::new(),
        };
        // Tied heads are stored twice now and then; frequencies follow from the configuration.
        let harmless = |name: &str| {
            name == "lm_head.weight" || name.ends_with("inv_freq") || name == "rope_freqs.weight"
        };
        let used = self.used.borrow();
        names.into_iter().filter(|name| !used.contains(name) && !harmless(name)).collect()
    }

    fn get(
        &self,
        name: &str,
        shape: &[usize],
        heads: Option<usize>,
        dtype: DType,
    ) -> Result<Matrix, LoadError> {
        self.parameters.set(self.parameters.get() + shape.iter().product::<usize>() as u64);
        self.used.borrow_mut().insert(name.to_owned());
        let dense = |tensor: Tensor| Ok(Matrix::Dense(tensor.to_dtype(dtype)?.to_device(&self.device)?));
        match &self.from {
            From::Random => dense(random(name, shape, &self.device)?),
            From::Safetensors { tensors, path } => dense(self.stored(tensors, path, name, shape)?),
            From::Gguf { file, keep, paired } => {
                check_shape(name, shape, file.shape(name)?)?;
                let mut tensor = file.tensor(name, &self.device)?;
                self.advance(tensor.storage_size_in_bytes());
                if let Some(heads) = heads.filter(|_| *paired) {
                    tensor = rotary_halves(tensor, heads)?;
                }
                match shape.len() == 2 && *keep && is_quantised(tensor.dtype()) {
                    true => Ok(Matrix::Quantised(Arc::new(tensor))),
                    false => dense(tensor.dequantize(&self.device)?),
                }
            }
        }
    }

    /// A tensor of safetensors files.
    fn stored(
        &self,
        tensors: &MmapedSafetensors,
        path: &Path,
        name: &str,
        shape: &[usize],
    ) -> Result<Tensor, LoadError> {
        use safetensors::Dtype::{BF16, F16, F32, F64};
        let view = tensors.get(name).map_err(|_| LoadError::MissingTensor { name: name.to_owned() })?;
        if !matches!(view.dtype(), F16 | BF16 | F32 | F64) {
            let what = format!(
                "tensor {name} is {:?}: only f16, bf16, f32 and f64 weights are supported",
                view.dtype()
            );
            return Err(LoadError::Unsupported { path: path.to_owned(), what });
        }
        check_shape(name, shape, view.shape())?;
        self.advance(view.data().len());
        let corrupt = |e: candle_core::Error| LoadError::CorruptWeights {
            path: path.to_owned(),
            reason: first_line(&e),
        };
        tensors.load(name, &Device::Cpu).map_err(corrupt)
    }

    fn advance(&self, bytes: usize) {
        self.read.set(self.read.get() + bytes as u64);
        if let Some(progress) = &self.progress {
            progress(self.read.get(), self.total);
        }
    }
}

fn total_bytes(paths: &[PathBuf]) -> Result<u64, LoadError> {
    let mut total = 0;
    for path in paths {
        let read = |source| LoadError::Read { path: path.clone(), source };
        total += std::fs::metadata(path).map_err(read)?.len();
    }
    Ok(total)
}

fn check_shape(name: &str, expected: &[usize], found: &[usize]) -> Result<(), LoadError> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_vec(), found.to_vec());
    Err(LoadError::WrongShape { name: name.to_owned(), expected, found })
}

/// Vectors are weights of normalisations, which stay near 1, or biases, which stay near 0.
fn random(name: &str, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    match shape.len() {
        1 if name.ends_with(".bias") => Tensor::zeros(shape, DType::F32, device),
        1 => Tensor::ones(shape, DType::F32, device),
        _ => Tensor::randn(0f32, 0.02, shape, device),
    }
}
