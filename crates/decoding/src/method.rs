//! The decoding methods that a client can ask for, and their parameters.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{Drafting, Expansion, InvalidDrafting, Reference, Threshold};

/// A decoding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// One token of the target per iteration, no draft.
    Autoregressive,
    /// A chain drawn from the draft, accepted by rejection sampling.
    Speculative,
    /// A tree drawn from the draft, accepted by multi-round rejection sampling.
    SpecInfer,
    /// The best beam alone, accepted by joint likelihood.
    Mtad,
    /// The whole token tree, accepted by joint likelihood.
    Mmtad,
    /// The whole token tree, walked by tokens drawn from the target: the output is the target's own.
    ExactMatch,
    /// Multi-token joint decoding: beams of the target's own joint distribution, the best one committed whole. No draft; slow; what
    /// MTAD and MMTAD approximate. With [`Expansion::Top`] it is the paper's greedy MJGD.
    Mtjd,
}

/// The name of no method.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown method {0:?}: choose one of {names}", names = Method::ALL.map(Method::name).join(", "))]
pub struct UnknownMethod(pub String);

impl Method {
    /// Every method, in the order of the docs.
    pub const ALL: [Self; 7] = [
        Self::Autoregressive,
        Self::Speculative,
        Self::SpecInfer,
        Self::Mtad,
        Self::Mmtad,
        Self::ExactMatch,
        Self::Mtjd,
    ];

    /// Whether the output is distributed exactly as plain sampling from the target (at temperature 0: is its greedy output).
    pub fn is_lossless(self) -> bool {
        !matches!(self, Self::Mtad | Self::Mmtad | Self::Mtjd)
    }

    /// Whether a draft model proposes.
    pub fn drafts(self) -> bool {
        !matches!(self, Self::Autoregressive | Self::Mtjd)
    }

    /// Whether it reads `beam_width`.
    pub fn has_beams(self) -> bool {
        matches!(self, Self::Mtad | Self::Mmtad | Self::ExactMatch | Self::Mtjd)
    }

    /// Whether it reads `acceptance_threshold`.
    pub fn has_threshold(self) -> bool {
        matches!(self, Self::Mtad | Self::Mmtad)
    }

    /// The name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Autoregressive => "autoregressive",
            Self::Speculative => "speculative",
            Self::SpecInfer => "specinfer",
            Self::Mtad => "mtad",
            Self::Mmtad => "mmtad",
            Self::ExactMatch => "exact-match",
            Self::Mtjd => "mtjd",
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

/// A method and its parameters, as given. The default is the paper's. What a method does not read, it does not read.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodingParams {
    /// The method.
    pub method: Method,
    /// `B`: beams per depth.
    pub beam_width: usize,
    /// `γ`: depth of the draft.
    pub draft_tokens: usize,
    /// `τ`, of MTAD and MMTAD.
    pub acceptance_threshold: f64,
    /// How beams are chosen; of candidates, whether with replacement.
    pub expansion: Expansion,
    /// Of MMTAD.
    pub reference: Reference,
    /// Of SpecInfer: children per node, by depth; `draft_tokens` is not read.
    pub branching: Vec<usize>,
}

impl Default for DecodingParams {
    fn default() -> Self {
        Self {
            method: Method::Mmtad,
            beam_width: 4,
            draft_tokens: 4,
            acceptance_threshold: 0.5,
            expansion: Expansion::Sampled { replacement: false },
            reference: Reference::BestBeam,
            branching: vec![4, 2, 2],
        }
    }
}

/// A method and its parameters, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    params: DecodingParams,
    threshold: Threshold,
}

/// Why decoding parameters were refused.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidDecoding {
    #[error(transparent)]
    Drafting(#[from] InvalidDrafting),
    #[error("acceptance_threshold {}", self.predicate())]
    Threshold(f64),
    #[error("beams {}", self.predicate())]
    NotDrawn(Method),
}

impl InvalidDecoding {
    /// What is wrong, as it is said after the parameter's name.
    pub fn predicate(&self) -> String {
        match self {
            Self::Drafting(error) => error.predicate(),
            Self::Threshold(value) => format!("is {value}: it must be above 0 and at most 1"),
            Self::NotDrawn(method) => format!(
                "is \"top\", but {method} accepts by rejection sampling, which requires drawn candidates: choose sampled beams"
            ),
        }
    }
}

impl Decoding {
    /// Checks `params`; all of them, also those that the method does not read.
    pub fn new(params: DecodingParams) -> Result<Self, InvalidDecoding> {
        let DecodingParams { beam_width, draft_tokens, acceptance_threshold, method, expansion, .. } = params;
        let branching = params.branching.clone();
        Drafting::Beams { width: beam_width, depth: draft_tokens, expansion, best_only: false }.check()?;
        Drafting::Candidates { branching, replacement: false }.check()?;
        let candidates = matches!(method, Method::Speculative | Method::SpecInfer);
        if candidates && expansion == Expansion::Top {
            return Err(InvalidDecoding::NotDrawn(method));
        }
        let threshold =
            Threshold::new(acceptance_threshold).ok_or(InvalidDecoding::Threshold(acceptance_threshold))?;
        Ok(Self { params, threshold })
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.params.method
    }

    /// `τ`.
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    /// Of MMTAD.
    pub fn reference(&self) -> Reference {
        self.params.reference
    }

    /// What the draft (for MTJD, the target) is asked for in each iteration; `None` for a method without proposals.
    pub fn drafting(&self) -> Option<Drafting> {
        let DecodingParams { beam_width, draft_tokens, expansion, .. } = self.params;
        let replacement = expansion == Expansion::Sampled { replacement: true };
        let beams =
            |best_only| Drafting::Beams { width: beam_width, depth: draft_tokens, expansion, best_only };
        match self.params.method {
            Method::Autoregressive => None,
            Method::Speculative => {
                Some(Drafting::Candidates { branching: vec![1; draft_tokens], replacement })
            }
            Method::SpecInfer => {
                Some(Drafting::Candidates { branching: self.params.branching.clone(), replacement })
            }
            Method::Mtad | Method::Mtjd => Some(beams(true)),
            Method::Mmtad | Method::ExactMatch => Some(beams(false)),
        }
    }

    /// `γ`: depth of the proposals; 0 for a method without.
    pub fn draft_tokens(&self) -> usize {
        self.drafting().map_or(0, |d| d.depth())
    }

    /// Nodes that a draft can have in hand in one iteration.
    pub fn max_tree_nodes(&self) -> usize {
        self.drafting().map_or(0, |d| d.max_nodes())
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
        for expansion in Expansion::ALL {
            assert_eq!(expansion.name().parse(), Ok(expansion));
        }
        for reference in Reference::ALL {
            assert_eq!(reference.name().parse(), Ok(reference));
        }
    }

    #[test]
    fn nonsense_parameters_are_refused() {
        let paper = DecodingParams::default;
        let refused = |params| Decoding::new(params).unwrap_err();
        assert!(Decoding::new(paper()).is_ok());
        assert_eq!(
            refused(DecodingParams { beam_width: 0, ..paper() }),
            InvalidDrafting::BeamWidth(0).into()
        );
        for draft_tokens in [0, 10_000] {
            let params = DecodingParams { draft_tokens, ..paper() };
            assert_eq!(refused(params), InvalidDrafting::DraftTokens(draft_tokens).into());
        }
        for acceptance_threshold in [0.0, 1.5, f64::NAN] {
            assert!(Decoding::new(DecodingParams { acceptance_threshold, ..paper() }).is_err());
        }
        for branching in [vec![], vec![4, 0], vec![1; 33], vec![16, 16], vec![usize::MAX, usize::MAX]] {
            let params = DecodingParams { branching: branching.clone(), ..paper() };
            assert_eq!(refused(params), InvalidDrafting::Branching(branching).into());
        }
        let top = DecodingParams { method: Method::SpecInfer, expansion: Expansion::Top, ..paper() };
        assert_eq!(refused(top), InvalidDecoding::NotDrawn(Method::SpecInfer));
    }

    #[test]
    fn what_is_asked_of_the_draft() {
        let of = |method| Decoding::new(DecodingParams { method, ..DecodingParams::default() }).unwrap();
        let (depth, nodes): (Vec<_>, Vec<_>) =
            Method::ALL.map(|m| (of(m).draft_tokens(), of(m).max_tree_nodes())).into_iter().unzip();
        assert_eq!(depth, [0, 4, 3, 4, 4, 4, 4]);
        assert_eq!(nodes, [0, 4, 28, 16, 16, 16, 16]);
        assert_eq!(of(Method::SpecInfer).drafting().map(|d| d.no_deeper_than(2).max_nodes()), Some(12));
    }
}
