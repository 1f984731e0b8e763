use clap::Args;

use crate::{
    DeviceChoice, Kernels, KvBudget, Llama, LoadError, LoadOptions, ModelSource, ModelThread, Progress,
    WeightDtype,
};

/// Which model a service owns, and with what.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model: a directory in HF layout, a config.json (random weights, for timing), or a hub id
    #[arg(long = "model", env = "MODEL_ID", value_name = "DIR|ID")]
    pub model_id: String,

    /// Branch, tag or commit of a hub model [default: main]
    #[arg(long, env = "REVISION")]
    pub revision: Option<String>,

    /// Device: cpu or cuda:N
    #[arg(long, env = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,

    /// Dtype of the weights: auto (as in the checkpoint), f32, bf16 or f16
    #[arg(long, env = "DTYPE", default_value = "auto")]
    pub dtype: WeightDtype,

    /// Tokens that the KV caches of all sessions may hold together
    #[arg(long, env = "KV_CACHE_TOKENS", default_value_t = 65_536, value_name = "TOKENS")]
    pub kv_cache_tokens: usize,

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
            kv_cache_tokens: 65_536,
            threads: None,
        }
    }

    /// Loads the model onto a thread of its own.
    pub async fn start(&self, progress: Option<Progress>) -> Result<ModelThread, LoadError> {
        let source = ModelSource::parse(&self.model_id, self.revision.as_deref())?;
        let (device, dtype) = (self.device, self.dtype);
        let threads =
            self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        ModelThread::start(KvBudget::new(self.kv_cache_tokens), move || {
            Llama::use_threads(threads);
            let options = LoadOptions { device, dtype, kernels: Kernels::Packed, progress };
            let llama = Llama::load(&source, &options)?;
            let spec = llama.spec().clone();
            Ok((llama, spec))
        })
        .await
    }
}
