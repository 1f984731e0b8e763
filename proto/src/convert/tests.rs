use tandem_decoding::{
    Decoding, DecodingParams, DraftTree, Drafting, Draws, JointLogProbs, Method, NodeRows, Purpose,
    Reference, TreeSearch,
};

use tandem_generation::{
    DraftRequest, Field, GenerateRequest, Proposal, ScoreRequest, Scores, TokenLogProbs,
};

use super::*;

fn request() -> v1::GenerateRequest {
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Prompt("x".into())),
        ..v1::GenerateRequest::default()
    }
}

fn field(r: v1::GenerateRequest) -> Field {
    GenerateRequest::try_from(r).unwrap_err().field
}

#[test]
fn defaults_are_the_papers() {
    let p = GenerateRequest::try_from(request()).unwrap();
    assert_eq!((p.max_new_tokens, p.seed, p.ignore_eos), (128, None, false));
    assert_eq!(p.sampling, Sampling::new(1.0, 10, 0.9).unwrap());
    assert_eq!(p.decoding, Decoding::new(DecodingParams::default()).unwrap());
}

#[test]
fn values_that_make_no_sense_are_refused_by_field() {
    let d = |d: v1::DecodingParams| v1::GenerateRequest { decoding: Some(d), ..request() };
    let none = v1::DecodingParams::default();
    assert_eq!(field(v1::GenerateRequest::default()), Field::Prompt);
    assert_eq!(field(v1::GenerateRequest { max_new_tokens: Some(0), ..request() }), Field::MaxNewTokens);
    assert_eq!(field(v1::GenerateRequest { temperature: Some(f64::NAN), ..request() }), Field::Temperature);
    assert_eq!(field(v1::GenerateRequest { top_p: Some(2.0), ..request() }), Field::TopP);
    assert_eq!(field(v1::GenerateRequest { stop: vec![String::new()], ..request() }), Field::Stop);
    assert_eq!(field(v1::GenerateRequest { stop: vec!["x".into(); 17], ..request() }), Field::Stop);
    assert_eq!(field(d(v1::DecodingParams { method: 99, ..none.clone() })), Field::Method);
    assert_eq!(field(d(v1::DecodingParams { beam_width: Some(0), ..none.clone() })), Field::BeamWidth);
    assert_eq!(
        field(d(v1::DecodingParams { draft_tokens: Some(10_000), ..none.clone() })),
        Field::DraftTokens
    );
    for acceptance_threshold in [Some(0.0), Some(1.5)] {
        let wrong = v1::DecodingParams { acceptance_threshold, ..none.clone() };
        assert_eq!(field(d(wrong)), Field::AcceptanceThreshold);
    }
    assert_eq!(field(d(v1::DecodingParams { beams: 9, ..none.clone() })), Field::Beams);
    assert_eq!(field(d(v1::DecodingParams { reference: 9, ..none.clone() })), Field::Reference);
    assert_eq!(field(d(v1::DecodingParams { branching: vec![2], ..none.clone() })), Field::Branching);
    let specinfer = v1::Method::Specinfer.into();
    let with = |branching| d(v1::DecodingParams { method: specinfer, branching, ..none.clone() });
    assert_eq!(field(with(vec![4, 0])), Field::Branching);
    assert_eq!(field(with(vec![u32::MAX; 32])), Field::Branching);
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
            let wire = v1::GenerateRequest { decoding: Some(decoding_to_wire(&params)), ..request() };
            let again = GenerateRequest::try_from(wire).unwrap().decoding;
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
    let request = DraftRequest { drafting, log_probs: false };
    let sent = || v1::ProposeResponse::from(Proposal { draft: draft.clone(), log_probs: Vec::new() });
    let read = |wire: v1::ProposeResponse| wire.into_proposal(&request);
    let again = read(sent()).unwrap().draft;
    assert_eq!((&again.tree, &again.joint), (&draft.tree, &draft.joint));
    assert_eq!(again.candidates.unwrap().draws(), draft.candidates.as_ref().unwrap().draws());

    let broken = |change: &dyn Fn(&mut v1::ProposeResponse)| {
        let mut wire = sent();
        change(&mut wire);
        read(wire).unwrap_err()
    };
    broken(&|w| w.joint_log_probs[0] = f64::NAN);
    broken(&|w| w.joint_log_probs[0] = 1.0);
    broken(&|w| w.candidates.as_mut().unwrap().draws[0] = 99);
    broken(&|w| w.candidates.as_mut().unwrap().distributions.clear());
    broken(&|w| w.candidates.as_mut().unwrap().distributions[0].log_probs[0] = f32::NAN);
    let smaller = DraftRequest {
        drafting: Drafting::Candidates { branching: vec![2], replacement: true },
        log_probs: false,
    };
    assert!(sent().into_proposal(&smaller).is_err());
    let with_log_probs = DraftRequest { log_probs: true, ..request.clone() };
    assert!(sent().into_proposal(&with_log_probs).is_err());
}

#[test]
fn a_drafts_request_survives_the_wire_and_is_checked() {
    let beams = Drafting::Beams { width: 4, depth: 3, expansion: Expansion::Top, best_only: true };
    let candidates = Drafting::Candidates { branching: vec![4, 2, 2], replacement: false };
    for drafting in [beams, candidates] {
        let wire = v1::ProposeRequest { shape: Some((&drafting).into()), ..v1::ProposeRequest::default() };
        assert_eq!(wire.draft_request().unwrap().drafting, drafting);
    }
    let shapes = [
        Drafting::Beams { width: 0, depth: 3, expansion: Expansion::Top, best_only: true },
        Drafting::Beams { width: 3, depth: 33, expansion: Expansion::Top, best_only: true },
        Drafting::Candidates { branching: vec![], replacement: false },
        Drafting::Candidates { branching: vec![100, 100], replacement: false },
    ];
    for drafting in &shapes {
        let wire = v1::ProposeRequest { shape: Some(drafting.into()), ..v1::ProposeRequest::default() };
        assert!(wire.draft_request().is_err(), "{drafting:?}");
    }
    assert!(v1::ProposeRequest::default().draft_request().is_err());
}

#[test]
fn a_targets_reply_is_checked_too() {
    let tree = TokenTree::new(vec![TokenId(2)], vec![None], TreeLimits::default()).unwrap();
    let p = Sampling::new(1.0, 2, 0.0).unwrap().warp(&[0.1, -2.0, 1.0]).unwrap();
    let scores = Scores {
        joint: JointLogProbs::new(&tree, vec![-1.0]).unwrap(),
        drawn: NodeRows::new(TokenId(0), [TokenId(1)]),
        distributions: Some(NodeRows::new(p.clone(), [p])),
        log_probs: Some(TokenLogProbs {
            nodes: vec![-1.5],
            drawn: NodeRows::new(-0.5, [-0.25]),
            distribution_offsets: Some(NodeRows::new(-0.5, [-1.0])),
            top: Some(NodeRows::new(
                vec![(TokenId(2), -0.5), (TokenId(0), -0.75)],
                [vec![(TokenId(1), -0.25)]],
            )),
        }),
    };
    let all = ScoreRequest { distributions: true, log_probs: true, top_log_probs: 2 };
    let wire = || v1::ScoreTreeResponse::from(scores.clone());
    let read = wire().into_scores(&tree, all).unwrap();
    assert_eq!((&read.drawn, &read.log_probs), (&scores.drawn, &scores.log_probs));
    let plain = wire().into_scores(&tree, ScoreRequest::default()).unwrap();
    assert_eq!((plain.distributions, plain.log_probs), (None, None));

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
    let one = ScoreRequest { top_log_probs: 1, ..all };
    wire().into_scores(&tree, one).unwrap_err();
}
