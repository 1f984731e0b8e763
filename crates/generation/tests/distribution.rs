//! The loop on toy models: what it generates has the distribution that the method promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::HashMap;
use std::time::Duration;

use tandem_decoding::{Decoding, DecodingParams, Expansion, Method, Sampling, TokenId};
use tandem_generation::{Finish, FinishReason, Generation, OpenSession, Token, generate};
use tandem_testkit::{ToyModel, toy_tokenizer};
use tokenizers::Tokenizer;
use tokio::sync::mpsc;
use tokio::time::Instant;

const VOCAB: usize = 4;
const TARGET: ToyModel = ToyModel { vocab: VOCAB, salt: 1 };
const DRAFT: ToyModel = ToyModel { vocab: VOCAB, salt: 2 };
const PROMPT: [TokenId; 2] = [TokenId(0), TokenId(1)];

struct Setting {
    sampling: Sampling,
    decoding: DecodingParams,
}

impl Setting {
    fn new(method: Method, sampling: Sampling, beam_width: usize, draft_tokens: usize) -> Self {
        let branching = vec![beam_width, 2, 1];
        let decoding =
            DecodingParams { method, beam_width, draft_tokens, branching, ..DecodingParams::default() };
        Self { sampling, decoding }
    }

    fn with_replacement(mut self) -> Self {
        self.decoding.expansion = Expansion::Sampled { replacement: true };
        self
    }
}

/// Generates `tokens` tokens, and checks the log-probabilities that come with them.
async fn run(tokenizer: &Tokenizer, setting: &Setting, seed: u64, tokens: usize) -> (Vec<TokenId>, Finish) {
    let Setting { sampling, decoding } = setting;
    let generation = Generation {
        open: OpenSession {
            prompt: PROMPT.to_vec(),
            max_new_tokens: tokens,
            max_tree_nodes: 64,
            sampling: *sampling,
            seed,
            vocab_limit: None,
        },
        decoding: Decoding::new(decoding.clone()).unwrap(),
        log_probs: true,
        // MTJD's target does not score, so it has no alternatives.
        top_log_probs: if decoding.method == Method::Mtjd { 0 } else { 2 },
        trace: false,
        eos: &[],
        stop: &[],
        tokenizer,
        arrived: Instant::now(),
        admitted: Instant::now(),
        deadline: Instant::now() + Duration::from_secs(60),
        observer: &(),
    };
    let (sender, mut chunks) = mpsc::channel(tokens + 1);
    let finish = generate(&DRAFT, &TARGET, &generation, &sender).await.unwrap();
    drop(sender);
    let mut sequence: Vec<Token> = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        sequence.extend(chunk.tokens);
    }
    check_log_probs(&sequence, generation.top_log_probs);
    (sequence.iter().map(|token| token.id).collect(), finish)
}

/// Whatever the method: the log-probabilities of the tokens, and of the likeliest alternatives, are the target's, unwarped.
fn check_log_probs(sequence: &[Token], top: usize) {
    let mut whole = PROMPT.to_vec();
    for token in sequence {
        let p = TARGET.distribution(&whole, Sampling::UNWARPED).unwrap();
        let log_prob = token.log_prob.unwrap();
        let expected = p.log_prob(token.id);
        assert!((log_prob - expected).abs() < 1e-6, "{log_prob} instead of {expected}");
        let mut all: Vec<f64> = p.iter().map(|(_, log_prob)| log_prob).collect();
        all.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(token.top.len(), top);
        for (alternative, best) in token.top.iter().zip(all) {
            let log_prob = alternative.log_prob;
            assert!((log_prob - best).abs() < 1e-6);
            assert!((log_prob - p.log_prob(alternative.id)).abs() < 1e-6);
        }
        whole.push(token.id);
    }
}

/// Probabilities of all continuations of `depth` tokens, by enumeration.
fn exact(sampling: Sampling, depth: usize) -> HashMap<Vec<TokenId>, f64> {
    let mut all = HashMap::from([(Vec::new(), 1.0)]);
    for _ in 0..depth {
        let mut longer = HashMap::new();
        for (sequence, mass) in all {
            let whole = [&PROMPT[..], &sequence].concat();
            for (token, log_prob) in TARGET.distribution(&whole, sampling).unwrap().iter() {
                let continued = [&sequence[..], &[token]].concat();
                longer.insert(continued, mass * log_prob.exp());
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

/// The chi-square statistic of many runs against the exact distribution, and its critical value.
async fn chi_square(setting: &Setting) -> (f64, f64) {
    const RUNS: u32 = 20_000;
    const DEPTH: usize = 3;
    let tokenizer = toy_tokenizer(VOCAB);
    let expected = exact(setting.sampling, DEPTH);
    let mut counts: HashMap<Vec<TokenId>, u32> = HashMap::new();
    for seed in 0..RUNS {
        // More tokens than are counted, so that the limit does not cut trees short.
        let (sequence, _) = run(&tokenizer, setting, u64::from(seed), DEPTH + 4).await;
        *counts.entry(sequence[..DEPTH].to_vec()).or_default() += 1;
    }
    assert!(counts.keys().all(|sequence| expected.contains_key(sequence)), "an impossible sequence");
    let chi2 = expected
        .iter()
        .map(|(sequence, p)| {
            let expected = p * f64::from(RUNS);
            let count = counts.get(sequence).copied().unwrap_or(0);
            (f64::from(count) - expected).powi(2) / expected
        })
        .sum();
    (chi2, critical(expected.len() as f64 - 1.0))
}

fn warped() -> Sampling {
    Sampling::new(1.0, 3, 0.9).unwrap()
}

#[tokio::test]
async fn lossless_methods_sample_the_targets_distribution() {
    let unfiltered = Sampling::UNWARPED;
    for setting in [
        Setting::new(Method::Autoregressive, warped(), 3, 2),
        Setting::new(Method::ExactMatch, warped(), 3, 2),
        Setting::new(Method::ExactMatch, unfiltered, 3, 2),
        Setting::new(Method::Speculative, warped(), 1, 2),
        Setting::new(Method::Speculative, unfiltered, 1, 3),
        Setting::new(Method::SpecInfer, warped(), 2, 3),
        Setting::new(Method::SpecInfer, unfiltered, 3, 3),
        Setting::new(Method::SpecInfer, warped(), 3, 3).with_replacement(),
        Setting::new(Method::SpecInfer, unfiltered, 3, 3).with_replacement(),
    ] {
        assert!(setting.decoding.method.is_lossless());
        let (chi2, limit) = chi_square(&setting).await;
        let Setting { sampling, decoding } = setting;
        assert!(
            chi2 < limit,
            "{decoding:?} under {sampling:?}: chi-square {chi2:.1}, limit {limit:.1} (p = 0.001)"
        );
    }
}

/// That the test above can fail: methods that are not lossless do fail it.
#[tokio::test]
async fn the_chi_square_test_detects_methods_that_are_not_lossless() {
    for method in [Method::Mtad, Method::Mmtad, Method::Mtjd] {
        assert!(!method.is_lossless());
        let (chi2, limit) = chi_square(&Setting::new(method, warped(), 3, 2)).await;
        assert!(chi2 > 2.0 * limit, "{method}: chi-square {chi2:.1}, limit {limit:.1}");
    }
}

/// A seed fixes the draws: lossless methods draw the same token at the same position, drafted or not.
#[tokio::test]
async fn exact_match_generates_what_autoregressive_decoding_generates() {
    let tokenizer = toy_tokenizer(VOCAB);
    for sampling in [Sampling::greedy(), warped()] {
        for seed in 0..200 {
            let with = |method| Setting::new(method, sampling, 3, 3);
            let (plain, _) = run(&tokenizer, &with(Method::Autoregressive), seed, 40).await;
            let (assisted, finish) = run(&tokenizer, &with(Method::ExactMatch), seed, 40).await;
            assert_eq!(plain, assisted, "seed {seed}, {sampling:?}");
            assert!(finish.statistics.accepted > 0);
        }
    }
}

#[tokio::test]
async fn at_temperature_0_every_lossless_method_is_greedy_decoding() {
    let tokenizer = toy_tokenizer(VOCAB);
    let with = |method| Setting::new(method, Sampling::greedy(), 2, 3);
    let (greedy, _) = run(&tokenizer, &with(Method::Autoregressive), 0, 40).await;
    for method in Method::ALL.into_iter().filter(|m| m.is_lossless()) {
        let (sequence, _) = run(&tokenizer, &with(method), 0, 40).await;
        assert_eq!(sequence, greedy, "{method}");
    }
}

/// With as many beams as there are sequences, the best beam is the likeliest sequence of all, found here by enumeration.
#[tokio::test]
async fn mtjd_with_top_beams_generates_the_likeliest_sequence() {
    let tokenizer = toy_tokenizer(VOCAB);
    let mut setting = Setting::new(Method::Mtjd, Sampling::UNWARPED, 32, 3);
    setting.decoding.expansion = Expansion::Top;
    let (sequence, finish) = run(&tokenizer, &setting, 0, 3).await;
    let all = exact(Sampling::UNWARPED, 3);
    let likeliest = all.iter().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    assert_eq!(&sequence, likeliest);
    assert_eq!((finish.statistics.iterations, finish.statistics.accepted), (1, 2));
}

/// One beam of one token leaves no choice.
#[tokio::test]
async fn mtjd_of_one_token_is_plain_sampling() {
    let (chi2, limit) = chi_square(&Setting::new(Method::Mtjd, warped(), 1, 1)).await;
    assert!(chi2 < limit, "chi-square {chi2:.1}, limit {limit:.1}");
}

#[tokio::test]
async fn every_method_ends_at_the_limit_and_counts_its_tokens() {
    let tokenizer = toy_tokenizer(VOCAB);
    for method in Method::ALL {
        for tokens in [1, 2, 7] {
            let setting = Setting::new(method, warped(), 2, 4);
            let (sequence, finish) = run(&tokenizer, &setting, 3, tokens).await;
            let s = &finish.statistics;
            assert_eq!((sequence.len(), s.new_tokens), (tokens, tokens), "{method}");
            assert_eq!(finish.reason, FinishReason::Length);
            assert_eq!(s.iterations + s.accepted, tokens, "{method}: one bonus token per iteration");
            assert_eq!(s.accepted_by_depth.iter().sum::<usize>(), s.accepted);
            assert!(s.total >= s.prefill + s.draft + s.target);
        }
    }
}
