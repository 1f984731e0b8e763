//! The pair of models that a command runs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tandem_engine::{DeviceChoice, EngineConfig, InstructionSet, KvCacheSize, KvDtype, WeightDtype};

/// Flags of the pair of models, and of what they may use.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PairArgs {
    /// Target model: a directory in HF layout, a .gguf file, a config.json (random weights), or a hub id [default: the bundled demo target]
    #[arg(long, env = "TANDEM_TARGET_MODEL_ID", value_name = "DIR|FILE|ID")]
    pub target: Option<String>,

    /// Draft model of the same family [default: the bundled demo draft]
    #[arg(long, env = "TANDEM_DRAFT_MODEL_ID", value_name = "DIR|FILE|ID")]
    pub draft: Option<String>,

    /// Device of the target: cpu or cuda:N
    #[arg(long, env = "TANDEM_DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,

    /// Device of the draft [default: the target's]
    #[arg(long, env = "TANDEM_DRAFT_DEVICE")]
    pub draft_device: Option<DeviceChoice>,

    /// Dtype of the weights: auto (as in the checkpoint), f32, bf16 or f16
    #[arg(long, env = "TANDEM_DTYPE", default_value = "auto")]
    pub dtype: WeightDtype,

    /// Instruction set on a CPU: amx, vnni, avx512, avx2 or portable [default: the best that the machine has]
    #[arg(long, env = "TANDEM_ISA", value_name = "NAME")]
    pub isa: Option<InstructionSet>,

    /// Tokens that the KV caches of each model may hold [default: 0.4 of the memory that is free]
    #[arg(long, env = "TANDEM_KV_CACHE_TOKENS", value_name = "TOKENS")]
    pub kv_cache_tokens: Option<usize>,

    /// Dtype of keys and values in the KV caches: f32, f16 or bf16 [default: that of the activations, f32 on a CPU]
    #[arg(long, env = "TANDEM_KV_CACHE_DTYPE", value_name = "DTYPE")]
    pub kv_cache_dtype: Option<KvDtype>,
}

impl PairArgs {
    /// The target's model.
    pub fn target_model(&self) -> anyhow::Result<EngineConfig> {
        let model = self.target.clone().map_or_else(|| bundled_model("target"), Ok)?;
        Ok(self.model(model, self.device))
    }

    /// The draft's model.
    pub fn draft_model(&self) -> anyhow::Result<EngineConfig> {
        let model = self.draft.clone().map_or_else(|| bundled_model("draft"), Ok)?;
        let device = self.draft_device.unwrap_or(self.device);
        Ok(self.model(model, device))
    }

    fn model(&self, id: String, device: DeviceChoice) -> EngineConfig {
        let kv_cache = self.kv_cache_tokens.map_or_else(KvCacheSize::default, KvCacheSize::Tokens);
        EngineConfig {
            device,
            dtype: self.dtype,
            isa: self.isa,
            kv_cache,
            kv_dtype: self.kv_cache_dtype,
            ..EngineConfig::new(id)
        }
    }
}

/// The directory of a bundled model.
fn bundled_model(model: &str) -> anyhow::Result<String> {
    let dir = bundled(model).with_context(|| format!("give another model with --{model}"))?;
    Ok(dir.display().to_string())
}

/// A directory of `models/demo`, looked for under `TANDEM_MODELS`, in the working directory, beside the binary, and in the sources that
/// it was built from.
pub(crate) fn bundled(part: &str) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models")));
    let candidates = [
        std::env::var_os("TANDEM_MODELS").map(PathBuf::from),
        Some(PathBuf::from("models")),
        beside,
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")),
    ];
    let found = candidates.into_iter().flatten().map(|p| p.join("demo").join(part)).find(|p| p.is_dir());
    let found = found.with_context(|| {
        format!("the bundled models/demo/{part} was not found: set TANDEM_MODELS to the models directory")
    })?;
    // Shorter in reports, and without `..`.
    let found = found.canonicalize().unwrap_or(found);
    let here = std::env::current_dir().and_then(|dir| dir.canonicalize()).ok();
    let short = here.and_then(|here| found.strip_prefix(here).ok().map(Path::to_path_buf));
    Ok(short.unwrap_or(found))
}
