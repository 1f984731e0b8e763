//! The tensors of a checkpoint.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};

use super::device::WeightDtype;
use super::error::LoadError;
use super::gguf::{Gguf, GgufTensor, TensorType};
use super::matrix::Matrix;
use super::options::{LoadOptions, Progress};
use super::pages::release_mapped;

/// The tensors of a checkpoint, or random ones.
pub(crate) struct Weights {
    source: TensorSource,
    device: Device,
    /// The dtype of activations and caches.
    activations: DType,
    /// The dtype of the matrices that are not quantised.
    matrices: DType,
    /// Bytes of all files.
    total: u64,
    /// Bytes of the tensors that were read so far.
    read: Cell<u64>,
    parameters: Cell<u64>,
    used: RefCell<BTreeSet<String>>,
    progress: Option<Progress>,
}

enum TensorSource {
    Safetensors {
        tensors: MmapedSafetensors,
        path: PathBuf,
    },
    Gguf {
        file: Gguf,
        /// Whether quantised matrices stay quantised.
        keep_quantised: bool,
        /// Whether the two values of a rotary pair are next to each other.
        interleaved: bool,
    },
    Random,
}

impl TensorSource {
    fn safetensors(paths: &[PathBuf]) -> Result<Self, LoadError> {
        let Some(first) = paths.first() else { return Ok(Self::Random) };
        // SAFETY: the files are memory-mapped; a process that changes them during the load breaks the load,
        // as with every other program that maps safetensors. They are not read afterwards.
        let tensors = unsafe { MmapedSafetensors::multi(paths) };
        let tensors = tensors.map_err(|error| {
            // The message does not name the file.
            // SAFETY: as above.
            let broken = paths.iter().find(|path| unsafe { MmapedSafetensors::new(path) }.is_err());
            LoadError::corrupt(broken.unwrap_or(first), &error)
        })?;
        Ok(Self::Safetensors { tensors, path: first.clone() })
    }
}

impl Weights {
    /// The tensors of safetensors files; random ones if there are no files. With [`WeightDtype::Auto`], all
    /// matrices get the dtype of the tensor `embedding`.
    pub(crate) fn safetensors(
        paths: &[PathBuf],
        embedding: &str,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let total = total_bytes(paths)?;
        let source = TensorSource::safetensors(paths)?;
        let stored = match &source {
            TensorSource::Safetensors { tensors, .. } => tensors
                .get(embedding)
                .ok()
                .and_then(|view| DType::try_from(view.dtype()).ok())
                .ok_or_else(|| LoadError::MissingTensor { name: embedding.to_owned() })?,
            _ => DType::BF16,
        };
        let matrices = options.dtype.resolve(stored);
        Ok(Self::new(source, matrices, total, device, options))
    }

    /// The tensors of a GGUF file. Quantised matrices stay quantised with [`WeightDtype::Auto`], and are
    /// widened with any other dtype.
    pub(crate) fn gguf(file: Gguf, device: &Device, options: &LoadOptions) -> Result<Self, LoadError> {
        let paths: Vec<PathBuf> = file.paths().map(Path::to_owned).collect();
        let total = total_bytes(&paths)?;
        let stored = if file.matrix_types().all(|kind| kind == TensorType::F16) {
            DType::F16
        } else if file.matrix_types().all(|kind| kind == TensorType::BF16) {
            DType::BF16
        } else {
            DType::F32
        };
        let quantised = file.matrix_types().any(|kind| matches!(kind, TensorType::Blocks(_)));
        let matrices = options.dtype.resolve(stored);
        let source = TensorSource::Gguf {
            keep_quantised: options.dtype == WeightDtype::Auto && quantised,
            interleaved: file.architecture() == "llama",
            file,
        };
        Ok(Self::new(source, matrices, total, device, options))
    }

    fn new(
        source: TensorSource,
        matrices: DType,
        total: u64,
        device: &Device,
        options: &LoadOptions,
    ) -> Self {
        Self {
            source,
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

    /// The dtype of activations and caches.
    pub(crate) fn activations(&self) -> DType {
        self.activations
    }

    /// The vector `name` of `len` values, in the dtype of the activations. `rotary_heads`: see
    /// [`Self::matrix`].
    pub(crate) fn vector(
        &self,
        name: &str,
        len: usize,
        rotary_heads: Option<usize>,
    ) -> Result<Tensor, LoadError> {
        Ok(self.get(name, &[len], rotary_heads, self.activations)?.dense()?)
    }

    /// The matrix `name` of exactly `shape`. `rotary_heads`: the number of heads that its outputs are, if
    /// they will be rotated.
    pub(crate) fn matrix(
        &self,
        name: &str,
        shape: [usize; 2],
        rotary_heads: Option<usize>,
    ) -> Result<Matrix, LoadError> {
        self.get(name, &shape, rotary_heads, self.matrices)
    }

    /// The dtype of the matrices; of several quantised ones, the most frequent.
    pub(crate) fn dtype(&self) -> String {
        let TensorSource::Gguf { file, keep_quantised: true, .. } = &self.source else {
            return self.matrices.as_str().to_owned();
        };
        let mut counts = BTreeMap::<String, usize>::new();
        for kind in file.matrix_types() {
            let name = match kind {
                TensorType::Blocks(kind) => kind.name(),
                other => format!("{other:?}").to_lowercase(),
            };
            *counts.entry(name).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name).unwrap_or_default()
    }

    /// The number of values in all tensors that were requested.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters.get()
    }

    /// The tensors of the checkpoint that were not requested, though they may change what the model computes.
    pub(crate) fn unused(&self) -> Vec<String> {
        let names: Vec<String> = match &self.source {
            TensorSource::Safetensors { tensors, .. } => {
                tensors.tensors().into_iter().map(|(name, _)| name).collect()
            }
            TensorSource::Gguf { file, .. } => file.names().map(str::to_owned).collect(),
            TensorSource::Random => Vec::new(),
        };
        let used = self.used.borrow();
        names.into_iter().filter(|name| !used.contains(name) && !is_redundant(name)).collect()
    }

    fn get(
        &self,
        name: &str,
        shape: &[usize],
        rotary_heads: Option<usize>,
        dtype: DType,
    ) -> Result<Matrix, LoadError> {
        self.parameters.set(self.parameters.get() + shape.iter().product::<usize>() as u64);
        self.used.borrow_mut().insert(name.to_owned());
        let tensor = match &self.source {
            TensorSource::Random => random(name, shape, &self.device)?,
            TensorSource::Safetensors { tensors, path } => {
                self.read_safetensor(tensors, path, name, shape)?
            }
            TensorSource::Gguf { file, keep_quantised, interleaved } => {
                check_shape(name, shape, file.shape(name)?)?;
                self.advance(file.bytes(name)?);
                match file.tensor(name, rotary_heads.filter(|_| *interleaved))? {
                    GgufTensor::Quantised(blocks) if *keep_quantised => {
                        return Ok(Matrix::quantised(blocks, &self.device)?);
                    }
                    GgufTensor::Quantised(blocks) => Tensor::from_vec(blocks.widened(), shape, &Device::Cpu)?,
                    GgufTensor::Dense(tensor) => tensor,
                }
            }
        };
        Ok(Matrix::Dense(tensor.to_dtype(dtype)?.to_device(&self.device)?))
    }

    fn read_safetensor(
        &self,
        tensors: &MmapedSafetensors,
        path: &Path,
        name: &str,
        shape: &[usize],
    ) -> Result<Tensor, LoadError> {
        use safetensors::Dtype::{BF16, F16, F32, F64};
        let view = tensors.get(name).map_err(|_| LoadError::MissingTensor { name: name.to_owned() })?;
        if !matches!(view.dtype(), F16 | BF16 | F32 | F64) {
            let stored = view.dtype();
            let what = format!("tensor {name} is {stored:?}: only f16, bf16, f32 and f64 are supported");
            return Err(LoadError::unsupported(path, what));
        }
        check_shape(name, shape, view.shape())?;
        self.advance(view.data().len());
        let tensor = tensors.load(name, &Device::Cpu).map_err(|error| LoadError::corrupt(path, &error));
        release_mapped(view.data());
        tensor
    }

    fn advance(&self, bytes: usize) {
        self.read.set(self.read.get() + bytes as u64);
        if let Some(progress) = &self.progress {
            progress(self.read.get(), self.total);
        }
    }
}

/// Whether a tensor repeats what is known: some checkpoints store a tied head twice, and rotary frequencies
/// follow from the configuration.
fn is_redundant(name: &str) -> bool {
    name == "lm_head.weight" || name.ends_with("inv_freq") || name == "rope_freqs.weight"
}

fn total_bytes(paths: &[PathBuf]) -> Result<u64, LoadError> {
    let mut total = 0;
    for path in paths {
        total += std::fs::metadata(path).map_err(|source| LoadError::read(path, source))?.len();
    }
    Ok(total)
}

fn check_shape(name: &str, expected: &[usize], found: &[usize]) -> Result<(), LoadError> {
    if expected == found {
        return Ok(());
    }
    Err(LoadError::WrongShape { name: name.to_owned(), expected: expected.to_vec(), found: found.to_vec() })
}

/// Random weights. Vectors are weights of normalisations, which stay near 1, or biases, which stay near 0.
fn random(name: &str, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    match shape.len() {
        1 if name.ends_with(".bias") => Tensor::zeros(shape, DType::F32, device),
        1 => Tensor::ones(shape, DType::F32, device),
        _ => Tensor::randn(0f32, 0.02, shape, device),
    }
}
