//! The decoding methods that a client can ask for, and their parameters.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::Threshold;

/// Most beams per depth.
pub const MAX_BEAM_WIDTH: usize = 32;
/// Most draft tokens per iteration, `γ`.
pub const MAX_DRAFT_TOKENS: usize = 32;

/// A decoding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// One token of the target per iteration, no draft.
    Autoregressive,
    /// The best beam alone, accepted by joint likelihood.
    Mtad,
    /// The whole token tree, accepted by joint likelihood.
    Mmtad,
    /// The whole token tree, walked by tokens drawn from the target: the output is the target's own.
    ExactMatch,
}

/// The name of no method.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown method {0:?}: choose one of autoregressive, mtad, mmtad, exact-match")]
pub struct UnknownMethod(pub String);

impl Method {
    /// Every method, in the order of the docs.
    pub const ALL: [Self; 4] = [Self::Autoregressive, Self::Mtad, Self::Mmtad, Self::ExactMatch];

    /// Whether the output is distributed exactly as plain sampling from the target (at temperature 0: is its greedy output).
    pub fn is_lossless(self) -> bool {
        matches!(self, Self::Autoregressive | Self::ExactMatch)
    }

    /// The name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Autoregressive => "autoregressive",
            Self::Mtad => "mtad",
            Self::Mmtad => "mmtad",
            Self::ExactMatch => "exact-match",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        let wanted = name.to_ascii_lowercase().replace('_', "-");
        Self::ALL.into_iter().find(|m| m.name() == wanted).ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}

/// A method and its parameters, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    method: Method,
    beam_width: usize,
    draft_tokens: usize,
    threshold: Threshold,
}

/// Why decoding parameters were refused.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidDecoding {
    #[error("beam_width is {0}: it must be between 1 and {MAX_BEAM_WIDTH}")]
    BeamWidth(usize),
    #[error("draft_tokens is {0}: it must be between 1 and {MAX_DRAFT_TOKENS}")]
    DraftTokens(usize),
    #[error("acceptance_threshold is {0}: it must be above 0 and at most 1")]
    Threshold(f64),
}

impl Decoding {
    /// `beam_width` is `B`, `draft_tokens` is `γ`, `acceptance_threshold` is `τ`.
    pub fn new(
        method: Method,
        beam_width: usize,
        draft_tokens: usize,
        acceptance_threshold: f64,
    ) -> Result<Self, InvalidDecoding> {
        if !(1..=MAX_BEAM_WIDTH).contains(&beam_width) {
            return Err(InvalidDecoding::BeamWidth(beam_width));
        }
        if !(1..=MAX_DRAFT_TOKENS).contains(&draft_tokens) {
            return Err(InvalidDecoding::DraftTokens(draft_tokens));
        }
        let threshold =
            Threshold::new(acceptance_threshold).ok_or(InvalidDecoding::Threshold(acceptance_threshold))?;
        Ok(Self { method, beam_width, draft_tokens, threshold })
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// `B`.
    pub fn beam_width(&self) -> usize {
        self.beam_width
    }

    /// `γ`; 0 for a method that drafts nothing.
    pub fn draft_tokens(&self) -> usize {
        if self.method == Method::Autoregressive { 0 } else { self.draft_tokens }
    }

    /// `τ`.
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    /// Nodes that a draft can have in hand in one iteration (MTAD proposes but one beam of them).
    pub fn max_tree_nodes(&self) -> usize {
        self.draft_tokens() * self.beam_width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        assert_eq!("EXACT_MATCH".parse(), Ok(Method::ExactMatch));
        assert_eq!("medusa".parse::<Method>(), Err(UnknownMethod("medusa".into())));
    }

    #[test]
    fn nonsense_parameters_are_refused() {
        let with = |b, g, t| Decoding::new(Method::Mmtad, b, g, t);
        assert!(with(4, 4, 0.5).is_ok());
        assert_eq!(with(0, 4, 0.5), Err(InvalidDecoding::BeamWidth(0)));
        assert_eq!(with(4, 0, 0.5), Err(InvalidDecoding::DraftTokens(0)));
        assert_eq!(with(4, 10_000, 0.5), Err(InvalidDecoding::DraftTokens(10_000)));
        assert_eq!(with(4, 4, 0.0), Err(InvalidDecoding::Threshold(0.0)));
        assert_eq!(with(4, 4, 1.5), Err(InvalidDecoding::Threshold(1.5)));
        assert!(with(4, 4, f64::NAN).is_err());
    }
}
