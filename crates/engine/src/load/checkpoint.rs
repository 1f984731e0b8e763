//! A checkpoint, opened: its configuration, its tokenizer, and access to its tensors.

use std::path::Path;

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
        let mut opened = match &files.gguf {
            Some(path) => Self::open_gguf(path, &files, device, options),
            None => Self::open_directory(&files, device, options),
        }?;
        if let Some(vocabulary) = &opened.vocabulary {
            opened.config.end_at(vocabulary.end_tokens.iter().copied());
        }
        Ok(opened)
    }

    fn open_gguf(
        path: &Path,
        files: &ModelFiles,
        device: Device,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let file = Gguf::open(path)?;
        let config = ModelConfig::read_gguf(&file, files.generation.as_deref())?;
        let vocabulary = match &files.tokenizer {
            Some(beside) => {
                tracing::info!(tokenizer = %beside.display(), "the tokenizer beside the GGUF file is used");
                Vocabulary::read(beside, config.vocab)?
            }
            None => {
                tracing::info!(file = %path.display(), "the tokenizer in the GGUF file is used");
                Vocabulary::of_gguf(&file, config.vocab)?
            }
        };
        let weights = Weights::gguf(file, &device, options)?;
        Ok(Self { config, vocabulary: Some(vocabulary), weights, device })
    }

    fn open_directory(files: &ModelFiles, device: Device, options: &LoadOptions) -> Result<Self, LoadError> {
        let config = ModelConfig::read(&files.config, files.generation.as_deref())?;
        let embedding = format!("{}.weight", config.names.embedding);
        let weights = Weights::safetensors(&files.weights, &embedding, &device, options)?;
        let vocabulary = match &files.tokenizer {
            Some(path) => Some(Vocabulary::read(path, config.vocab)?),
            None => None,
        };
        Ok(Self { config, vocabulary, weights, device })
    }
}
