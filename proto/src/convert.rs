//! Wire to domain, checked, and back.

mod draft;
mod generate;
mod session;
mod target;

use tandem_decoding::{Distribution, Expansion, InvalidSampling, Sampling, TokenId, TokenTree, TreeLimits};

pub use draft::Propose;
pub use generate::{
    GenerateParams, Input, MAX_CANDIDATES, decoding_from_wire, decoding_to_wire, method_from_wire,
    method_to_wire, reference_to_wire,
};
pub use session::{OpenSession, SessionRef};
pub use target::{MAX_TOP_LOG_PROBS, Scores, TokenLogProbs, TopTokens, Wanted};

use crate::{Fault, v1};

impl TryFrom<v1::Sampling> for Sampling {
    type Error = Fault;

    fn try_from(s: v1::Sampling) -> Result<Self, Fault> {
        Self::new(s.temperature, s.top_k as usize, s.top_p).map_err(|e| {
            let field = match e {
                InvalidSampling::Temperature(_) => "temperature",
                InvalidSampling::TopP(_) => "top_p",
            };
            let message = e.to_string();
            // The fault names the field already.
            Fault::invalid(field, message.strip_prefix(field).unwrap_or(&message).trim_start())
        })
    }
}

impl From<Sampling> for v1::Sampling {
    fn from(s: Sampling) -> Self {
        Self { temperature: s.temperature(), top_k: to_u32(s.top_k()), top_p: s.top_p() }
    }
}

impl TryFrom<Option<v1::TokenTree>> for TreeOnWire {
    type Error = Fault;

    fn try_from(tree: Option<v1::TokenTree>) -> Result<Self, Fault> {
        let tree = tree.unwrap_or_default();
        let parent = |p: i32| match p {
            -1 => Ok(None),
            p => usize::try_from(p)
                .map(Some)
                .map_err(|_| Fault::invalid("tree.parents", format!("{p} is no node, nor -1 for the root"))),
        };
        let parents = tree.parents.into_iter().map(parent).collect::<Result<_, _>>()?;
        TokenTree::new(tokens(tree.tokens), parents, TreeLimits::default())
            .map(Self)
            .map_err(|e| Fault::invalid("tree", e))
    }
}

/// A tree that came over the wire; the orphan rule forbids the conversion to [`TokenTree`] itself.
struct TreeOnWire(TokenTree);

impl From<&TokenTree> for v1::TokenTree {
    fn from(tree: &TokenTree) -> Self {
        let parent = |p: &Option<usize>| p.and_then(|p| i32::try_from(p).ok()).unwrap_or(-1);
        Self { tokens: ids(tree.tokens()), parents: tree.parents().iter().map(parent).collect() }
    }
}

impl From<&Distribution> for v1::Distribution {
    fn from(distribution: &Distribution) -> Self {
        let tokens = distribution.tokens();
        // With the filters off every token is possible, and need not be named.
        let all = tokens.last().is_some_and(|last| last.0 as usize + 1 == tokens.len());
        let log_probs = distribution.log_probs().iter().map(|&lp| lp as f32).collect();
        Self { tokens: if all { Vec::new() } else { ids(tokens) }, log_probs }
    }
}

/// A distribution that came over the wire.
fn distribution(wire: v1::Distribution, field: &'static str) -> Result<Distribution, Fault> {
    let tokens =
        if wire.tokens.is_empty() { (0..to_u32(wire.log_probs.len())).collect() } else { wire.tokens };
    let log_probs = wire.log_probs.into_iter().map(f64::from).collect();
    Distribution::new(tokens.into_iter().map(TokenId).collect(), log_probs)
        .map_err(|e| Fault::invalid(field, e))
}

fn expansion_from_wire(number: i32, field: &'static str) -> Result<Expansion, Fault> {
    match v1::Beams::try_from(number) {
        Ok(v1::Beams::Unspecified | v1::Beams::Sampled) => Ok(Expansion::Sampled { replacement: false }),
        Ok(v1::Beams::SampledWithReplacement) => Ok(Expansion::Sampled { replacement: true }),
        Ok(v1::Beams::Top) => Ok(Expansion::Top),
        Err(_) => {
            let names = Expansion::ALL.map(Expansion::name).join(", ");
            Err(Fault::invalid(field, format!("{number} is no way to choose beams: these are {names}")))
        }
    }
}

/// The wire number of an expansion.
pub fn expansion_to_wire(expansion: Expansion) -> v1::Beams {
    match expansion {
        Expansion::Sampled { replacement: false } => v1::Beams::Sampled,
        Expansion::Sampled { replacement: true } => v1::Beams::SampledWithReplacement,
        Expansion::Top => v1::Beams::Top,
    }
}

fn tokens(ids: Vec<u32>) -> Vec<TokenId> {
    ids.into_iter().map(TokenId).collect()
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|t| t.0).collect()
}

/// Counts are far below 2^32; one that is not would be refused by whoever reads it.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use tandem_decoding::{
        Decoding, DecodingParams, DraftTree, Drafting, Draws, JointLogProbs, Method, Purpose, Reference,
        TreeSearch,
    };

    use super::*;

    fn request() -> v1::GenerateRequest {
        v1::GenerateRequest {
            input: Some(v1::generate_request::Input::Prompt("x".into())),
            ..v1::GenerateRequest::default()
        }
    }

    fn field(r: v1::GenerateRequest) -> &'static str {
        match GenerateParams::try_from(r) {
            Err(Fault::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_the_papers() {
        let p = GenerateParams::try_from(request()).unwrap();
        assert_eq!((p.max_new_tokens, p.seed, p.ignore_eos), (128, None, false));
        assert_eq!(p.sampling, Sampling::new(1.0, 10, 0.9).unwrap());
        assert_eq!(p.decoding, Decoding::new(DecodingParams::default()).unwrap());
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let d = |d: v1::DecodingParams| v1::GenerateRequest { decoding: Some(d), ..request() };
        let none = v1::DecodingParams::default();
        assert_eq!(field(v1::GenerateRequest::default()), "prompt");
        assert_eq!(field(v1::GenerateRequest { max_new_tokens: Some(0), ..request() }), "max_new_tokens");
        assert_eq!(field(v1::GenerateRequest { temperature: Some(f64::NAN), ..request() }), "temperature");
        assert_eq!(field(v1::GenerateRequest { top_p: Some(2.0), ..request() }), "top_p");
        assert_eq!(field(v1::GenerateRequest { stop: vec![String::new()], ..request() }), "stop");
        assert_eq!(field(v1::GenerateRequest { stop: vec!["x".into(); 17], ..request() }), "stop");
        assert_eq!(field(d(v1::DecodingParams { method: 99, ..none.clone() })), "decoding.method");
        assert_eq!(
            field(d(v1::DecodingParams { beam_width: Some(0), ..none.clone() })),
            "decoding.beam_width"
        );
        assert_eq!(
            field(d(v1::DecodingParams { draft_tokens: Some(10_000), ..none.clone() })),
            "decoding.draft_tokens"
        );
        for acceptance_threshold in [Some(0.0), Some(1.5)] {
            let wrong = v1::DecodingParams { acceptance_threshold, ..none.clone() };
            assert_eq!(field(d(wrong)), "decoding.acceptance_threshold");
        }
        assert_eq!(field(d(v1::DecodingParams { beams: 9, ..none.clone() })), "decoding.beams");
        assert_eq!(field(d(v1::DecodingParams { reference: 9, ..none.clone() })), "decoding.reference");
        assert_eq!(field(d(v1::DecodingParams { branching: vec![2], ..none.clone() })), "decoding.branching");
        let specinfer = v1::Method::Specinfer.into();
        let with = |branching| d(v1::DecodingParams { method: specinfer, branching, ..none.clone() });
        assert_eq!(field(with(vec![4, 0])), "decoding.branching");
        assert_eq!(field(with(vec![u32::MAX; 32])), "decoding.branching");
    }

    #[test]
    fn a_tree_survives_the_wire_and_a_broken_one_does_not() {
        let wire = |tokens: &[u32], parents: &[i32]| v1::ScoreTreeRequest {
            tree: Some(v1::TokenTree { tokens: tokens.to_vec(), parents: parents.to_vec() }),
            ..v1::ScoreTreeRequest::default()
        };
        let tree = wire(&[5, 6, 5], &[-1, -1, 1]).take_tree().unwrap();
        assert_eq!(tree.path(2), [1, 2]);
        assert_eq!(v1::TokenTree::from(&tree).parents, [-1, -1, 1]);
        for (tokens, parents) in [(&[5][..], &[-2][..]), (&[5], &[0]), (&[5, 5], &[-1, -1]), (&[5], &[])] {
            assert!(wire(tokens, parents).take_tree().is_err(), "{tokens:?} {parents:?}");
        }
    }

    #[test]
    fn decoding_parameters_survive_the_wire() {
        for method in Method::ALL {
            for reference in Reference::ALL {
                let expansion = Expansion::Sampled { replacement: true };
                let branching = if method == Method::SpecInfer { vec![3, 1] } else { vec![4, 2, 2] };
                let params =
                    DecodingParams { method, reference, expansion, branching, ..DecodingParams::default() };
                let again = decoding_from_wire(decoding_to_wire(&params)).unwrap();
                assert_eq!(again, Decoding::new(params).unwrap());
            }
        }
    }

    #[test]
    fn a_distribution_survives_the_wire_rounded() {
        for (top_k, tokens) in [(2, 2), (0, 0)] {
            let sampling = Sampling::new(0.7, top_k, 0.0).unwrap();
            let sent = sampling.warp(&[0.1, -2.0, 1.0, 0.5]).unwrap();
            let wire = v1::Distribution::from(&sent);
            assert_eq!(wire.tokens.len(), tokens);
            let read = distribution(wire, "x").unwrap();
            for ((a, p), (b, q)) in sent.iter().zip(read.iter()) {
                assert!(a == b && (p - q).abs() < 1e-6);
            }
        }
        let ragged = v1::Distribution { tokens: vec![1, 2], log_probs: vec![0.0] };
        assert!(distribution(ragged, "x").is_err());
        assert!(distribution(v1::Distribution::default(), "x").is_err());
    }

    fn drafted(drafting: &Drafting) -> DraftTree {
        let mut search = TreeSearch::new(drafting, false);
        for depth in 0..drafting.depth() {
            let q = Sampling::new(1.0, 3, 0.9).unwrap().warp(&[0.1, -2.0, 1.0, 0.5]).unwrap();
            let q = vec![q; search.frontier().len()];
            search.advance(&q, Draws::new(1).uniforms(9, Purpose::DraftBeams { depth }));
        }
        search.finish()
    }

    #[test]
    fn a_drafts_reply_survives_the_wire_and_is_checked() {
        let drafting = Drafting::Candidates { branching: vec![2, 2], replacement: true };
        let draft = drafted(&drafting);
        let asked = Propose { drafting, log_probs: false };
        let read = |wire: v1::ProposeResponse| wire.into_draft(&asked);
        let (again, _) = read((&draft).into()).unwrap();
        assert_eq!((&again.tree, &again.joint), (&draft.tree, &draft.joint));
        assert_eq!(again.candidates.unwrap().draws(), draft.candidates.as_ref().unwrap().draws());

        let broken = |change: &dyn Fn(&mut v1::ProposeResponse)| {
            let mut wire = (&draft).into();
            change(&mut wire);
            read(wire).unwrap_err()
        };
        broken(&|w| w.joint_log_probs[0] = f64::NAN);
        broken(&|w| w.joint_log_probs[0] = 1.0);
        broken(&|w| w.candidates.as_mut().unwrap().draws[0] = 99);
        broken(&|w| w.candidates.as_mut().unwrap().distributions.clear());
        broken(&|w| w.candidates.as_mut().unwrap().distributions[0].log_probs[0] = f32::NAN);
        let smaller = Propose {
            drafting: Drafting::Candidates { branching: vec![2], replacement: true },
            log_probs: false,
        };
        assert!(v1::ProposeResponse::from(&draft).into_draft(&smaller).is_err());
        let with_log_probs = Propose { log_probs: true, ..asked.clone() };
        assert!(v1::ProposeResponse::from(&draft).into_draft(&with_log_probs).is_err());
    }

    #[test]
    fn a_drafts_request_survives_the_wire_and_is_checked() {
        let beams = Drafting::Beams { width: 4, depth: 3, expansion: Expansion::Top, best_only: true };
        let candidates = Drafting::Candidates { branching: vec![4, 2, 2], replacement: false };
        for drafting in [beams, candidates] {
            let wire =
                v1::ProposeRequest { shape: Some((&drafting).into()), ..v1::ProposeRequest::default() };
            assert_eq!(wire.propose().unwrap().drafting, drafting);
        }
        let shapes = [
            Drafting::Beams { width: 0, depth: 3, expansion: Expansion::Top, best_only: true },
            Drafting::Beams { width: 3, depth: 33, expansion: Expansion::Top, best_only: true },
            Drafting::Candidates { branching: vec![], replacement: false },
            Drafting::Candidates { branching: vec![100, 100], replacement: false },
        ];
        for drafting in &shapes {
            let wire = v1::ProposeRequest { shape: Some(drafting.into()), ..v1::ProposeRequest::default() };
            assert!(wire.propose().is_err(), "{drafting:?}");
        }
        assert!(v1::ProposeRequest::default().propose().is_err());
    }

    #[test]
    fn a_targets_reply_is_checked_too() {
        let tree = TokenTree::new(vec![TokenId(2)], vec![None], TreeLimits::default()).unwrap();
        let p = Sampling::new(1.0, 2, 0.0).unwrap().warp(&[0.1, -2.0, 1.0]).unwrap();
        let scores = Scores {
            joint: JointLogProbs::new(&tree, vec![-1.0]).unwrap(),
            drawn: vec![TokenId(0), TokenId(1)],
            distributions: vec![p.clone(), p],
            log_probs: Some(TokenLogProbs {
                nodes: vec![-1.5],
                drawn: vec![-0.5, -0.25],
                distribution_offsets: vec![-0.5, -1.0],
                top: vec![vec![(TokenId(2), -0.5), (TokenId(0), -0.75)], vec![(TokenId(1), -0.25)]],
            }),
        };
        let all = Wanted { distributions: true, log_probs: true, top_log_probs: 2 };
        let wire = || v1::ScoreTreeResponse::from(scores.clone());
        let read = wire().into_scores(&tree, all).unwrap();
        assert_eq!((&read.drawn, &read.log_probs), (&scores.drawn, &scores.log_probs));
        let plain = wire().into_scores(&tree, Wanted::default()).unwrap();
        assert_eq!((plain.distributions.len(), plain.log_probs), (0, None));

        let broken = |change: &dyn Fn(&mut v1::ScoreTreeResponse)| {
            let mut wire = wire();
            change(&mut wire);
            wire.into_scores(&tree, all).unwrap_err()
        };
        broken(&|w| w.joint_log_probs[0] = f64::NAN);
        broken(&|w| w.drawn_tokens.clear());
        broken(&|w| w.distributions.truncate(1));
        broken(&|w| w.log_probs = None);
        broken(&|w| w.log_probs.as_mut().unwrap().nodes.clear());
        broken(&|w| w.log_probs.as_mut().unwrap().distribution_offsets.clear());
        broken(&|w| w.log_probs.as_mut().unwrap().top.truncate(1));
        broken(&|w| w.log_probs.as_mut().unwrap().top[0].log_probs.truncate(1));
        let one = Wanted { top_log_probs: 1, ..all };
        wire().into_scores(&tree, one).unwrap_err();
    }
}
