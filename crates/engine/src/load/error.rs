use std::path::PathBuf;

use tandem_decoding::TokenId;
use thiserror::Error;

/// Why a model could not be loaded.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LoadError {
    #[error("{0} is neither a directory, nor a .gguf file, nor a config.json, nor a hub id like org/name")]
    NoSuchModel(String),
    #[error("{path} is missing: a model directory needs config.json, tokenizer.json and *.safetensors")]
    MissingFile { path: PathBuf },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "cannot fetch {file} of {id} from the model hub; with no network, give a local directory instead"
    )]
    Hub {
        id: String,
        file: String,
        #[source]
        source: Box<hf_hub::api::sync::ApiError>,
    },
    #[error(
        "{file} of {id} (revision {revision}) is not in {cache}, and HF_HUB_OFFLINE forbids to fetch it; unset it, or give a \
         local directory"
    )]
    NotCached { id: String, revision: String, file: String, cache: PathBuf },
    #[error("{model} has no tokenizer.json beside it: put that of the model it was made from there")]
    NoTokenizerBeside { model: PathBuf },
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
    #[error("the weights have no tensor {name}: they do not belong to this configuration")]
    MissingTensor { name: String },
    #[error("tensor {name} has shape {found:?}, the configuration asks for {expected:?}")]
    WrongShape { name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{path} is no tokenizer: {reason}")]
    Tokenizer { path: PathBuf, reason: String },
    #[error("the tokenizer has token id {token}, the model only {vocab} rows: they do not belong together")]
    TokenizerTooLarge { token: u32, vocab: usize },
    #[error("device {device} is not available: {reason}")]
    Device { device: String, reason: String },
    #[error("the model thread ended while it was loading")]
    ThreadEnded,
    #[error("the first passes failed: {0}")]
    WarmUp(String),
    #[error("no KV cache: {0}; set --kv-cache-tokens")]
    KvCache(String),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Why a pass or a session was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum EngineError {
    #[error("position {position} is outside the model's context of {limit} tokens")]
    ContextFull { position: usize, limit: usize },
    #[error("token {token} is outside the vocabulary of {vocab} tokens")]
    TokenOutOfRange { token: TokenId, vocab: usize },
    #[error(
        "the KV cache holds {total} tokens and {free} are free, but {needed} are needed: try again later or ask for fewer"
    )]
    BudgetFull { needed: usize, free: usize, total: usize },
    #[error("the pass is inconsistent: {0}")]
    InvalidPass(String),
    #[error("the model failed: {0}")]
    Failed(String),
    #[error("the model thread has stopped")]
    Stopped,
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// candle attaches backtraces to its messages; a person wants the first line.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
