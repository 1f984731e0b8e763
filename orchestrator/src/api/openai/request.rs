//! Bodies of `/v1/completions` and `/v1/chat/completions`, turned into requests of the gRPC API.

use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};
use tandem_decoding::{Expansion, Method, Reference};
use tandem_proto::{
    MAX_CANDIDATES, MAX_TOP_LOG_PROBS, expansion_to_wire, method_to_wire, reference_to_wire, v1,
};

use super::error::ApiError;
use super::fields::{Fields, Unsupported};

/// Which endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Chat,
}

/// A request, read.
pub(super) struct Request {
    /// One per prompt, alike but for the prompt.
    pub(super) generate: Vec<v1::GenerateRequest>,
    /// Texts per prompt.
    pub(super) n: usize,
    pub(super) stream: bool,
    /// Streamed: tell the usage at the end.
    pub(super) include_usage: bool,
    pub(super) log_probs: bool,
    pub(super) trace: bool,
}

/// Fields of OpenAI's that change the text in ways that Tandem does not offer.
const UNSUPPORTED: [Unsupported; 17] = [
    Unsupported { name: "audio", neutral: &[] },
    Unsupported { name: "echo", neutral: &["false"] },
    Unsupported { name: "frequency_penalty", neutral: &["0"] },
    Unsupported { name: "function_call", neutral: &["\"none\""] },
    Unsupported { name: "functions", neutral: &["[]"] },
    Unsupported { name: "logit_bias", neutral: &["{}"] },
    Unsupported { name: "modalities", neutral: &["[\"text\"]"] },
    Unsupported { name: "parallel_tool_calls", neutral: &["false"] },
    Unsupported { name: "prediction", neutral: &[] },
    Unsupported { name: "presence_penalty", neutral: &["0"] },
    Unsupported { name: "reasoning_effort", neutral: &["\"none\""] },
    Unsupported { name: "response_format", neutral: &["{\"type\":\"text\"}"] },
    Unsupported { name: "store", neutral: &["false"] },
    Unsupported { name: "suffix", neutral: &["\"\""] },
    Unsupported { name: "tool_choice", neutral: &["\"none\""] },
    Unsupported { name: "tools", neutral: &["[]"] },
    Unsupported { name: "web_search_options", neutral: &[] },
];
/// Fields that are about the client's bookkeeping, not about the text.
const HARMLESS: [&str; 6] =
    ["metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user"];
/// OpenAI's default for completions.
const COMPLETION_TOKENS: u32 = 16;
/// Prompts in one request.
const MAX_PROMPTS: usize = 16;

impl Request {
    /// Reads the body of a request to `kind`.
    pub(super) fn parse(kind: Kind, body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let prompts = match kind {
            Kind::Completion => prompts(&mut fields)?,
            Kind::Chat => vec![chat(&mut fields)?],
        };
        let stream = fields.take("stream")?.unwrap_or(false);
        let include_usage = stream_options(&mut fields, stream)?;
        let (log_probs, top_log_probs) = log_probs(kind, &mut fields)?;
        let n: Option<u32> = fields.take("n")?;
        if let Some(n) = n.filter(|&n| !(1..=MAX_CANDIDATES).contains(&(n as usize))) {
            return Err(ApiError::invalid("n", format!("is {n}: 1 to {MAX_CANDIDATES} are allowed")));
        }
        if let Some(best_of) = fields.take::<u32>("best_of")?.filter(|&best| best != n.unwrap_or(1)) {
            return Err(ApiError::unsupported(
                "best_of",
                format!("{best_of} is not supported, only the value of n"),
            ));
        }
        let (decoding, trace) = decoding(&mut fields)?;
        let common = v1::GenerateRequest {
            input: None,
            max_new_tokens: Some(max_tokens(kind, &mut fields)?),
            temperature: fields.take("temperature")?,
            // OpenAI's defaults, not the paper's: no filter unless asked for.
            top_k: Some(fields.take("top_k")?.unwrap_or(0)),
            top_p: Some(top_p(&mut fields)?),
            seed: seed(&mut fields)?,
            stop: stop(&mut fields)?,
            ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
            decoding: Some(decoding),
            log_probs,
            trace,
            top_log_probs,
            n,
            model: fields.take("model")?.unwrap_or_default(),
        };
        fields.finish(&UNSUPPORTED, &HARMLESS)?;
        let with = |input| v1::GenerateRequest { input: Some(input), ..common.clone() };
        let generate = prompts.into_iter().map(with).collect();
        Ok(Self { generate, n: n.unwrap_or(1) as usize, stream, include_usage, log_probs, trace })
    }
}

type Input = v1::generate_request::Input;

/// A text, tokens, or several of either.
fn prompts(fields: &mut Fields) -> Result<Vec<Input>, ApiError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Prompt {
        Text(String),
        Texts(Vec<String>),
        Tokens(Vec<u32>),
        TokenLists(Vec<Vec<u32>>),
    }
    let value: Option<Value> = fields.take("prompt")?;
    let value = value.ok_or_else(|| ApiError::invalid("prompt", "is missing"))?;
    let prompt = Prompt::deserialize(value).map_err(|_| {
        ApiError::invalid(
            "prompt",
            "is neither a text, nor an array of texts, of token ids, or of arrays of token ids",
        )
    })?;
    let tokens = |ids| Input::Tokens(v1::TokenIds { ids });
    let all: Vec<Input> = match prompt {
        Prompt::Text(text) => vec![Input::Prompt(text)],
        Prompt::Texts(texts) => texts.into_iter().map(Input::Prompt).collect(),
        Prompt::Tokens(ids) => vec![tokens(ids)],
        Prompt::TokenLists(lists) => lists.into_iter().map(tokens).collect(),
    };
    match all.len() {
        1..=MAX_PROMPTS => Ok(all),
        n => Err(ApiError::invalid("prompt", format!("{n} prompts: 1 to {MAX_PROMPTS} are allowed"))),
    }
}

/// The messages of a chat.
fn chat(fields: &mut Fields) -> Result<Input, ApiError> {
    let messages: Option<Vec<Map<String, Value>>> = fields.take("messages")?;
    let messages = messages.ok_or_else(|| ApiError::invalid("messages", "is missing"))?;
    let read = |(i, message)| chat_message(Fields::of(format!("messages[{i}]."), message));
    let messages = messages.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
    Ok(Input::Chat(v1::Chat { messages }))
}

fn chat_message(mut fields: Fields) -> Result<v1::ChatMessage, ApiError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
    }
    #[derive(Deserialize)]
    struct Part {
        r#type: String,
        #[serde(default)]
        text: String,
    }
    let missing = |fields: &Fields, field: &str| ApiError::invalid(fields.name(field), "is missing");
    let role = fields.take("role")?.ok_or_else(|| missing(&fields, "role"))?;
    let content: Option<Value> = fields.take("content")?;
    let content = content.ok_or_else(|| missing(&fields, "content"))?;
    let name = fields.name("content");
    let content = Content::deserialize(content)
        .map_err(|_| ApiError::invalid(name.clone(), "is neither a text nor an array of parts"))?;
    let content = match content {
        Content::Text(text) => text,
        Content::Parts(parts) => {
            if let Some(part) = parts.iter().find(|p| p.r#type != "text") {
                let message = format!("a part of type {:?} is not supported, only text", part.r#type);
                return Err(ApiError::unsupported(name, message));
            }
            parts.into_iter().map(|p| p.text).collect()
        }
    };
    // What an answer of ours, sent back, carries besides.
    fields.finish(&[Unsupported { name: "tool_calls", neutral: &["[]"] }], &[])?;
    Ok(v1::ChatMessage { role, content })
}

/// Whether the usage is told at the end of a stream.
fn stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(mut options) = fields.take_object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(ApiError::invalid("stream_options", "is for streams: set stream"));
    }
    let usage = options.take("include_usage")?.unwrap_or(false);
    options.finish(&[Unsupported { name: "include_obfuscation", neutral: &["false"] }], &[])?;
    Ok(usage)
}

/// Whether log-probabilities are asked for, and of how many alternatives.
fn log_probs(kind: Kind, fields: &mut Fields) -> Result<(bool, u32), ApiError> {
    match kind {
        Kind::Completion => {
            let top: Option<u32> = fields.take("logprobs")?;
            if let Some(n) = top.filter(|&n| n as usize > MAX_TOP_LOG_PROBS) {
                return Err(ApiError::invalid(
                    "logprobs",
                    format!("is {n}: 0 to {MAX_TOP_LOG_PROBS} are allowed"),
                ));
            }
            Ok((top.is_some(), top.unwrap_or(0)))
        }
        Kind::Chat => {
            let asked = fields.take("logprobs")?.unwrap_or(false);
            Ok((asked, fields.take("top_logprobs")?.unwrap_or(0)))
        }
    }
}

fn max_tokens(kind: Kind, fields: &mut Fields) -> Result<u32, ApiError> {
    let (old, new): (Option<u32>, Option<u32>) =
        (fields.take("max_tokens")?, fields.take("max_completion_tokens")?);
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let message = format!("is {new}, and max_tokens {old}: give one of them");
            Err(ApiError::invalid("max_completion_tokens", message))
        }
        // A chat ends by itself, or with the context.
        _ => Ok(old.or(new).unwrap_or(if kind == Kind::Chat { u32::MAX } else { COMPLETION_TOKENS })),
    }
}

/// 0 would switch the filter off, where OpenAI's clients mean the likeliest token.
fn top_p(fields: &mut Fields) -> Result<f64, ApiError> {
    match fields.take("top_p")? {
        Some(0.0) => Err(ApiError::invalid("top_p", "is 0: for the likeliest token set temperature to 0")),
        given => Ok(given.unwrap_or(1.0)),
    }
}

/// Any integer is a seed; negative ones keep their bits.
fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seed {
        Unsigned(u64),
        Signed(i64),
    }
    let value: Option<Value> = fields.take("seed")?;
    let Some(value) = value else { return Ok(None) };
    match Seed::deserialize(&value) {
        Ok(Seed::Unsigned(seed)) => Ok(Some(seed)),
        Ok(Seed::Signed(seed)) => Ok(Some(seed.cast_unsigned())),
        Err(_) => Err(ApiError::invalid("seed", format!("{value} is no integer of 64 bits"))),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        Several(Vec<String>),
    }
    let value: Option<Value> = fields.take("stop")?;
    let Some(value) = value else { return Ok(Vec::new()) };
    match Stop::deserialize(value) {
        Ok(Stop::One(stop)) => Ok(vec![stop]),
        Ok(Stop::Several(stops)) => Ok(stops),
        Err(_) => Err(ApiError::invalid("stop", "is neither a text nor an array of texts")),
    }
}

/// Tandem's own: how candidates are proposed and accepted, and whether every iteration is given.
fn decoding(fields: &mut Fields) -> Result<(v1::DecodingParams, bool), ApiError> {
    let Some(mut d) = fields.take_object("decoding")? else {
        return Ok((v1::DecodingParams::default(), false));
    };
    let method: Option<Method> = named(&mut d, "method")?;
    let beams: Option<Expansion> = named(&mut d, "beams")?;
    let reference: Option<Reference> = named(&mut d, "reference")?;
    let params = v1::DecodingParams {
        method: method.map_or(v1::Method::Unspecified, method_to_wire).into(),
        beam_width: d.take("beam_width")?,
        draft_tokens: d.take("draft_tokens")?,
        acceptance_threshold: d.take("acceptance_threshold")?,
        beams: beams.map_or(v1::Beams::Unspecified, expansion_to_wire).into(),
        reference: reference.map_or(v1::Reference::Unspecified, reference_to_wire).into(),
        branching: d.take("branching")?.unwrap_or_default(),
    };
    let trace = d.take("trace")?.unwrap_or(false);
    d.finish(&[], &[])?;
    Ok((params, trace))
}

/// A field that is one of several names; the error lists them.
fn named<T: FromStr<Err: std::fmt::Display>>(
    fields: &mut Fields,
    field: &str,
) -> Result<Option<T>, ApiError> {
    let Some(name) = fields.take::<String>(field)? else { return Ok(None) };
    name.parse().map(Some).map_err(|e: T::Err| ApiError::invalid(fields.name(field), e))
}

#[cfg(test)]
mod tests;
