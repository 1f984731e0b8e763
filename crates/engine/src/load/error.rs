//! Why a model could not be loaded.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a model could not be loaded.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum LoadError {
    #[error("{0} is neither a directory, nor a .gguf file, nor a config.json, nor a hub id such as org/name")]
    NoSuchModel(String),
    #[error("{path} is missing: a model directory needs config.json, tokenizer.json and *.safetensors")]
    MissingFile { path: PathBuf },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the client of the model hub cannot be set up; use a local directory instead")]
    HubClient(#[source] Box<hf_hub::api::sync::ApiError>),
    #[error(
        "cannot fetch {file} of {id} from the model hub; without a network, use a local directory instead"
    )]
    Hub {
        id: String,
        file: String,
        #[source]
        source: Box<hf_hub::api::sync::ApiError>,
    },
    #[error(
        "{file} of {id} (revision {revision}) is not in the cache {cache}, and HF_HUB_OFFLINE forbids downloads: \
         unset it, or use a local directory"
    )]
    NotCached { id: String, revision: String, file: String, cache: PathBuf },
    #[error(
        "the tokenizer in the metadata of {path} cannot be used: {what}; put the tokenizer.json of the model \
         that it was converted from into the same directory"
    )]
    GgufTokenizer { path: PathBuf, what: String },
    #[error("{path} is not valid")]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path}: {what}")]
    Unsupported { path: PathBuf, what: String },
    #[error("the weights {path} are corrupt or truncated: {reason}")]
    CorruptWeights { path: PathBuf, reason: String },
    #[error("the weights have no tensor {name}: use the configuration that belongs to them")]
    MissingTensor { name: String },
    #[error("tensor {name} has shape {found:?}, but the configuration requires {expected:?}")]
    WrongShape { name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{path} is not a valid tokenizer: {reason}")]
    Tokenizer { path: PathBuf, reason: String },
    #[error(
        "the tokenizer has token id {token}, but the model has only {vocab} embeddings: use the tokenizer that \
         belongs to the model"
    )]
    TokenizerTooLarge { token: u32, vocab: usize },
    #[error("device {device} is not available: {reason}")]
    Device { device: String, reason: String },
    #[error("the model thread ended while it was loading the model")]
    ThreadEnded,
    #[error("the warm-up passes failed: {0}")]
    WarmUp(String),
    #[error("the KV cache cannot be set up: {0}")]
    KvCache(String),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl LoadError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    /// A file that says something which is not supported.
    pub(crate) fn unsupported(path: &Path, what: String) -> Self {
        Self::Unsupported { path: path.to_owned(), what }
    }

    pub(crate) fn corrupt(path: &Path, error: &dyn std::fmt::Display) -> Self {
        // candle appends a backtrace to the message.
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        Self::CorruptWeights { path: path.to_owned(), reason }
    }
}
