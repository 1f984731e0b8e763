//! The loop on toy models: what it writes is distributed as it must be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::HashMap;
use std::time::Instant;

use tandem_decoding::{Decoding, Method, Sampling, TokenId};
use tandem_orchestrator::{Finish, FinishReason, Job, generate};
use tandem_proto::OpenSession;
use tandem_testkit::{ToyModel, toy_tokenizer};
use tokenizers::Tokenizer;
use tokio::sync::mpsc;

const VOCAB: usize = 4;
const TARGET: ToyModel = ToyModel { vocab: VOCAB, salt: 1 };
const DRAFT: ToyModel = ToyModel { vocab: VOCAB, salt: 2 };

struct Setting {
    method: Method,
    sampling: Sampling,
    beam_width: usize,
    draft_tokens: usize,
}

async fn write(tokenizer: &Tokenizer, setting: &Setting, seed: u64, tokens: usize) -> (Vec<TokenId>, Finish) {
    let Setting { method, sampling, beam_width, draft_tokens } = *setting;
    let job = Job {
        open: OpenSession {
            prompt: vec![TokenId(0), TokenId(1)],
            max_new_tokens: tokens,
            max_tree_nodes: 64,
            sampling,
            seed,
            vocab_limit: None,
        },
        decoding: Decoding::new(method, beam_width, draft_tokens, 0.5).unwrap(),
        with_replacement: false,
        eos: &[],
        stops: &[],
        tokenizer,
        arrived: Instant::now(),
    };
    let (out, mut pieces) = mpsc::channel(tokens + 1);
    let finish = generate(&DRAFT, &TARGET, &job, &out).await.unwrap();
    drop(out);
    let mut text = Vec::new();
    while let Some(piece) = pieces.recv().await {
        text.extend(piece.tokens);
    }
    (text, finish)
}

/// Probabilities of all continuations of `depth` tokens, by enumeration.
fn exact(sampling: Sampling, depth: usize) -> HashMap<Vec<TokenId>, f64> {
    let mut all = HashMap::from([(Vec::new(), 1.0)]);
    for _ in 0..depth {
        let mut longer = HashMap::new();
        for (text, mass) in all {
            let whole: Vec<TokenId> =
                [TokenId(0), TokenId(1)].into_iter().chain(text.iter().copied()).collect();
            for (token, lp) in TARGET.distribution(&whole, sampling).unwrap().iter() {
                let mut text = text.clone();
                text.push(token);
                longer.insert(text, mass * lp.exp());
            }
        }
        all = longer;
    }
    all
}

/// The 99.9 % quantile of the chi-square distribution (Wilson and Hilferty's approximation).
fn critical(degrees: f64) -> f64 {
    let h = 2.0 / (9.0 * degrees);
    degrees * (1.0 - h + 3.0902 * h.sqrt()).powi(3)
}

async fn chi_square(setting: &Setting) -> (f64, f64) {
    const RUNS: u32 = 20_000;
    const DEPTH: usize = 3;
    let tokenizer = toy_tokenizer(VOCAB);
    let expected = exact(setting.sampling, DEPTH);
    let mut counts: HashMap<Vec<TokenId>, u32> = HashMap::new();
    for seed in 0..RUNS {
        // More tokens than are looked at, so that the depth of a tree is not cut short.
        let (text, _) = write(&tokenizer, setting, u64::from(seed), DEPTH + 4).await;
        *counts.entry(text[..DEPTH].to_vec()).or_default() += 1;
    }
    assert!(counts.keys().all(|text| expected.contains_key(text)), "an impossible text");
    let chi2 = expected
        .iter()
        .map(|(text, p)| {
            let expected = p * f64::from(RUNS);
            (f64::from(counts.get(text).copied().unwrap_or(0)) - expected).powi(2) / expected
        })
        .sum();
    (chi2, critical(expected.len() as f64 - 1.0))
}

fn warped() -> Sampling {
    Sampling::new(1.0, 3, 0.9).unwrap()
}

#[tokio::test]
async fn lossless_methods_sample_the_targets_distribution() {
    for (method, sampling) in [
        (Method::Autoregressive, warped()),
        (Method::ExactMatch, warped()),
        (Method::ExactMatch, Sampling::new(1.0, 0, 0.0).unwrap()),
    ] {
        let (chi2, limit) = chi_square(&Setting { method, sampling, beam_width: 3, draft_tokens: 2 }).await;
        assert!(
            chi2 < limit,
            "{method} under {sampling:?}: chi-square {chi2:.1}, limit {limit:.1} (p = 0.001)"
        );
    }
}

/// The test above can fail: a method that is not lossless does.
#[tokio::test]
async fn the_chi_square_test_tells_mmtad_from_the_target() {
    let setting = Setting { method: Method::Mmtad, sampling: warped(), beam_width: 3, draft_tokens: 2 };
    let (chi2, limit) = chi_square(&setting).await;
    assert!(chi2 > 2.0 * limit, "chi-square {chi2:.1}, limit {limit:.1}");
}

/// A seed means something: lossless methods draw the same token at the same position, drafted or not.
#[tokio::test]
async fn exact_match_writes_what_autoregressive_decoding_writes() {
    let tokenizer = toy_tokenizer(VOCAB);
    for sampling in [Sampling::greedy(), warped()] {
        for seed in 0..200 {
            let with = |method| Setting { method, sampling, beam_width: 3, draft_tokens: 3 };
            let (plain, _) = write(&tokenizer, &with(Method::Autoregressive), seed, 40).await;
            let (assisted, finish) = write(&tokenizer, &with(Method::ExactMatch), seed, 40).await;
            assert_eq!(plain, assisted, "seed {seed}, {sampling:?}");
            assert!(finish.statistics.accepted > 0);
        }
    }
}

#[tokio::test]
async fn every_method_ends_where_it_was_told_and_counts_right() {
    let tokenizer = toy_tokenizer(VOCAB);
    for method in Method::ALL {
        for tokens in [1, 2, 7] {
            let setting = Setting { method, sampling: warped(), beam_width: 2, draft_tokens: 4 };
            let (text, finish) = write(&tokenizer, &setting, 3, tokens).await;
            let s = &finish.statistics;
            assert_eq!((text.len(), s.new_tokens), (tokens, tokens), "{method}");
            assert_eq!(finish.reason, FinishReason::Length);
            assert_eq!(s.iterations + s.accepted, tokens, "{method}: one bonus token per iteration");
            assert_eq!(s.accepted_by_depth.iter().sum::<usize>(), s.accepted);
            assert!(s.total >= s.prefill + s.draft + s.target);
        }
    }
}
