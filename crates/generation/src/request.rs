//! What a client requests.

use std::fmt;

use tandem_decoding::{
    Decoding, DecodingParams, InvalidDecoding, InvalidDrafting, InvalidSampling, Method, Sampling, TokenId,
};
use thiserror::Error;

/// Choices that one request may ask for.
pub const MAX_CHOICES: usize = 16;
/// Alternatives that may be requested per token, as many as OpenAI's API allows.
pub const MAX_TOP_LOG_PROBS: usize = 20;
/// Stop strings of one request.
const MAX_STOP_STRINGS: usize = 16;
/// Bytes of one stop string.
const MAX_STOP_BYTES: usize = 256;

/// A request as a client wrote it, not checked yet.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestParams {
    /// The name that the model must have; `None` accepts any.
    pub model: Option<String>,
    /// The prompt.
    pub input: Input,
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// 0 chooses the likeliest token.
    pub temperature: f64,
    /// 0 switches the filter off.
    pub top_k: usize,
    /// 0 or 1 switches the filter off.
    pub top_p: f64,
    /// `None` draws one.
    pub seed: Option<u64>,
    /// Strings that end the generation.
    pub stop: Vec<String>,
    /// Whether to continue after an end-of-sequence token.
    pub ignore_eos: bool,
    /// How candidates are proposed and accepted.
    pub decoding: DecodingParams,
    /// Whether every token comes with its log-probability.
    pub log_probs: bool,
    /// How many of the likeliest tokens come with every token.
    pub top_log_probs: usize,
    /// Sequences to generate.
    pub n: usize,
    /// Whether every iteration's tree is reported.
    pub trace: bool,
}

/// A checked request. What depends on the models, such as the context length, is checked when the prompt is tokenized.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// The name that the model must have; `None` accepts any.
    pub model: Option<String>,
    /// The prompt, not empty.
    pub input: Input,
    /// At least 1.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// `None` draws one.
    pub seed: Option<u64>,
    /// None of them is empty.
    pub stop: Vec<String>,
    /// Whether to continue after an end-of-sequence token.
    pub ignore_eos: bool,
    /// How candidates are proposed and accepted.
    pub decoding: Decoding,
    /// Whether every token comes with its log-probability.
    pub log_probs: bool,
    /// How many of the likeliest tokens come with every token; 0 unless `log_probs`.
    pub top_log_probs: usize,
    /// Sequences to generate, at least 1. Sequence `i` is what `seed + i` generates alone.
    pub n: usize,
    /// Whether every iteration's tree is reported.
    pub trace: bool,
}

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Text to be tokenized.
    Text(String),
    /// Tokens, used as they are.
    Tokens(Vec<TokenId>),
    /// A conversation, rendered with the model's chat template.
    Chat(Vec<ChatMessage>),
}

/// A message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who wrote it: `system`, `user` or `assistant`, or whatever else the chat template knows.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// A field of a request. Each API has names of its own for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are the fields of RequestParams and DecodingParams")]
pub enum Field {
    Model,
    Prompt,
    PromptTokens,
    Messages,
    MaxNewTokens,
    Temperature,
    TopK,
    TopP,
    Stop,
    LogProbs,
    TopLogProbs,
    N,
    Method,
    BeamWidth,
    DraftTokens,
    AcceptanceThreshold,
    Beams,
    Reference,
    Branching,
}

/// A field of a request that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.describe(|field| format!("{field:?}")))]
pub struct InvalidRequest {
    /// The field.
    pub field: Field,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A predicate, as it is said after the field's name.
    Is(String),
    /// The field has a value that requires another field to be set.
    Requires {
        /// The field's value.
        value: String,
        /// The other field.
        other: Field,
    },
    /// The prompt leaves no room in the context.
    ContextLength {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
        /// The model whose context it is.
        model: String,
    },
}

impl InvalidRequest {
    /// `field` followed by a predicate: "is 0: it must be at least 1".
    pub fn new(field: Field, predicate: impl Into<String>) -> Self {
        Self { field, problem: Problem::Is(predicate.into()) }
    }

    /// The whole sentence, with the names that an API gives to the fields.
    pub fn describe<N: fmt::Display>(&self, name: impl Fn(Field) -> N) -> String {
        format!("{} {}", name(self.field), self.predicate(name))
    }

    /// What is said after the field's name; other fields have the names that an API gives them.
    pub fn predicate<N: fmt::Display>(&self, name: impl Fn(Field) -> N) -> String {
        match &self.problem {
            Problem::Is(predicate) => predicate.clone(),
            Problem::Requires { value, other } => {
                let other = name(*other);
                format!("is {value}, which requires {other}: set {other} too")
            }
            Problem::ContextLength { tokens, context, model } => format!(
                "has {tokens} tokens, but the context of {model} has {context} and needs one for the answer: shorten the prompt"
            ),
        }
    }
}

impl RequestParams {
    /// The defaults of the paper: MMTAD at temperature 1 with top-k 10 and top-p 0.9; at most 128 tokens.
    pub fn new(input: Input) -> Self {
        Self {
            model: None,
            input,
            max_new_tokens: 128,
            temperature: 1.0,
            top_k: 10,
            top_p: 0.9,
            seed: None,
            stop: Vec::new(),
            ignore_eos: false,
            decoding: DecodingParams::default(),
            log_probs: false,
            top_log_probs: 0,
            n: 1,
            trace: false,
        }
    }

    /// Sets the branching factors, by depth. Only SpecInfer reads them, so with another method they are refused.
    pub fn set_branching(&mut self, branching: Vec<usize>) -> Result<(), InvalidRequest> {
        let method = self.decoding.method;
        if method != Method::SpecInfer {
            let predicate = format!("applies to specinfer only, not to {method}");
            return Err(InvalidRequest::new(Field::Branching, predicate));
        }
        self.decoding.branching = branching;
        Ok(())
    }

    /// Checks every field, whatever the models are.
    pub fn check(self) -> Result<GenerateRequest, InvalidRequest> {
        check_input(&self.input)?;
        if self.max_new_tokens == 0 {
            return Err(InvalidRequest::new(Field::MaxNewTokens, "is 0: it must be at least 1"));
        }
        let sampling = Sampling::new(self.temperature, self.top_k, self.top_p)?;
        check_stop(&self.stop)?;
        let decoding = Decoding::new(self.decoding)?;
        check_top_log_probs(self.top_log_probs, self.log_probs, decoding.method())?;
        if !(1..=MAX_CHOICES).contains(&self.n) {
            let predicate = format!("is {}: it must be between 1 and {MAX_CHOICES}", self.n);
            return Err(InvalidRequest::new(Field::N, predicate));
        }
        Ok(GenerateRequest {
            model: self.model,
            input: self.input,
            max_new_tokens: self.max_new_tokens,
            sampling,
            seed: self.seed,
            stop: self.stop,
            ignore_eos: self.ignore_eos,
            decoding,
            log_probs: self.log_probs,
            top_log_probs: self.top_log_probs,
            n: self.n,
            trace: self.trace,
        })
    }
}

fn check_input(input: &Input) -> Result<(), InvalidRequest> {
    let empty = match input {
        Input::Text(text) if text.is_empty() => Field::Prompt,
        Input::Tokens(tokens) if tokens.is_empty() => Field::Prompt,
        Input::Chat(messages) if messages.is_empty() => Field::Messages,
        _ => return Ok(()),
    };
    let predicate = match empty {
        Field::Messages => "is empty: give at least one message",
        _ => "is empty: give text or token ids",
    };
    Err(InvalidRequest::new(empty, predicate))
}

fn check_stop(stop: &[String]) -> Result<(), InvalidRequest> {
    if stop.len() > MAX_STOP_STRINGS {
        let predicate = format!("has {} strings: at most {MAX_STOP_STRINGS} are allowed", stop.len());
        return Err(InvalidRequest::new(Field::Stop, predicate));
    }
    match stop.iter().find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
        Some(wrong) => {
            let predicate = format!(
                "has a string of {} bytes: each must have between 1 and {MAX_STOP_BYTES}",
                wrong.len()
            );
            Err(InvalidRequest::new(Field::Stop, predicate))
        }
        None => Ok(()),
    }
}

/// Checks how many alternatives per token are requested.
fn check_top_log_probs(n: usize, log_probs: bool, method: Method) -> Result<(), InvalidRequest> {
    let field = Field::TopLogProbs;
    if n == 0 {
        return Ok(());
    }
    if !log_probs {
        let problem = Problem::Requires { value: n.to_string(), other: Field::LogProbs };
        return Err(InvalidRequest { field, problem });
    }
    if n > MAX_TOP_LOG_PROBS {
        let predicate = format!("is {n}: it must be between 0 and {MAX_TOP_LOG_PROBS}");
        return Err(InvalidRequest::new(field, predicate));
    }
    if method == Method::Mtjd {
        let predicate = "is not available with mtjd, whose target proposes and does not score";
        return Err(InvalidRequest::new(field, predicate));
    }
    Ok(())
}

impl From<InvalidSampling> for InvalidRequest {
    fn from(error: InvalidSampling) -> Self {
        let field = match error {
            InvalidSampling::Temperature(_) => Field::Temperature,
            InvalidSampling::TopP(_) => Field::TopP,
        };
        Self::new(field, error.predicate())
    }
}

impl From<InvalidDecoding> for InvalidRequest {
    fn from(error: InvalidDecoding) -> Self {
        let field = match error {
            InvalidDecoding::Drafting(InvalidDrafting::BeamWidth(_)) => Field::BeamWidth,
            InvalidDecoding::Drafting(InvalidDrafting::DraftTokens(_)) => Field::DraftTokens,
            InvalidDecoding::Drafting(InvalidDrafting::Branching(_)) => Field::Branching,
            InvalidDecoding::Threshold(_) => Field::AcceptanceThreshold,
            InvalidDecoding::NotDrawn(_) => Field::Beams,
        };
        Self::new(field, error.predicate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> RequestParams {
        RequestParams::new(Input::Text("x".into()))
    }

    fn refused(params: RequestParams) -> Field {
        params.check().unwrap_err().field
    }

    #[test]
    fn the_defaults_are_the_papers() {
        let request = params().check().unwrap();
        assert_eq!((request.max_new_tokens, request.seed, request.ignore_eos), (128, None, false));
        assert_eq!(request.sampling, Sampling::new(1.0, 10, 0.9).unwrap());
        assert_eq!(request.decoding, Decoding::new(DecodingParams::default()).unwrap());
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused_by_its_field() {
        assert_eq!(refused(RequestParams::new(Input::Text(String::new()))), Field::Prompt);
        assert_eq!(refused(RequestParams::new(Input::Tokens(Vec::new()))), Field::Prompt);
        assert_eq!(refused(RequestParams::new(Input::Chat(Vec::new()))), Field::Messages);
        assert_eq!(refused(RequestParams { max_new_tokens: 0, ..params() }), Field::MaxNewTokens);
        assert_eq!(refused(RequestParams { temperature: f64::NAN, ..params() }), Field::Temperature);
        assert_eq!(refused(RequestParams { top_p: 2.0, ..params() }), Field::TopP);
        assert_eq!(refused(RequestParams { stop: vec![String::new()], ..params() }), Field::Stop);
        assert_eq!(refused(RequestParams { stop: vec!["x".into(); 17], ..params() }), Field::Stop);
        assert_eq!(refused(RequestParams { stop: vec!["x".repeat(257)], ..params() }), Field::Stop);
        for n in [0, MAX_CHOICES + 1, usize::MAX] {
            assert_eq!(refused(RequestParams { n, ..params() }), Field::N);
        }
    }

    #[test]
    fn decoding_parameters_are_refused_by_their_field() {
        let with = |decoding| RequestParams { decoding, ..params() };
        let paper = DecodingParams::default;
        assert_eq!(refused(with(DecodingParams { beam_width: 0, ..paper() })), Field::BeamWidth);
        assert_eq!(refused(with(DecodingParams { draft_tokens: 10_000, ..paper() })), Field::DraftTokens);
        for acceptance_threshold in [0.0, 1.5] {
            let wrong = DecodingParams { acceptance_threshold, ..paper() };
            assert_eq!(refused(with(wrong)), Field::AcceptanceThreshold);
        }
        for branching in [vec![4, 0], vec![usize::MAX; 32]] {
            let wrong = DecodingParams { method: Method::SpecInfer, branching, ..paper() };
            assert_eq!(refused(with(wrong)), Field::Branching);
        }
    }

    #[test]
    fn branching_factors_are_for_specinfer_only() {
        let mut mmtad = params();
        assert_eq!(mmtad.set_branching(vec![2]).unwrap_err().field, Field::Branching);
        let decoding = DecodingParams { method: Method::SpecInfer, ..DecodingParams::default() };
        let mut specinfer = RequestParams { decoding, ..params() };
        specinfer.set_branching(vec![3, 1]).unwrap();
        assert_eq!(specinfer.check().unwrap().decoding.max_tree_nodes(), 6);
    }

    #[test]
    fn alternatives_require_log_probabilities_under_the_names_of_the_api() {
        let error = RequestParams { top_log_probs: 3, ..params() }.check().unwrap_err();
        let name = |field| if field == Field::LogProbs { "logprobs" } else { "top_logprobs" };
        assert_eq!(error.describe(name), "top_logprobs is 3, which requires logprobs: set logprobs too");
        let with = |n| RequestParams { top_log_probs: n, log_probs: true, ..params() };
        assert!(with(MAX_TOP_LOG_PROBS).check().is_ok());
        assert_eq!(refused(with(MAX_TOP_LOG_PROBS + 1)), Field::TopLogProbs);
        let decoding = DecodingParams { method: Method::Mtjd, ..DecodingParams::default() };
        assert_eq!(refused(RequestParams { decoding, ..with(1) }), Field::TopLogProbs);
    }
}
