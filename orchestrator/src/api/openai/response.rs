//! OpenAI's objects, typed.

mod chunks;
mod extension;
mod log_probs;
mod whole;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tandem_generation::FinishReason;
use utoipa::ToSchema;

use super::kind::Kind;
use super::request::AnswerOptions;
pub(super) use chunks::ChunkWriter;
use extension::{ChunkExtension, Extension};
use log_probs::{ChatLogProbs, CompletionLogProbs};
pub(super) use whole::Collector;

/// What all objects begin with.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Head {
    /// The same for all chunks of a stream.
    id: String,
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    /// The name of the served model.
    model: String,
}

/// The answer to a completion.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Completion {
    #[serde(flatten)]
    head: Head,
    /// Those of the first prompt come first.
    choices: Vec<CompletionChoice>,
    usage: Usage,
    tandem: Extension,
}

/// An event of a stream of a completion.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompletionChunk {
    #[serde(flatten)]
    head: Head,
    /// One, or none in the chunk with the usage.
    choices: Vec<CompletionChoice>,
    #[serde(flatten)]
    additions: ChunkAdditions,
}

#[derive(Debug, Serialize, ToSchema)]
struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogProbs>,
    /// `stop`, `length`, or null before the end.
    finish_reason: Option<&'static str>,
}

/// The answer to a chat completion.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatCompletion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<ChatChoice>,
    usage: Usage,
    tandem: Extension,
}

#[derive(Debug, Serialize, ToSchema)]
struct ChatChoice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<ChatLogProbs>,
    /// `stop` or `length`.
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AssistantMessage {
    /// `assistant`.
    role: &'static str,
    content: String,
    /// Always null.
    refusal: Option<String>,
}

/// An event of a stream of a chat completion.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatCompletionChunk {
    #[serde(flatten)]
    head: Head,
    /// One, or none in the chunk with the usage.
    choices: Vec<ChatChunkChoice>,
    #[serde(flatten)]
    additions: ChunkAdditions,
}

#[derive(Debug, Serialize, ToSchema)]
struct ChatChunkChoice {
    index: usize,
    delta: ChatDelta,
    logprobs: Option<ChatLogProbs>,
    /// `stop`, `length`, or null before the end.
    finish_reason: Option<&'static str>,
}

/// The role comes first, with empty content. It is empty at the end.
#[derive(Debug, Default, Serialize, ToSchema)]
struct ChatDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// What a chunk may have besides.
#[derive(Debug, Serialize, ToSchema)]
struct ChunkAdditions {
    /// If it was requested: null, but in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    /// In the chunk with the `finish_reason`; with `trace`, in all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    tandem: Option<ChunkExtension>,
}

/// Tokens of the whole request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
struct Usage {
    /// A prompt counts once, however many choices it has.
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Head {
    /// The head of an answer by `model`.
    fn new(kind: Kind, options: &AnswerOptions, model: String) -> Self {
        let prefix = match kind {
            Kind::Completion => "cmpl",
            Kind::Chat => "chatcmpl",
        };
        let object = match kind {
            // Chunks of completions have no name of their own.
            Kind::Completion => "text_completion",
            Kind::Chat if options.stream => "chat.completion.chunk",
            Kind::Chat => "chat.completion",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: format!("{prefix}-{:032x}", rand::random::<u128>()),
            object,
            created: now.as_secs(),
            model,
        }
    }
}

impl Usage {
    /// Adds up the choices, of which each prompt has `n`: the tokens of its prompt, and those generated.
    fn of(choices: impl Iterator<Item = (usize, usize)>, n: usize) -> Self {
        let mut usage = Self::default();
        for (index, (prompt_tokens, new_tokens)) in choices.enumerate() {
            if index % n == 0 {
                usage.prompt_tokens += prompt_tokens;
            }
            usage.completion_tokens += new_tokens;
        }
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
        usage
    }
}

/// OpenAI's name of a reason.
fn finish_reason(reason: &FinishReason) -> &'static str {
    reason.name()
}

#[cfg(test)]
mod tests;
