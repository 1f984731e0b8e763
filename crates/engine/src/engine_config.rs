use clap::Args;

use crate::{
    Decoder, DeviceChoice, Kernels, KvBudget, LoadError, LoadOptions, Loaded, ModelSource, ModelThread, Pace,
    Progress, WeightDtype,
};

/// Draft and target may share a device, and other things need memory too.
const KV_CACHE_FRACTION: f64 = 0.4;

/// Which model a service owns, and with what.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model: a directory in HF layout, a .gguf file, a config.json (random weights, for timing), or a hub id
    #[arg(long = "model", env = "MODEL_ID", value_name = "DIR|FILE|ID")]
    pub model_id: String,

    /// Branch, tag or commit of a hub model [default: main]
    #[arg(long, env = "REVISION")]
    pub revision: Option<String>,

    /// Device: cpu or cuda:N
    #[arg(long, env = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,

    /// Dtype of the weights: auto (as in the checkpoint, quantised ones too), f32, bf16 or f16
    #[arg(long, env = "DTYPE", default_value = "auto")]
    pub dtype: WeightDtype,

    /// Tokens that the KV caches of all sessions may hold together [default: what --kv-cache-fraction gives]
    #[arg(long, env = "KV_CACHE_TOKENS", value_name = "TOKENS")]
    pub kv_cache_tokens: Option<usize>,

    /// Part of the memory that is free on the device after warm-up that KV caches may take
    #[arg(long, env = "KV_CACHE_FRACTION", default_value_t = KV_CACHE_FRACTION, value_name = "0..1")]
    pub kv_cache_fraction: f64,

    /// Processors that the model may use [default: all]
    #[arg(long, env = "MODEL_THREADS", value_name = "N")]
    pub threads: Option<usize>,
}

impl ModelArgs {
    /// The defaults for `model_id`.
    pub fn new(model_id: impl Into<String>) -> Self {
        Self {
            model_id: model_id.into(),
            revision: None,
            device: DeviceChoice::Cpu,
            dtype: WeightDtype::Auto,
            kv_cache_tokens: None,
            kv_cache_fraction: KV_CACHE_FRACTION,
            threads: None,
        }
    }

    /// Loads the model onto a thread of its own.
    pub async fn start(&self, progress: Option<Progress>) -> Result<ModelThread, LoadError> {
        let source = ModelSource::parse(&self.model_id, self.revision.as_deref())?;
        let (device, dtype) = (self.device, self.dtype);
        let threads =
            self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let size = self.kv_cache_size()?;
        ModelThread::start(move || {
            Decoder::use_threads(threads);
            let options = LoadOptions { device, dtype, kernels: Kernels::Packed, progress };
            let backend = Decoder::load(&source, &options)?;
            let spec = backend.spec().clone();
            let pace = Pace::measure(&backend, &spec).map_err(|e| LoadError::WarmUp(e.to_string()))?;
            // Behind the warm-up, which has allocated what passes need.
            let tokens = match size {
                KvCacheSize::Tokens(tokens) => tokens,
                KvCacheSize::Fraction(fraction) => tokens_of(&backend, fraction)?,
            };
            if tokens < spec.context_length {
                tracing::warn!(
                    tokens,
                    context = spec.context_length,
                    "the KV cache holds less than one text of the whole context: longer ones are refused; \
                     see --kv-cache-tokens and --kv-cache-fraction"
                );
            }
            tracing::info!(
                tokens,
                mebibytes = (tokens as u64 * spec.kv_bytes_per_token) >> 20,
                free_mebibytes = backend.free_bytes().map(|bytes| bytes >> 20),
                "KV cache"
            );
            Ok(Loaded { backend, spec, budget: KvBudget::new(tokens), pace })
        })
        .await
    }

    fn kv_cache_size(&self) -> Result<KvCacheSize, LoadError> {
        match self.kv_cache_tokens {
            Some(0) => Err(LoadError::KvCache("--kv-cache-tokens 0: it must be at least 1".into())),
            Some(tokens) => Ok(KvCacheSize::Tokens(tokens)),
            None if self.kv_cache_fraction > 0.0 && self.kv_cache_fraction <= 1.0 => {
                Ok(KvCacheSize::Fraction(self.kv_cache_fraction))
            }
            None => {
                let what = format!(
                    "--kv-cache-fraction {}: it must be above 0 and at most 1",
                    self.kv_cache_fraction
                );
                Err(LoadError::KvCache(what))
            }
        }
    }
}

/// How large the KV caches may be.
#[derive(Clone, Copy)]
enum KvCacheSize {
    Tokens(usize),
    /// Of the memory that is free after the warm-up.
    Fraction(f64),
}

/// Tokens whose KV cache takes `fraction` of the free memory.
fn tokens_of(model: &Decoder, fraction: f64) -> Result<usize, LoadError> {
    let spec = model.spec();
    let no_answer = || LoadError::KvCache(format!("{} does not say how much memory is free", spec.device));
    let free = model.free_bytes().ok_or_else(no_answer)?;
    let tokens = (free as f64 * fraction) as u64 / spec.kv_bytes_per_token.max(1);
    if tokens == 0 {
        let what = format!("{fraction} of the {} MiB that are free holds not one token", free >> 20);
        return Err(LoadError::KvCache(what));
    }
    Ok(usize::try_from(tokens).unwrap_or(usize::MAX))
}
