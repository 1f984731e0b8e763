//! The configuration of an engine, and how to start one.

use crate::cpu::{InstructionSet, KvDtype};
use crate::load::{DeviceChoice, Kernels, LoadError, LoadOptions, ModelSource, Progress, WeightDtype};
use crate::model::{Backend, Decoder, ModelSpec};
use crate::runtime::{BatchPolicy, KvBudget, Loaded, ModelThread, free_bytes};

/// Passes may take the free memory divided by this, if that is enough for `LEAST_PASS_ROWS`.
const PASS_SHARE: u64 = 10;
/// A pass over so many rows behind a full context is possible in any case: a tree of moderate size.
const LEAST_PASS_ROWS: usize = 64;

/// Which model to run, and with which resources.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// The model: a directory, a file or a hub id, see [`ModelSource::parse`].
    pub model_id: String,
    /// Branch, tag or commit of a hub model; `None`: `main`.
    pub revision: Option<String>,
    /// The device that it runs on.
    pub device: DeviceChoice,
    /// The dtype that its weights are kept in.
    pub dtype: WeightDtype,
    /// The kernels that it uses on a CPU.
    pub kernels: Kernels,
    /// The instruction set that it uses on a CPU; `None`: the best of this machine.
    pub isa: Option<InstructionSet>,
    /// Size of the KV caches of all sessions together.
    pub kv_cache: KvCacheSize,
    /// The dtype of keys and values; `None`: that of the activations, f32 on a CPU.
    pub kv_dtype: Option<KvDtype>,
    /// Processors that it may use; `None`: all.
    pub threads: Option<usize>,
}

/// Size of the KV caches of all sessions together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KvCacheSize {
    /// A number of tokens.
    Tokens(usize),
    /// A fraction, above 0 and at most 1, of the memory that is free on the device after the warm-up.
    Fraction(f64),
}

impl KvCacheSize {
    /// The fraction used by default: draft and target may share a device, and other programs need memory too.
    pub const DEFAULT_FRACTION: f64 = 0.4;

    fn check(self) -> Result<(), LoadError> {
        match self {
            Self::Tokens(0) => {
                Err(LoadError::KvCache("0 tokens are not enough: it must hold at least 1".into()))
            }
            Self::Fraction(fraction) if !(fraction > 0.0 && fraction <= 1.0) => {
                Err(LoadError::KvCache(format!(
                    "a fraction of {fraction} of the free memory is not valid: it must be above 0 and at most 1"
                )))
            }
            Self::Tokens(_) | Self::Fraction(_) => Ok(()),
        }
    }

    /// The number of tokens for `model`, which was warmed up. `reserved` bytes of the free memory are for
    /// passes.
    fn tokens(self, model: &Decoder, reserved: usize) -> Result<usize, LoadError> {
        let fraction = match self {
            Self::Tokens(tokens) => return Ok(tokens),
            Self::Fraction(fraction) => fraction,
        };
        let spec = model.spec();
        let free = free_bytes(model.device()).ok_or_else(|| {
            LoadError::KvCache(format!(
                "{} does not report its free memory: set the number of tokens (--kv-cache-tokens)",
                spec.device
            ))
        })?;
        let free = free.saturating_sub(reserved as u64);
        let tokens = (free as f64 * fraction) as u64 / spec.kv_bytes_per_token.max(1);
        if tokens == 0 {
            return Err(LoadError::KvCache(format!(
                "a fraction of {fraction} of the {} MiB that are free, {} MiB for passes aside, does not hold a single token: free memory, or \
                 set a larger fraction (--kv-cache-fraction)",
                free >> 20,
                reserved >> 20
            )));
        }
        Ok(usize::try_from(tokens).unwrap_or(usize::MAX))
    }
}

impl Default for KvCacheSize {
    fn default() -> Self {
        Self::Fraction(Self::DEFAULT_FRACTION)
    }
}

impl EngineConfig {
    /// The defaults for the model `model_id`.
    pub fn new(model_id: impl Into<String>) -> Self {
        Self {
            model_id: model_id.into(),
            revision: None,
            device: DeviceChoice::default(),
            dtype: WeightDtype::default(),
            kernels: Kernels::default(),
            isa: None,
            kv_cache: KvCacheSize::default(),
            kv_dtype: None,
            threads: None,
        }
    }

    /// Loads the model onto a thread of its own, and waits until it is ready.
    ///
    /// # Errors
    /// If a value is not valid, or the model cannot be loaded.
    pub async fn start(&self, progress: Option<Progress>) -> Result<ModelThread, LoadError> {
        let source = ModelSource::parse(&self.model_id, self.revision.as_deref())?;
        self.kv_cache.check()?;
        let config = self.clone();
        ModelThread::start(move || config.load(&source, progress)).await
    }

    /// Loads the model onto this thread.
    fn load(&self, source: &ModelSource, progress: Option<Progress>) -> Result<Loaded<Decoder>, LoadError> {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        Decoder::use_threads(self.threads.unwrap_or_else(available));
        if let Some(isa) = self.isa {
            Decoder::use_instruction_set(isa);
        }
        let options = LoadOptions { device: self.device, dtype: self.dtype, kernels: self.kernels, progress };
        let mut backend = Decoder::load(source, &options)?;
        if let Some(dtype) = self.kv_dtype {
            backend = backend.with_kv_dtype(dtype);
        }
        let spec = backend.spec().clone();
        let policy = BatchPolicy::measure(&backend, &spec).map_err(|e| LoadError::WarmUp(e.to_string()))?;
        // After the warm-up, which allocates the memory that passes need.
        let pass_bytes = pass_bytes(&backend);
        let tokens = self.kv_cache.tokens(&backend, pass_bytes + backend.output_bytes())?;
        log_kv_cache(tokens, &backend, &spec);
        Ok(Loaded { backend, spec, budget: KvBudget::new(tokens), policy, pass_bytes })
    }
}

/// Bytes that a pass may take besides weights and KV caches.
fn pass_bytes(model: &Decoder) -> usize {
    let least = model.pass_bytes(LEAST_PASS_ROWS, model.spec().context_length);
    let free = free_bytes(model.device()).unwrap_or(0);
    let bytes = least.max(usize::try_from(free / PASS_SHARE).unwrap_or(usize::MAX));
    tracing::info!(mebibytes = bytes >> 20, "memory for a pass");
    bytes
}

fn log_kv_cache(tokens: usize, model: &Decoder, spec: &ModelSpec) {
    if tokens < spec.context_length {
        tracing::warn!(
            tokens,
            context = spec.context_length,
            "the KV cache is smaller than the context of the model: longer sequences are refused; \
             see --kv-cache-tokens and --kv-cache-fraction"
        );
    }
    tracing::info!(
        tokens,
        mebibytes = (tokens as u64 * spec.kv_bytes_per_token) >> 20,
        free_mebibytes = free_bytes(model.device()).map(|bytes| bytes >> 20),
        "KV cache"
    );
}
