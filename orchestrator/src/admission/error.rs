//! Why a request is refused by its API key.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub(crate) enum KeyError {
    #[error("this API requires an API key: send it in the header \"Authorization: Bearer KEY\"")]
    Missing,
    #[error("the Authorization header is not of the form \"Bearer KEY\"")]
    Malformed,
    #[error("the API key is not known")]
    Unknown,
    #[error(
        "key {name} already has {limit} generations running or queued, its limit: wait until some of them end"
    )]
    Busy { name: Arc<str>, limit: usize },
    #[error(
        "key {name} may have {limit} generations at once, but {requested} were requested: request fewer choices"
    )]
    TooMany { name: Arc<str>, limit: usize, requested: usize },
    #[error(
        "key {name} has used its {limit} tokens per minute, and this request may need {needed}: try again in {} s, or request \
         fewer tokens",
        retry_after.as_secs_f64().ceil()
    )]
    Spent { name: Arc<str>, limit: u32, needed: u32, retry_after: Duration },
}

impl KeyError {
    /// Whether the key itself is wrong (401 over HTTP), not its use (429).
    pub(crate) fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Missing | Self::Malformed | Self::Unknown)
    }

    /// When to retry, if that helps.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Missing | Self::Malformed | Self::Unknown | Self::TooMany { .. } => None,
            // About the length of a short request.
            Self::Busy { .. } => Some(Duration::from_millis(500)),
            Self::Spent { retry_after, .. } => Some(*retry_after),
        }
    }
}
