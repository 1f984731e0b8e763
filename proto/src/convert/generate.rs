//! Requests of clients.

use tandem_decoding::{Decoding, DecodingParams, InvalidDecoding, Method, Reference, Sampling, TokenId};

use super::{expansion_from_wire, expansion_to_wire, to_u32, tokens};
use crate::{Fault, v1};

/// What a client asked to generate, checked but for what depends on the models.
#[derive(Clone, Debug)]
pub struct GenerateParams {
    /// Text or tokens, not empty.
    pub input: Input,
    /// At least 1.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// `None`: draw one.
    pub seed: Option<u64>,
    /// Not empty, each of them.
    pub stop: Vec<String>,
    /// Go on behind an end of sequence.
    pub ignore_eos: bool,
    /// How candidates are proposed and accepted.
    pub decoding: Decoding,
    /// Give the log-probability of every token with it.
    pub log_probs: bool,
    /// Give every iteration's tree.
    pub trace: bool,
    /// Give this many of the likeliest tokens beside every token.
    pub top_log_probs: usize,
    /// Texts to write, at least 1.
    pub candidates: usize,
    /// The name that the model must have; empty for any.
    pub model: String,
}

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// To be tokenized.
    Text(String),
    /// To be taken as it is.
    Tokens(Vec<TokenId>),
    /// To be rendered with the model's template: roles and contents.
    Chat(Vec<v1::ChatMessage>),
}

/// Limits of stop strings.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;
/// Texts that one request may ask for.
pub const MAX_CANDIDATES: usize = 16;

impl TryFrom<v1::GenerateRequest> for GenerateParams {
    type Error = Fault;

    fn try_from(r: v1::GenerateRequest) -> Result<Self, Fault> {
        use v1::generate_request::Input as Wire;
        let input = match r.input {
            Some(Wire::Prompt(text)) if !text.is_empty() => Input::Text(text),
            Some(Wire::Tokens(t)) if !t.ids.is_empty() => Input::Tokens(tokens(t.ids)),
            Some(Wire::Chat(chat)) if !chat.messages.is_empty() => Input::Chat(chat.messages),
            Some(Wire::Chat(_)) => return Err(Fault::invalid("messages", "is empty: give at least one")),
            _ => return Err(Fault::invalid("prompt", "is empty: give text or token ids")),
        };
        let max_new_tokens = r.max_new_tokens.unwrap_or(128) as usize;
        if max_new_tokens == 0 {
            return Err(Fault::invalid("max_new_tokens", "is 0: it must be at least 1"));
        }
        let sampling = v1::Sampling {
            temperature: r.temperature.unwrap_or(1.0),
            top_k: r.top_k.unwrap_or(10),
            top_p: r.top_p.unwrap_or(0.9),
        };
        if r.stop.len() > MAX_STOPS {
            let message = format!("{} stop strings, the limit is {MAX_STOPS}", r.stop.len());
            return Err(Fault::invalid("stop", message));
        }
        if let Some(stop) = r.stop.iter().find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
            let message = format!("a stop string of {} bytes: 1 to {MAX_STOP_BYTES} are allowed", stop.len());
            return Err(Fault::invalid("stop", message));
        }
        let decoding = decoding_from_wire(r.decoding.unwrap_or_default())?;
        let top_log_probs = super::target::top_log_probs(r.top_log_probs, r.log_probs)?;
        if top_log_probs > 0 && decoding.method() == Method::Mtjd {
            let message = "are not to be had with mtjd, whose target proposes and is not asked to score";
            return Err(Fault::invalid("top_log_probs", message));
        }
        let candidates = r.n.unwrap_or(1) as usize;
        if !(1..=MAX_CANDIDATES).contains(&candidates) {
            return Err(Fault::invalid("n", format!("is {candidates}: 1 to {MAX_CANDIDATES} are allowed")));
        }
        Ok(Self {
            input,
            max_new_tokens,
            sampling: sampling.try_into()?,
            seed: r.seed,
            stop: r.stop,
            ignore_eos: r.ignore_eos,
            decoding,
            log_probs: r.log_probs,
            trace: r.trace,
            top_log_probs,
            candidates,
            model: r.model,
        })
    }
}

/// The decoding of a request; what is not given is the paper's.
pub fn decoding_from_wire(d: v1::DecodingParams) -> Result<Decoding, Fault> {
    let paper = DecodingParams::default();
    let given = |value: Option<u32>, default: usize| value.map_or(default, |v| v as usize);
    let method = method_from_wire(d.method)?;
    if !d.branching.is_empty() && method != Method::SpecInfer {
        return Err(Fault::invalid("decoding.branching", format!("is of specinfer alone, not of {method}")));
    }
    let params = DecodingParams {
        method,
        beam_width: given(d.beam_width, paper.beam_width),
        draft_tokens: given(d.draft_tokens, paper.draft_tokens),
        acceptance_threshold: d.acceptance_threshold.unwrap_or(paper.acceptance_threshold),
        expansion: expansion_from_wire(d.beams, "decoding.beams")?,
        reference: match v1::Reference::try_from(d.reference) {
            Ok(v1::Reference::Unspecified | v1::Reference::BestBeam) => Reference::BestBeam,
            Ok(v1::Reference::Max) => Reference::Max,
            Err(_) => {
                let names = Reference::ALL.map(Reference::name).join(", ");
                let message = format!("{} is no reference: these are {names}", d.reference);
                return Err(Fault::invalid("decoding.reference", message));
            }
        },
        branching: match &d.branching[..] {
            [] => paper.branching,
            given => given.iter().map(|&n| n as usize).collect(),
        },
    };
    Decoding::new(params).map_err(invalid_decoding)
}

/// Names the field within `decoding`, once.
fn invalid_decoding(error: InvalidDecoding) -> Fault {
    let field = match error {
        InvalidDecoding::BeamWidth(_) => "decoding.beam_width",
        InvalidDecoding::DraftTokens(_) => "decoding.draft_tokens",
        InvalidDecoding::Threshold(_) => "decoding.acceptance_threshold",
        InvalidDecoding::Branching(_) => "decoding.branching",
        InvalidDecoding::NotDrawn(_) => "decoding.beams",
    };
    let message = error.to_string();
    let name = field.trim_start_matches("decoding.");
    Fault::invalid(field, message.strip_prefix(name).map_or(message.as_str(), str::trim_start))
}

/// The same as a client writes it.
pub fn decoding_to_wire(p: &DecodingParams) -> v1::DecodingParams {
    let branching = if p.method == Method::SpecInfer { p.branching.as_slice() } else { &[] };
    v1::DecodingParams {
        method: method_to_wire(p.method).into(),
        beam_width: Some(to_u32(p.beam_width)),
        draft_tokens: Some(to_u32(p.draft_tokens)),
        acceptance_threshold: Some(p.acceptance_threshold),
        beams: expansion_to_wire(p.expansion).into(),
        reference: reference_to_wire(p.reference).into(),
        branching: branching.iter().map(|&n| to_u32(n)).collect(),
    }
}

/// The wire number of a reference.
pub fn reference_to_wire(reference: Reference) -> v1::Reference {
    match reference {
        Reference::BestBeam => v1::Reference::BestBeam,
        Reference::Max => v1::Reference::Max,
    }
}

/// The method of a wire number; unspecified is MMTAD.
pub fn method_from_wire(number: i32) -> Result<Method, Fault> {
    let method = match v1::Method::try_from(number) {
        Ok(v1::Method::Unspecified) => Some(Method::Mmtad),
        Ok(wire) => Method::ALL.into_iter().find(|&m| method_to_wire(m) == wire),
        Err(_) => None,
    };
    method.ok_or_else(|| {
        let names = Method::ALL.map(Method::name).join(", ");
        Fault::invalid("decoding.method", format!("{number} is no method: the methods are {names}"))
    })
}

/// The wire number of a method.
pub fn method_to_wire(method: Method) -> v1::Method {
    match method {
        Method::Autoregressive => v1::Method::Autoregressive,
        Method::Speculative => v1::Method::Speculative,
        Method::SpecInfer => v1::Method::Specinfer,
        Method::Mtad => v1::Method::Mtad,
        Method::Mmtad => v1::Method::Mmtad,
        Method::ExactMatch => v1::Method::ExactMatch,
        Method::Mtjd => v1::Method::Mtjd,
    }
}
