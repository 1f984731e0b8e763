//! Bodies of `/v1/completions` and `/v1/chat/completions`: typed, and mapped to requests of the domain.
//!
//! The fields are structs in groups. A value that would change the answer and cannot be honoured is refused by name.

mod common;
mod decoding;
mod fields;
mod options;
mod prompt;
mod unsupported;

use serde::Deserialize;
use tandem_generation::{GenerateRequest, Input, InvalidRequest, RequestParams};
use utoipa::ToSchema;

use super::error::ApiError;
use super::kind::Kind;
use common::CommonFields;
use fields::Fields;
pub(super) use options::AnswerOptions;
use options::LogProbs;
use prompt::{Message, Prompt};
use unsupported::{HarmlessFields, UnsupportedFields};

/// A body that was read.
#[derive(Debug)]
pub(super) struct Request {
    /// One per prompt. They differ in their prompts only.
    params: Vec<RequestParams>,
    /// Set apart, because whether they may be set depends on the method.
    branching: Option<Vec<usize>>,
    /// How it is answered.
    pub(super) options: AnswerOptions,
}

/// The body of a request to `/v1/completions`. A field that is null is as good as absent; an unknown one is refused.
#[derive(ToSchema)]
pub(super) struct CompletionRequest {
    #[serde(flatten)]
    own: CompletionFields,
    #[serde(flatten)]
    common: CommonFields,
    #[serde(flatten)]
    unsupported: UnsupportedFields,
    #[serde(flatten)]
    _harmless: HarmlessFields,
}

/// The body of a request to `/v1/chat/completions`. A field that is null is as good as absent; an unknown one is refused.
#[derive(ToSchema)]
pub(super) struct ChatCompletionRequest {
    #[serde(flatten)]
    own: ChatFields,
    #[serde(flatten)]
    common: CommonFields,
    #[serde(flatten)]
    unsupported: UnsupportedFields,
    #[serde(flatten)]
    _harmless: HarmlessFields,
}

/// Fields of completions only.
#[derive(Deserialize, ToSchema)]
struct CompletionFields {
    /// The tokenizer's special tokens are added to strings, not to token ids. At most 16 prompts.
    #[schema(required, nullable = false)]
    prompt: Option<Prompt>,
    /// Returns the log-probability of every token, with this many alternatives. Alternatives are not available with `mtjd`.
    #[schema(maximum = 20)]
    logprobs: Option<u32>,
}

/// Fields of chat completions only.
#[derive(Deserialize, ToSchema)]
struct ChatFields {
    /// Rendered with the model's chat template, which sets the special tokens. A model without one is an error.
    #[schema(required, nullable = false)]
    messages: Option<Vec<Message>>,
    /// Returns the log-probability of every token.
    #[schema(default = false)]
    logprobs: Option<bool>,
    /// Alternatives for every token; requires `logprobs`. Not available with `mtjd`.
    #[schema(default = 0, maximum = 20)]
    top_logprobs: Option<u32>,
}

impl Request {
    /// Reads the body of a request to an endpoint.
    pub(super) fn parse(kind: Kind, body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::parse(body)?;
        match kind {
            Kind::Completion => CompletionRequest::read(fields)?.into_request(),
            Kind::Chat => ChatCompletionRequest::read(fields)?.into_request(),
        }
    }

    fn new(
        kind: Kind,
        inputs: Vec<Input>,
        common: CommonFields,
        log_probs: LogProbs,
    ) -> Result<Self, ApiError> {
        let options = common.answer_options(log_probs)?;
        let branching = common.branching();
        let mut params = Vec::with_capacity(inputs.len());
        for input in inputs {
            params.push(common.params(kind, input, log_probs)?);
        }
        Ok(Self { params, branching, options })
    }

    /// The checked requests, one per prompt.
    pub(super) fn check(self) -> Result<Vec<GenerateRequest>, InvalidRequest> {
        let mut requests = Vec::with_capacity(self.params.len());
        for mut params in self.params {
            if let Some(branching) = &self.branching {
                params.set_branching(branching.clone())?;
            }
            requests.push(params.check()?);
        }
        Ok(requests)
    }
}

impl CompletionRequest {
    fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let request = Self {
            own: fields.take()?,
            common: fields.take()?,
            unsupported: fields.take()?,
            _harmless: fields.take()?,
        };
        fields.finish()?;
        Ok(request)
    }

    fn into_request(self) -> Result<Request, ApiError> {
        self.unsupported.check()?;
        let prompt = self.own.prompt.ok_or_else(|| ApiError::invalid("prompt", "is missing"))?;
        let log_probs = LogProbs { chosen: self.own.logprobs.is_some(), top: self.own.logprobs.unwrap_or(0) };
        Request::new(Kind::Completion, prompt.inputs()?, self.common, log_probs)
    }
}

impl ChatCompletionRequest {
    fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let request = Self {
            own: fields.take()?,
            common: fields.take()?,
            unsupported: fields.take()?,
            _harmless: fields.take()?,
        };
        fields.finish()?;
        Ok(request)
    }

    fn into_request(self) -> Result<Request, ApiError> {
        self.unsupported.check()?;
        let messages = self.own.messages.ok_or_else(|| ApiError::invalid("messages", "is missing"))?;
        let log_probs =
            LogProbs { chosen: self.own.logprobs.unwrap_or(false), top: self.own.top_logprobs.unwrap_or(0) };
        let input = prompt::conversation(messages)?;
        Request::new(Kind::Chat, vec![input], self.common, log_probs)
    }
}

#[cfg(test)]
mod tests;
