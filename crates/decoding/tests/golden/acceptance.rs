//! Warping and acceptance by joint likelihood, compared with numbers computed by the authors' implementation
//! (the reference). `crates/testkit/golden/README.md` describes the files.

use std::collections::BTreeMap;

use serde::Deserialize;
use tandem_decoding::{
    InvalidLogits, JointLogProbs, Reference, Sampling, Threshold, TokenId, TokenTree, TreeLimits, mmtad,
};

use super::cases::{Num, cases, floats};

#[derive(Deserialize)]
struct Warp {
    tag: String,
    logits: Vec<Num>,
    temperature: f64,
    top_k: usize,
    top_p: f64,
    /// `"error"` if the reference raises an error.
    probs: Probs,
    n_kept: Option<usize>,
    top_p_boundary_margin: Option<Num>,
    order_dependent: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Probs {
    Of(Vec<Num>),
    Error(String),
}

#[test]
fn warping_agrees_with_the_reference() {
    let mut compared = 0;
    for (i, case) in cases::<Warp>("tiny/norm_logits.json").into_iter().enumerate() {
        let logits: Vec<f32> = case.logits.iter().map(|n| n.0 as f32).collect();
        let sampling = Sampling::new(case.temperature, case.top_k, case.top_p).unwrap();
        let warped = sampling.warp(&logits);
        let probs = match case.probs {
            Probs::Of(probs) => probs,
            Probs::Error(word) => {
                assert_eq!(word, "error");
                assert_eq!(warped, Err(InvalidLogits::NothingPossible));
                continue;
            }
        };
        let warped = warped.unwrap();
        // With top_p = 1, rounding makes the reference drop tokens.
        let top_p_is_one = case.tag == "top_p_one_f32_rounding";
        // If the mass is within rounding of top_p, either result is valid.
        let near_the_cut = case.top_p_boundary_margin.is_some_and(|margin| margin.0 < 1e-6);
        if top_p_is_one || near_the_cut {
            continue;
        }
        let mut expected = floats(&probs);
        let mut ours: Vec<f64> =
            (0..logits.len()).map(|t| warped.log_prob(TokenId(t as u32)).exp()).collect();
        if case.order_dependent == Some(true) {
            expected.sort_by(f64::total_cmp);
            ours.sort_by(f64::total_cmp);
        }
        for (t, (a, b)) in ours.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() < 2e-6, "case {i} ({}), token {t}: {a} instead of {b}", case.tag);
        }
        // The reference counts f32 probabilities above 0, of which some underflow at a low temperature.
        let n_kept = warped.iter().filter(|(_, lp)| lp.exp() as f32 > 0.0).count();
        assert_eq!(Some(n_kept), case.n_kept, "case {i} ({})", case.tag);
        compared += 1;
    }
    assert!(compared >= 110, "only {compared} cases were compared");
}

#[derive(Deserialize)]
struct Chain {
    tag: String,
    draft_logp: Vec<Num>,
    target_logp: Vec<Num>,
    accept_len: BTreeMap<String, usize>,
}

/// A chain of `len` nodes.
fn chain(len: usize) -> TokenTree {
    let parents = (0..len).map(|i| i.checked_sub(1)).collect();
    TokenTree::new(vec![TokenId(0); len], parents, TreeLimits::default()).unwrap()
}

/// The depth of the node that MMTAD accepts (0: none), and the node.
fn accepted_len(
    tree: &TokenTree,
    target: &JointLogProbs,
    levels: &[f64],
    tau: f64,
) -> (usize, Option<usize>) {
    let node = mmtad(tree, target, levels, Threshold::new(tau).unwrap());
    (node.map_or(0, |n| tree.depth(n)), node)
}

#[test]
fn mtad_agrees_with_the_reference() {
    for case in cases::<Chain>("tiny/accept_mtad.json") {
        let tree = chain(case.draft_logp.len());
        let draft = JointLogProbs::from_steps(&tree, &floats(&case.draft_logp)).unwrap();
        let mut steps = floats(&case.target_logp);
        if case.tag.starts_with("exact_tie") {
            // A tie of f32 numbers, which must not pass. In f64 it would depend on the rounding of log τ.
            steps[0] -= 1e-6;
        }
        let target = JointLogProbs::from_steps(&tree, &steps).unwrap();
        let levels = Reference::BestBeam.levels(&tree, &draft);
        for (tau, expected) in &case.accept_len {
            let (len, _) = accepted_len(&tree, &target, &levels, tau.parse().unwrap());
            assert_eq!(len, *expected, "{} at τ = {tau}", case.tag);
        }
    }
}

#[derive(Deserialize)]
struct Levels {
    tag: String,
    beam_width: usize,
    tokens: Vec<Vec<u32>>,
    parents: Vec<i64>,
    target_joint_logp: Vec<Vec<Num>>,
    verify_thres: Vec<Num>,
    results: BTreeMap<String, LevelsResult>,
}

#[derive(Deserialize)]
struct LevelsResult {
    accept_len: usize,
    node: i64,
}

/// A tree of the reference, with a different token for every node.
///
/// The reference's trees may contain equal siblings (drawn with replacement), which would be one node here.
/// Acceptance by joint likelihood does not read tokens, so with different tokens the result is the same.
fn reference_tree(parents: &[i64]) -> TokenTree {
    let parents: Vec<Option<usize>> = parents.iter().map(|&p| usize::try_from(p).ok()).collect();
    let tokens = (0..).map(TokenId).take(parents.len()).collect();
    TokenTree::new(tokens, parents, TreeLimits::default()).unwrap()
}

fn check_levels(file: &str) {
    for (i, case) in cases::<Levels>(file).into_iter().enumerate() {
        assert!(case.tokens.iter().all(|level| level.len() == case.beam_width));
        let tree = reference_tree(&case.parents);
        let joint = floats(&case.target_joint_logp.concat());
        let target = JointLogProbs::new(&tree, joint).unwrap();
        let levels = floats(&case.verify_thres);
        for (tau, expected) in &case.results {
            let (len, node) = accepted_len(&tree, &target, &levels, tau.parse().unwrap());
            assert_eq!(len, expected.accept_len, "case {i} ({}) at τ = {tau}", case.tag);
            assert_eq!(node, usize::try_from(expected.node).ok(), "case {i} ({}) at τ = {tau}", case.tag);
        }
    }
}

#[test]
fn mmtad_agrees_with_version_1_of_the_reference() {
    check_levels("tiny/accept_mmtad_v1.json");
}

#[test]
fn mmtad_agrees_with_version_2_of_the_reference() {
    check_levels("tiny/accept_mmtad_v2.json");
}

#[derive(Deserialize)]
struct Real {
    rule: String,
    tau: f64,
    parents: Vec<i64>,
    draft_logp: Option<Vec<Num>>,
    target_logp: Option<Vec<Num>>,
    target_joint_logp: Option<Vec<Vec<Num>>>,
    verify_thres: Option<Vec<Num>>,
    accept_len: usize,
    accepted_node: i64,
}

/// Tests only the rule: the joint log-probabilities are in the file. The engine's tests compute them with the
/// models.
#[test]
fn acceptance_on_real_models_agrees_with_the_reference() {
    for file in ["tiny/verify_real.json", "demo/verify_real.json"] {
        for (i, case) in cases::<Real>(file).into_iter().enumerate() {
            let tree = reference_tree(&case.parents);
            let (target, levels) = if case.rule == "mtad" {
                let draft = JointLogProbs::from_steps(&tree, &floats(&case.draft_logp.unwrap())).unwrap();
                let target = JointLogProbs::from_steps(&tree, &floats(&case.target_logp.unwrap())).unwrap();
                (target, Reference::BestBeam.levels(&tree, &draft))
            } else {
                let joint = floats(&case.target_joint_logp.unwrap().concat());
                (JointLogProbs::new(&tree, joint).unwrap(), floats(&case.verify_thres.unwrap()))
            };
            let (len, node) = accepted_len(&tree, &target, &levels, case.tau);
            assert_eq!(len, case.accept_len, "{file} case {i}");
            assert_eq!(node, usize::try_from(case.accepted_node).ok(), "{file} case {i}");
        }
    }
}
