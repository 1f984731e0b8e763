//! Rejection sampling, compared with numbers computed by the authors' implementation (the reference).
//! `crates/testkit/golden/README.md` describes the files.

use std::collections::BTreeMap;

use serde::Deserialize;
use tandem_decoding::{
    Candidates, Distribution, NodeRows, TokenId, TokenTree, TreeLimits, multi_round, test_candidates,
};

use super::cases::{Num, cases, floats};

/// The distribution of the tokens with positive probability.
fn distribution(probs: impl IntoIterator<Item = (u32, f64)>) -> Distribution {
    let mut probs: Vec<(u32, f64)> = probs.into_iter().filter(|p| p.1 > 0.0).collect();
    probs.sort_by_key(|p| p.0);
    let (tokens, log_probs) = probs.into_iter().map(|(token, p)| (TokenId(token), p.ln())).unzip();
    Distribution::new(tokens, log_probs).unwrap()
}

/// Asserts that `ours` has the `expected` probabilities, and no mass on other tokens.
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

/// Probabilities by token.
fn dense(probs: &[Num]) -> BTreeMap<u32, f64> {
    (0..).zip(floats(probs)).collect()
}

#[test]
fn testing_candidates_agrees_with_the_reference() {
    let mut compared = 0;
    for (i, case) in cases::<Node>("tiny/specinfer.json").into_iter().enumerate() {
        let name = format!("case {i} ({}, {})", case.mode, case.tag);
        let p = dense(&case.ground_probs);
        let q = dense(&case.cand_probs);
        // With fewer possible tokens than candidates the reference draws impossible ones, where we draw
        // fewer.
        let drawn: Vec<TokenId> =
            case.cand_tokens.iter().filter(|token| q[token] > 0.0).copied().map(TokenId).collect();
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

/// A tree of the reference as this crate represents it.
#[derive(Default)]
struct Merged {
    /// `[nodes]`
    tokens: Vec<TokenId>,
    /// `[nodes]`: `None` is the root.
    parents: Vec<Option<usize>>,
    /// `[draws]`: the node of every draw.
    draws: Vec<usize>,
    /// `[1 + nodes]`: `p` at the root, then at every node.
    p: Vec<Distribution>,
    /// `[parents]`: `q` at every node with children, the root's first.
    q: Vec<Distribution>,
}

impl Merged {
    /// Merges equal siblings into one node and leaves out some nodes of the reference:
    ///
    /// - The children of a repeated candidate. It is tested and never accepted, because the rejection before
    ///   it left no mass for its token.
    /// - Tokens with probability 0 in `q`, which the reference draws without replacement once it runs out of
    ///   others.
    fn new(case: &Tree) -> Self {
        // `q` at the root and at each node of the reference: the levels hold them in node order.
        let q_at: Vec<&BTreeMap<u32, f64>> = case.draft_probs.iter().flatten().collect();
        let mut merged = Self { p: vec![distribution(case.ground_probs_root.clone())], ..Self::default() };
        // The row in `merged` of each row of the reference, `None` if it is left out. Row 0 is the root.
        let mut rows: Vec<Option<usize>> = vec![Some(0)];
        for (node, &token) in case.tokens.iter().enumerate() {
            let parent_row = usize::try_from(case.parents[node] + 1).unwrap();
            let q = q_at[parent_row];
            rows.push(match rows[parent_row] {
                Some(row) if q.contains_key(&token) => {
                    let p = &case.ground_probs_nodes[node];
                    merged.draw(row.checked_sub(1), TokenId(token), p, q)
                }
                _ => None,
            });
        }
        merged
    }

    /// Adds a draw of `token` at `parent`. Returns the row of its node if the node is new.
    fn draw(
        &mut self,
        parent: Option<usize>,
        token: TokenId,
        p: &BTreeMap<u32, f64>,
        q: &BTreeMap<u32, f64>,
    ) -> Option<usize> {
        let node = self.tokens.len();
        let known = (0..node).find(|&n| self.parents[n] == parent && self.tokens[n] == token);
        self.draws.push(known.unwrap_or(node));
        if known.is_some() {
            return None;
        }
        if !self.parents.contains(&parent) {
            self.q.push(distribution(q.clone()));
        }
        self.tokens.push(token);
        self.parents.push(parent);
        self.p.push(distribution(p.clone()));
        Some(node + 1)
    }
}

#[test]
fn multi_round_sampling_agrees_with_the_reference() {
    for (i, case) in cases::<Tree>("tiny/specinfer_tree.json").into_iter().enumerate() {
        let name = format!("case {i} ({:?})", case.k_config);
        let Merged { tokens, parents, draws, p, q } = Merged::new(&case);
        let tree = TokenTree::new(tokens, parents, TreeLimits::default()).unwrap();
        let candidates = Candidates::new(&tree, &case.k_config, draws, q, case.replacement).unwrap();
        let p = NodeRows::from_rows(&tree, p).unwrap();
        let mut uniforms = case.uniforms.iter();
        let verified = multi_round(&tree, &candidates, &p, |_, _| *uniforms.next().unwrap());
        let path = verified.node.map_or_else(Vec::new, |n| tree.path(n));
        let accepted: Vec<u32> = path.into_iter().map(|n| tree.tokens()[n].0).collect();
        assert_eq!(accepted, case.accepted_tokens, "{name}");
        assert_eq!(case.uniforms.len() - uniforms.len(), case.uniforms_used, "{name}");
        assert_close(&verified.residual, &case.endpoint_probs, &name);
    }
}
