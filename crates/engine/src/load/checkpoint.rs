//! A checkpoint, opened: its configuration, its tokenizer, and access to its tensors.

use candle_core::Device;

use super::config::ModelConfig;
use super::error::LoadError;
use super::gguf::Gguf;
use super::options::LoadOptions;
use super::source::{ModelFiles, ModelSource};
use super::tokenizer::Vocabulary;
use super::weights::Weights;

/// An open checkpoint.
pub(crate) struct Checkpoint {
    pub(crate) config: ModelConfig,
    /// `None` for random weights without a tokenizer.
    pub(crate) vocabulary: Option<Vocabulary>,
    pub(crate) weights: Weights,
    /// The device that the tensors are read to.
    pub(crate) device: Device,
}

impl Checkpoint {
    /// Finds the files of `source` and reads everything but the tensors.
    pub(crate) fn open(source: &ModelSource, options: &LoadOptions) -> Result<Self, LoadError> {
        let files = source.files(options.progress.as_ref())?;
        let device = options.device.open()?;
        let (mut config, weights) = open_weights(&files, &device, options)?;
        let vocabulary = match &files.tokenizer {
            Some(path) => Some(Vocabulary::read(path, config.vocab)?),
            None => None,
        };
        config.end_at(vocabulary.iter().flat_map(|vocabulary| vocabulary.end_tokens.iter().copied()));
        Ok(Self { config, vocabulary, weights, device })
    }
}

fn open_weights(
    files: &ModelFiles,
    device: &Device,
    options: &LoadOptions,
) -> Result<(ModelConfig, Weights), LoadError> {
    let generation = files.generation.as_deref();
    if let Some(path) = &files.gguf {
        let file = Gguf::open(path)?;
        let config = ModelConfig::read_gguf(&file, generation)?;
        return Ok((config, Weights::gguf(file, device, options)?));
    }
    let config = ModelConfig::read(&files.config, generation)?;
    let embedding = format!("{}.weight", config.names.embedding);
    let weights = Weights::safetensors(&files.weights, &embedding, device, options)?;
    Ok((config, weights))
}
