//! Prompts and conversations.

use serde::Deserialize;
use serde_json::{Value, json};
use tandem_decoding::TokenId;
use tandem_generation::{ChatMessage, Input};
use utoipa::ToSchema;

use super::fields::{Unknown, refuse_unknown};
use super::unsupported::refuse_unless;
use crate::api::openai::error::ApiError;

/// Prompts in one request.
pub(super) const MAX_PROMPTS: usize = 16;

/// A string, an array of strings, an array of token ids, or an array of such arrays.
#[derive(Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string, an array of strings, an array of token ids, or an array of such arrays"
)]
pub(super) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// A message of a conversation.
#[derive(Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub(super) struct Message {
    /// `system`, `user`, `assistant`, or another role that the chat template knows.
    #[schema(required, nullable = false)]
    role: Option<String>,
    #[schema(required, nullable = false)]
    content: Option<Content>,
    /// Answers of assistants that are sent back may have it, but only as `[]`.
    tool_calls: Option<Value>,
    #[serde(flatten)]
    #[schema(ignore)]
    unknown: Unknown,
}

/// A string, or parts that are joined.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of text parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Deserialize, ToSchema)]
struct Part {
    /// Only `text` is supported.
    r#type: String,
    #[serde(default)]
    text: String,
}

impl Prompt {
    /// The prompts, at least one.
    pub(super) fn inputs(self) -> Result<Vec<Input>, ApiError> {
        let inputs: Vec<Input> = match self {
            Self::Text(text) => vec![Input::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(Input::Text).collect(),
            Self::Tokens(ids) => vec![tokens(ids)],
            Self::TokenLists(lists) => lists.into_iter().map(tokens).collect(),
        };
        match inputs.len() {
            1..=MAX_PROMPTS => Ok(inputs),
            n => {
                let predicate = format!("has {n} prompts: there must be between 1 and {MAX_PROMPTS}");
                Err(ApiError::invalid("prompt", predicate))
            }
        }
    }
}

fn tokens(ids: Vec<u32>) -> Input {
    Input::Tokens(ids.into_iter().map(TokenId).collect())
}

/// The conversation of a chat.
pub(super) fn conversation(messages: Vec<Message>) -> Result<Input, ApiError> {
    let mut conversation = Vec::with_capacity(messages.len());
    for (i, message) in messages.into_iter().enumerate() {
        conversation.push(message.into_domain(&format!("messages[{i}]"))?);
    }
    Ok(Input::Chat(conversation))
}

impl Message {
    /// The message that is at `path` of the body.
    fn into_domain(self, path: &str) -> Result<ChatMessage, ApiError> {
        let missing = |field| ApiError::invalid(format!("{path}.{field}"), "is missing");
        let role = self.role.ok_or_else(|| missing("role"))?;
        let content = self.content.ok_or_else(|| missing("content"))?.text(&format!("{path}.content"))?;
        refuse_unless(&format!("{path}.tool_calls"), &self.tool_calls, &json!([]))?;
        refuse_unknown(&format!("{path}."), &self.unknown)?;
        Ok(ChatMessage { role, content })
    }
}

impl Content {
    /// The text of the content that is at `path` of the body.
    fn text(self, path: &str) -> Result<String, ApiError> {
        let parts = match self {
            Self::Text(text) => return Ok(text),
            Self::Parts(parts) => parts,
        };
        if let Some(part) = parts.iter().find(|part| part.r#type != "text") {
            let predicate = format!("has a part of type {:?}: only text is supported", part.r#type);
            return Err(ApiError::unsupported(path, predicate));
        }
        Ok(parts.into_iter().map(|part| part.text).collect())
    }
}
