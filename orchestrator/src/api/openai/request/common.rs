//! Fields of both endpoints.

use serde::Deserialize;
use serde_json::Value;
use tandem_decoding::DecodingParams;
use tandem_generation::{Input, RequestParams};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::decoding::DecodingOptions;
use super::fields::{Unknown, refuse_unknown};
use super::options::{AnswerOptions, LogProbs};
use super::unsupported::refuse_unless;
use crate::api::openai::error::ApiError;
use crate::api::openai::kind::Kind;

/// OpenAI's default for completions.
const COMPLETION_TOKENS: usize = 16;

/// Fields of both endpoints.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct CommonFields {
    /// The name of the served model. Another name is an error; without one, the served model answers.
    model: Option<String>,
    /// Streams the answer as server-sent events.
    #[schema(default = false)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Choices per prompt. Choice i is what the seed `seed` + i gives alone.
    #[schema(default = 1, minimum = 1, maximum = 16)]
    n: Option<u32>,
    /// Accepted only if it equals `n`.
    best_of: Option<u32>,
    /// Tokens to generate at most; the context may end a choice earlier. The default is 16 for completions, and the rest of the context
    /// for chat completions.
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    /// The same as `max_tokens`.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    /// 0 chooses the likeliest token.
    #[schema(default = 1, minimum = 0, maximum = 100)]
    temperature: Option<f64>,
    /// Tandem's own. Draws from this many of the likeliest tokens; 0 is off.
    #[schema(default = 0)]
    top_k: Option<u32>,
    /// Draws from the likeliest tokens that have this probability together; 1 is off.
    #[schema(default = 1, exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    #[schema(schema_with = seed)]
    seed: Option<Seed>,
    stop: Option<Stop>,
    /// Tandem's own. Continues after an end-of-sequence token.
    #[schema(default = false)]
    ignore_eos: Option<bool>,
    decoding: Option<DecodingOptions>,
}

/// Options of a stream. They require `stream`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
struct StreamOptions {
    /// Sends the usage of the whole request before the end of the stream.
    #[schema(default = false)]
    include_usage: Option<bool>,
    /// Only `false` is supported.
    include_obfuscation: Option<Value>,
    #[serde(flatten)]
    #[schema(ignore)]
    unknown: Unknown,
}

/// Any integer of 64 bits.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "expected an integer of 64 bits")]
enum Seed {
    Unsigned(u64),
    Signed(i64),
}

/// Both forms of a seed are one type for clients.
fn seed() -> Object {
    let description = "The same seed gives the same text. The default is drawn, and returned as `tandem.seed`. A negative number is \
                       the unsigned one with the same 64 bits.";
    ObjectBuilder::new().schema_type(Type::Integer).description(Some(description)).build()
}

/// The answer ends before the first of these strings: at most 16, of at most 256 bytes each.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

impl CommonFields {
    /// The form of the answer.
    pub(super) fn answer_options(&self, log_probs: LogProbs) -> Result<AnswerOptions, ApiError> {
        let n = self.n.unwrap_or(1);
        if self.best_of.is_some_and(|best_of| best_of != n) {
            return Err(ApiError::unsupported(
                "best_of",
                "is not supported: omit it, or set it to the value of n",
            ));
        }
        let stream = self.stream.unwrap_or(false);
        let include_usage = match &self.stream_options {
            Some(_) if !stream => {
                return Err(ApiError::invalid("stream_options", "requires stream: set stream to true"));
            }
            Some(options) => options.include_usage()?,
            None => false,
        };
        Ok(AnswerOptions {
            n: n as usize,
            stream,
            include_usage,
            log_probs: log_probs.chosen,
            trace: self.decoding.as_ref().is_some_and(DecodingOptions::trace),
        })
    }

    /// The request for one prompt, without branching factors.
    pub(super) fn params(
        &self,
        kind: Kind,
        input: Input,
        log_probs: LogProbs,
    ) -> Result<RequestParams, ApiError> {
        let decoding = match &self.decoding {
            Some(options) => options.params()?,
            None => DecodingParams::default(),
        };
        Ok(RequestParams {
            model: self.model.clone().filter(|model| !model.is_empty()),
            input,
            max_new_tokens: self.max_new_tokens(kind)?,
            // OpenAI's defaults, not the paper's: no filters.
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(0) as usize,
            top_p: self.top_p()?,
            seed: self.seed.map(Seed::bits),
            stop: self.stop.clone().map_or_else(Vec::new, Stop::into_strings),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            decoding,
            log_probs: log_probs.chosen,
            top_log_probs: log_probs.top as usize,
            n: self.n.unwrap_or(1) as usize,
            trace: self.decoding.as_ref().is_some_and(DecodingOptions::trace),
        })
    }

    /// The branching factors, if any are given.
    pub(super) fn branching(&self) -> Option<Vec<usize>> {
        self.decoding.as_ref().and_then(DecodingOptions::branching)
    }

    fn max_new_tokens(&self, kind: Kind) -> Result<usize, ApiError> {
        match (self.max_tokens, self.max_completion_tokens) {
            (Some(old), Some(new)) if old != new => {
                let predicate = format!("is {new}, but max_tokens is {old}: set only one of them");
                Err(ApiError::invalid("max_completion_tokens", predicate))
            }
            (Some(max), _) | (None, Some(max)) => Ok(max as usize),
            (None, None) => Ok(match kind {
                Kind::Completion => COMPLETION_TOKENS,
                // A conversation ends by itself, or with the context.
                Kind::Chat => usize::MAX,
            }),
        }
    }

    fn top_p(&self) -> Result<f64, ApiError> {
        match self.top_p {
            // It would switch the filter off, whereas OpenAI's clients mean the likeliest token.
            Some(0.0) => {
                Err(ApiError::invalid("top_p", "is 0: to choose the likeliest token, set temperature to 0"))
            }
            top_p => Ok(top_p.unwrap_or(1.0)),
        }
    }
}

impl StreamOptions {
    fn include_usage(&self) -> Result<bool, ApiError> {
        refuse_unless("stream_options.include_obfuscation", &self.include_obfuscation, &Value::Bool(false))?;
        refuse_unknown("stream_options.", &self.unknown)?;
        Ok(self.include_usage.unwrap_or(false))
    }
}

impl Seed {
    fn bits(self) -> u64 {
        match self {
            Self::Unsigned(seed) => seed,
            Self::Signed(seed) => seed.cast_unsigned(),
        }
    }
}

impl Stop {
    fn into_strings(self) -> Vec<String> {
        match self {
            Self::One(stop) => vec![stop],
            Self::Several(stops) => stops,
        }
    }
}
