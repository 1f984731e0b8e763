//! Rejection sampling against numbers from the authors' own implementation; `crates/testkit/golden/README.md` describes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{Num, cases, floats};
use serde::Deserialize;
use tandem_decoding::{
    Candidates, Distribution, NodeRows, TokenId, TokenTree, TreeLimits, multi_round, test_candidates,
};

/// The tokens of positive probability.
fn distribution(probs: impl IntoIterator<Item = (u32, f64)>) -> Distribution {
    let mut probs: Vec<(u32, f64)> = probs.into_iter().filter(|p| p.1 > 0.0).collect();
    probs.sort_by_key(|p| p.0);
    let (tokens, log_probs) = probs.into_iter().map(|(token, p)| (TokenId(token), p.ln())).unzip();
    Distribution::new(tokens, log_probs).unwrap()
}

fn assert_close(ours: &Distribution, expected: &BTreeMap<u32, f64>, case: &str) {
    for (token, p) in expected {
        let q = ours.log_prob(TokenId(*token)).exp();
        assert!((p - q).abs() < 2e-5, "{case}, token {token}: {q} instead of {p}");
    }
    let mass: f64 = ours.iter().map(|(t, lp)| if expected.contains_key(&t.0) { lp.exp() } else { 0.0 }).sum();
    assert!((mass - 1.0).abs() < 2e-5, "{case}: mass {mass} on the expected tokens");
}

#[derive(Deserialize)]
struct Node {
    mode: String,
    tag: String,
    ground_probs: Vec<Num>,
    cand_probs: Vec<Num>,
    cand_tokens: Vec<u32>,
    uniforms: Vec<f64>,
    uniforms_used: usize,
    accepted_index: i64,
    residual_probs: Vec<Num>,
}

fn dense(probs: &[Num]) -> BTreeMap<u32, f64> {
    (0..).zip(floats(probs)).collect()
}

#[test]
fn specinfer() {
    let mut compared = 0;
    for (i, case) in cases::<Node>("tiny/specinfer.json").into_iter().enumerate() {
        let name = format!("case {i} ({}, {})", case.mode, case.tag);
        let (p, q) = (dense(&case.ground_probs), dense(&case.cand_probs));
        // With fewer possible tokens than candidates the reference draws impossible ones; we draw fewer.
        let possible = |t: &u32| q[t] > 0.0;
        let drawn: Vec<TokenId> = case.cand_tokens.iter().copied().filter(possible).map(TokenId).collect();
        if case.uniforms_used > drawn.len() {
            continue;
        }
        let replacement = case.mode == "with_replacement";
        let mut used = 0;
        let (accepted, residual) =
            test_candidates(&distribution(p), &distribution(q), &drawn, replacement, |round| {
                used = used.max(round + 1);
                case.uniforms[round]
            });
        assert_eq!(
            (accepted, used),
            (usize::try_from(case.accepted_index).ok(), case.uniforms_used),
            "{name}"
        );
        assert_close(&residual, &dense(&case.residual_probs), &name);
        compared += 1;
    }
    assert!(compared >= 430, "only {compared} cases were compared");
}

#[derive(Deserialize)]
struct Tree {
    k_config: Vec<usize>,
    replacement: bool,
    tokens: Vec<u32>,
    parents: Vec<i64>,
    draft_probs: Vec<Vec<BTreeMap<u32, f64>>>,
    ground_probs_root: BTreeMap<u32, f64>,
    ground_probs_nodes: Vec<BTreeMap<u32, f64>>,
    uniforms: Vec<f64>,
    uniforms_used: usize,
    accepted_tokens: Vec<u32>,
    endpoint_probs: BTreeMap<u32, f64>,
}

#[test]
fn specinfer_tree() {
    for (i, case) in cases::<Tree>("tiny/specinfer_tree.json").into_iter().enumerate() {
        let name = format!("case {i} ({:?})", case.k_config);
        // `q` at each node of the reference, the root's first: the levels hold them in node order.
        let q_at: Vec<&BTreeMap<u32, f64>> = case.draft_probs.iter().flatten().collect();
        // Equal siblings are one node for us. The children of a repetition are left out: it is tested, and never accepted, because
        // the rejection before it left its token no mass. Nor do we draw tokens that `q` cannot say, as the reference does when it
        // runs out of tokens without replacement.
        let (mut tokens, mut parents) = (vec![], vec![]);
        let (mut p, mut q) = (vec![distribution(case.ground_probs_root)], vec![]);
        let mut draws = Vec::new();
        // Of every node of the reference, the root first: ours, unless it is left out. Ours are numbered from 1, too.
        let mut ours: Vec<Option<usize>> = vec![Some(0)];
        for (node, &token) in case.tokens.iter().enumerate() {
            let row = usize::try_from(case.parents[node] + 1).unwrap();
            let parent = ours[row].filter(|_| q_at[row].contains_key(&token));
            let Some(parent) = parent else {
                ours.push(None);
                continue;
            };
            let (parent, token) = (parent.checked_sub(1), TokenId(token));
            let known = (0..tokens.len()).find(|&n| (parents[n], tokens[n]) == (parent, token));
            draws.push(known.unwrap_or(tokens.len()));
            ours.push(known.is_none().then_some(tokens.len() + 1));
            if known.is_none() {
                if !parents.contains(&parent) {
                    q.push(distribution(q_at[row].clone()));
                }
                tokens.push(token);
                parents.push(parent);
                p.push(distribution(case.ground_probs_nodes[node].clone()));
            }
        }
        let tree = TokenTree::new(tokens, parents, TreeLimits::default()).unwrap();
        let candidates = Candidates::new(&tree, &case.k_config, draws, q, case.replacement).unwrap();
        let mut uniforms = case.uniforms.iter();
        let p = NodeRows::from_rows(&tree, p).unwrap();
        let verified = multi_round(&tree, &candidates, &p, |_, _| *uniforms.next().unwrap());
        let path = verified.node.map_or_else(Vec::new, |n| tree.path(n));
        let accepted: Vec<u32> = path.into_iter().map(|n| tree.tokens()[n].0).collect();
        assert_eq!(accepted, case.accepted_tokens, "{name}");
        assert_eq!(case.uniforms.len() - uniforms.len(), case.uniforms_used, "{name}");
        assert_close(&verified.residual, &case.endpoint_probs, &name);
    }
}
