//! Why an orchestrator could not start with its workers.

use std::net::SocketAddr;

use tandem_generation::Role;
use thiserror::Error;

/// Why no pair of models could be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConnectError {
    #[error("no {role} service answered within {seconds} s; {reason}")]
    NoWorker { role: Role, seconds: u64, reason: String },
    #[error(
        "draft and target have different tokenizers, so their tokens mean different things: {reason}; use a draft of the \
         target's family"
    )]
    VocabularyMismatch { reason: String },
    #[error("the target at {address} did not send its tokenizer: {reason}")]
    NoTokenizer { address: SocketAddr, reason: String },
    #[error("the tokenizer of target {target} cannot be used: {reason}")]
    Tokenizer { target: String, reason: String },
}
