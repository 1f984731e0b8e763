use std::time::Duration;

use tandem_proto::{Fault, Reason};
use thiserror::Error;
use tonic::Status;

/// Why a generation failed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum GenerateError {
    #[error(transparent)]
    Request(#[from] Fault),
    #[error("the {worker} service failed: {}", status.message())]
    Worker { worker: &'static str, status: Status },
    #[error("the {worker} service sent a broken reply: {fault}")]
    BrokenReply { worker: &'static str, fault: Fault },
    #[error("the {worker} service did not answer within {} s: the prompt is too long for it, or it is overloaded", timeout.as_secs())]
    Timeout { worker: &'static str, timeout: Duration },
    #[error(
        "the {worker} service was restarted with {now} instead of {known}, which does not fit what this orchestrator knows: \
         restart the orchestrator"
    )]
    OtherModel { worker: &'static str, known: String, now: String },
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    #[error("the client went away")]
    Cancelled,
}

/// Why no pair of models could be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConnectError {
    #[error("cannot reach the {worker} service at {url}: {source}")]
    Unreachable { worker: &'static str, url: String, source: tonic::transport::Error },
    #[error(
        "the {worker} service at {url} listens, but did not answer within {seconds} s: is it still loading? See --connect-seconds"
    )]
    Silent { worker: &'static str, url: String, seconds: u64 },
    #[error("{url} is no URL of the {worker} service: write it like http://host:7701")]
    BadUrl { worker: &'static str, url: String },
    #[error("the {worker} service at {url} answered with an error: {}", status.message())]
    Refused { worker: &'static str, url: String, status: Status },
    #[error(
        "draft {draft} and target {target} have different tokenizers, so their tokens mean different things: \
         use a draft of the target's family"
    )]
    VocabularyMismatch { draft: String, target: String },
    #[error("the tokenizer of target {target} cannot be used: {reason}")]
    Tokenizer { target: String, reason: String },
}

impl From<GenerateError> for Status {
    /// A worker's own status keeps its code and details: what it refused, it refused for the client's request.
    fn from(error: GenerateError) -> Self {
        let message = error.to_string();
        match error {
            GenerateError::Request(fault) => fault.into(),
            GenerateError::Worker { status, .. } => {
                Self::with_details(status.code(), message, status.details().to_vec().into())
            }
            GenerateError::Timeout { .. } => Self::deadline_exceeded(message),
            GenerateError::OtherModel { .. } => {
                Fault::Refused { reason: Reason::VocabularyMismatch, message }.into()
            }
            GenerateError::BrokenReply { .. } | GenerateError::Tokenizer(_) => Self::internal(message),
            GenerateError::Cancelled => Self::cancelled(message),
        }
    }
}
