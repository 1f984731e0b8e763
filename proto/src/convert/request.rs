//! Requests of clients.

use tandem_decoding::{DecodingParams, Method, Reference};
use tandem_generation::{ChatMessage, Field, GenerateRequest, Input, InvalidRequest, RequestParams};

use super::{expansion_from_wire, expansion_to_wire, to_u32, tokens, unknown_expansion};
use crate::v1;

impl TryFrom<v1::GenerateRequest> for GenerateRequest {
    type Error = InvalidRequest;

    /// Reads and checks a request. What is not given is the paper's default.
    fn try_from(r: v1::GenerateRequest) -> Result<Self, InvalidRequest> {
        let mut params = RequestParams::new(input(r.input)?);
        params.model = Some(r.model).filter(|model| !model.is_empty());
        params.max_new_tokens = r.max_new_tokens.map_or(params.max_new_tokens, |n| n as usize);
        params.temperature = r.temperature.unwrap_or(params.temperature);
        params.top_k = r.top_k.map_or(params.top_k, |k| k as usize);
        params.top_p = r.top_p.unwrap_or(params.top_p);
        params.seed = r.seed;
        params.stop = r.stop;
        params.ignore_eos = r.ignore_eos;
        params.log_probs = r.log_probs;
        params.top_log_probs = r.top_log_probs as usize;
        params.n = r.n.map_or(params.n, |n| n as usize);
        params.trace = r.trace;
        set_decoding(&mut params, r.decoding.unwrap_or_default())?;
        params.check()
    }
}

fn input(wire: Option<v1::generate_request::Input>) -> Result<Input, InvalidRequest> {
    use v1::generate_request::Input as Wire;
    match wire {
        Some(Wire::Prompt(text)) => Ok(Input::Text(text)),
        Some(Wire::Tokens(t)) => Ok(Input::Tokens(tokens(t.ids))),
        Some(Wire::Chat(chat)) => Ok(Input::Chat(chat.messages.into_iter().map(Into::into).collect())),
        None => Err(InvalidRequest::new(Field::Prompt, "is missing: give text, token ids or a chat")),
    }
}

impl From<v1::ChatMessage> for ChatMessage {
    fn from(message: v1::ChatMessage) -> Self {
        Self { role: message.role, content: message.content }
    }
}

fn set_decoding(params: &mut RequestParams, d: v1::DecodingParams) -> Result<(), InvalidRequest> {
    let decoding = &mut params.decoding;
    decoding.method = method_from_wire(d.method)?;
    decoding.beam_width = d.beam_width.map_or(decoding.beam_width, |n| n as usize);
    decoding.draft_tokens = d.draft_tokens.map_or(decoding.draft_tokens, |n| n as usize);
    decoding.acceptance_threshold = d.acceptance_threshold.unwrap_or(decoding.acceptance_threshold);
    decoding.expansion = expansion_from_wire(d.beams)
        .ok_or_else(|| InvalidRequest::new(Field::Beams, unknown_expansion(d.beams)))?;
    decoding.reference = reference_from_wire(d.reference)?;
    if !d.branching.is_empty() {
        params.set_branching(d.branching.into_iter().map(|n| n as usize).collect())?;
    }
    Ok(())
}

/// Decoding parameters as a client writes them.
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

fn reference_from_wire(number: i32) -> Result<Reference, InvalidRequest> {
    match v1::Reference::try_from(number) {
        Ok(v1::Reference::Unspecified | v1::Reference::BestBeam) => Ok(Reference::BestBeam),
        Ok(v1::Reference::Max) => Ok(Reference::Max),
        Err(_) => {
            let names = Reference::ALL.map(Reference::name).join(", ");
            let predicate = format!("is {number}, which is not a reference: choose one of {names}");
            Err(InvalidRequest::new(Field::Reference, predicate))
        }
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
pub fn method_from_wire(number: i32) -> Result<Method, InvalidRequest> {
    let method = match v1::Method::try_from(number) {
        Ok(v1::Method::Unspecified) => Some(Method::Mmtad),
        Ok(wire) => Method::ALL.into_iter().find(|&m| method_to_wire(m) == wire),
        Err(_) => None,
    };
    method.ok_or_else(|| {
        let names = Method::ALL.map(Method::name).join(", ");
        let predicate = format!("is {number}, which is not a method: choose one of {names}");
        InvalidRequest::new(Field::Method, predicate)
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
