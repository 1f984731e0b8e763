//! Why a pass or a session was refused.

use tandem_decoding::TokenId;
use thiserror::Error;

/// Why a pass or a session was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum EngineError {
    #[error("position {position} is outside the model's context of {limit} tokens")]
    ContextFull { position: usize, limit: usize },
    #[error("token {token} is outside the vocabulary of {vocab} tokens")]
    TokenOutOfRange { token: TokenId, vocab: usize },
    #[error(
        "the KV cache holds {total} tokens and {free} are free, but {needed} are needed: retry later or request \
         fewer"
    )]
    BudgetFull { needed: usize, free: usize, total: usize },
    #[error(
        "a pass over {rows} tokens takes up to {} MiB, but passes may take {} MiB of this worker's memory: request \
         a smaller tree",
        bytes >> 20,
        limit >> 20
    )]
    PassTooLarge { rows: usize, bytes: usize, limit: usize },
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
