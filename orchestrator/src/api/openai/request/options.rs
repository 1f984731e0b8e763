//! What a request says about its answer, apart from what is generated.

/// What a request says about the form of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api::openai) struct AnswerOptions {
    /// Choices per prompt.
    pub(in crate::api::openai) n: usize,
    /// Whether the answer is a stream.
    pub(in crate::api::openai) stream: bool,
    /// Whether a stream ends with the usage.
    pub(in crate::api::openai) include_usage: bool,
    /// Whether every token comes with its log-probability.
    pub(in crate::api::openai) log_probs: bool,
    /// Whether the origin of every token is reported, and the token tree of every iteration.
    pub(in crate::api::openai) trace: bool,
}

/// Which log-probabilities are requested.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogProbs {
    /// Those of the chosen tokens.
    pub(super) chosen: bool,
    /// Those of this many of the likeliest tokens.
    pub(super) top: u32,
}
