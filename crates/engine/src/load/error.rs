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
        "cannot fetch {file} of {id} from the model hub; without a network, use a local directory, or set \
         HF_HUB_OFFLINE=1 if the model is in the cache"
    )]
    Hub {
        id: String,
        file: String,
        #[source]
        source: Box<hf_hub::api::sync::ApiError>,
    },
    #[error(
        "{file} of {id} (revision {revision}) does not exist on the model hub: check the name and the revision, \
         or use a local directory"
    )]
    NotOnHub { id: String, revision: String, file: String },
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
    #[error(
        "{path} is missing: {first} is the first of {count} parts of a model, and all of them must be in its \
         directory; fetch part {part}"
    )]
    MissingPart { path: PathBuf, part: usize, count: usize, first: PathBuf },
    #[error("{path} is part {part} of {count} of a model: give the first part instead, {first}")]
    NotFirstPart { path: PathBuf, part: usize, count: usize, first: PathBuf },
    #[error(
        "{path} is part {part} of {count} of a model, so that its name must end in {ending}, and those of the \
         other parts in the same way: rename them"
    )]
    PartName { path: PathBuf, part: usize, count: usize, ending: String },
    #[error(
        "{path} is not part {part} of {count} of the model that {first} begins: {reason}; fetch all parts of \
         one model"
    )]
    ForeignPart { path: PathBuf, part: usize, count: usize, first: PathBuf, reason: String },
    #[error(
        "{first} says that all parts of the model have {stated} tensors, but they have {found}: fetch all parts \
         of one model"
    )]
    PartsIncomplete { first: PathBuf, stated: usize, found: usize },
    #[error(
        "the weights have no output head {name}: if the model uses its embedding as the head, set \
         \"tie_word_embeddings\": true in config.json"
    )]
    MissingHead { name: String },
    #[error("the weights have no tensor {name}: use the configuration that belongs to them")]
    MissingTensor { name: String },
    #[error("tensor {name} has shape {found:?}, but the configuration requires {expected:?}")]
    WrongShape { name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{path} is not a valid tokenizer: {reason}")]
    Tokenizer { path: PathBuf, reason: String },
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
