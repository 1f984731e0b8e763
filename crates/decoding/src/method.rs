//! The decoding methods that a client can request, and their parameters.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{Drafting, Expansion, InvalidDrafting, Reference, Threshold};

/// A decoding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// One token of the target per iteration, without a draft.
    Autoregressive,
    /// Speculative sampling: a chain drawn from the draft, accepted by rejection sampling (Leviathan et al.,
    /// 2023).
    Speculative,
    /// SpecInfer: a tree drawn from the draft, accepted by multi-round rejection sampling (Miao et al.,
    /// 2024).
    SpecInfer,
    /// MTAD: the best beam alone, accepted by joint likelihood.
    Mtad,
    /// MMTAD: the whole token tree, accepted by joint likelihood.
    Mmtad,
    /// The whole token tree, walked along tokens drawn from the target, so the output is that of the target
    /// alone.
    ExactMatch,
    /// MTJD, multi-token joint decoding: beams of the joint distribution of the target itself, the best one
    /// committed whole, without a draft. MTAD and MMTAD approximate it; it is slow and serves evaluation.
    /// With [`Expansion::Top`] it is the paper's greedy variant, MJGD.
    Mtjd,
}

/// The error for a name that is not one of [`Method::ALL`]; it holds that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown method {0:?}: choose one of {names}", names = Method::ALL.map(Method::name).join(", "))]
pub struct UnknownMethod(pub String);

impl Method {
    /// All methods, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Autoregressive,
        Self::Speculative,
        Self::SpecInfer,
        Self::Mtad,
        Self::Mmtad,
        Self::ExactMatch,
        Self::Mtjd,
    ];

    /// Whether the output is distributed exactly as plain sampling from the target. At temperature 0: whether
    /// it is the greedy output of the target.
    pub fn is_lossless(self) -> bool {
        !matches!(self, Self::Mtad | Self::Mmtad | Self::Mtjd)
    }

    /// Whether the method uses a draft model.
    pub fn drafts(self) -> bool {
        !matches!(self, Self::Autoregressive | Self::Mtjd)
    }

    /// Whether the method reads `beam_width`.
    pub fn has_beams(self) -> bool {
        matches!(self, Self::Mtad | Self::Mmtad | Self::ExactMatch | Self::Mtjd)
    }

    /// Whether the method reads `acceptance_threshold`.
    pub fn has_threshold(self) -> bool {
        matches!(self, Self::Mtad | Self::Mmtad)
    }

    /// The name that flags, requests and reports use.
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
        let normalised = name.to_ascii_lowercase().replace('_', "-");
        Self::ALL
            .into_iter()
            .find(|method| method.name() == normalised)
            .ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}

/// A method and its parameters, not validated yet; [`Decoding`] validates them. The defaults are the paper's.
/// Parameters that the method does not read have no effect.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodingParams {
    /// The method.
    pub method: Method,
    /// The beam width `B`: beams per depth.
    pub beam_width: usize,
    /// The draft depth `γ`: draft tokens per path and iteration. SpecInfer reads `branching` instead.
    pub draft_tokens: usize,
    /// The acceptance threshold `τ` of MTAD and MMTAD.
    pub acceptance_threshold: f64,
    /// How beams are chosen. For rejection sampling: whether candidates are drawn with replacement.
    pub expansion: Expansion,
    /// The reference levels of MMTAD.
    pub reference: Reference,
    /// SpecInfer's children per node, by the depth of the node: `branching[0]` at the root, and so on.
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

/// A method with valid parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    params: DecodingParams,
    threshold: Threshold,
}

/// Why decoding parameters are invalid.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidDecoding {
    #[error(transparent)]
    Drafting(#[from] InvalidDrafting),
    #[error("acceptance_threshold {}", self.predicate())]
    Threshold(f64),
    #[error("beams {}", self.predicate())]
    NotDrawn(Method),
}

impl InvalidDecoding {
    /// The message without the name of the parameter, for APIs that name the field themselves.
    pub fn predicate(&self) -> String {
        match self {
            Self::Drafting(error) => error.predicate(),
            Self::Threshold(value) => format!("is {value}: it must be above 0 and at most 1"),
            Self::NotDrawn(method) => format!(
                "is \"top\", but {method} accepts by rejection sampling, which requires drawn candidates: \
                 choose sampled beams"
            ),
        }
    }
}

impl Decoding {
    /// Checks all of `params`, including those that the method does not read.
    ///
    /// # Errors
    /// The first parameter that is outside its limits or does not fit the method.
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

    /// The acceptance threshold `τ`.
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    /// The reference levels of MMTAD.
    pub fn reference(&self) -> Reference {
        self.params.reference
    }

    /// The shape of the tree that the draft (for MTJD, the target) proposes in each iteration; `None` for a
    /// method without proposals.
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

    /// The depth `γ` of the proposed trees; 0 for a method without proposals.
    pub fn draft_tokens(&self) -> usize {
        self.drafting().map_or(0, |d| d.depth())
    }

    /// The maximum number of nodes that a draft keeps in one iteration; 0 for a method without proposals.
    pub fn max_tree_nodes(&self) -> usize {
        self.drafting().map_or(0, |d| d.max_nodes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_to_their_values() {
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
    fn invalid_parameters_are_rejected() {
        let paper = DecodingParams::default;
        let error_of = |params| Decoding::new(params).unwrap_err();
        assert!(Decoding::new(paper()).is_ok());
        assert_eq!(
            error_of(DecodingParams { beam_width: 0, ..paper() }),
            InvalidDrafting::BeamWidth(0).into()
        );
        for draft_tokens in [0, 10_000] {
            let params = DecodingParams { draft_tokens, ..paper() };
            assert_eq!(error_of(params), InvalidDrafting::DraftTokens(draft_tokens).into());
        }
        for acceptance_threshold in [0.0, 1.5, f64::NAN] {
            assert!(Decoding::new(DecodingParams { acceptance_threshold, ..paper() }).is_err());
        }
        for branching in [vec![], vec![4, 0], vec![1; 33], vec![16, 16], vec![usize::MAX, usize::MAX]] {
            let params = DecodingParams { branching: branching.clone(), ..paper() };
            assert_eq!(error_of(params), InvalidDrafting::Branching(branching).into());
        }
        let top = DecodingParams { method: Method::SpecInfer, expansion: Expansion::Top, ..paper() };
        assert_eq!(error_of(top), InvalidDecoding::NotDrawn(Method::SpecInfer));
    }

    #[test]
    fn methods_request_trees_of_their_depth_and_size() {
        let of = |method| Decoding::new(DecodingParams { method, ..DecodingParams::default() }).unwrap();
        let (depth, nodes): (Vec<_>, Vec<_>) =
            Method::ALL.map(|m| (of(m).draft_tokens(), of(m).max_tree_nodes())).into_iter().unzip();
        assert_eq!(depth, [0, 4, 3, 4, 4, 4, 4]);
        assert_eq!(nodes, [0, 4, 28, 16, 16, 16, 16]);
        assert_eq!(of(Method::SpecInfer).drafting().map(|d| d.no_deeper_than(2).max_nodes()), Some(12));
    }
}
