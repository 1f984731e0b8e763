//! A published checkpoint, SmolLM2-135M-Instruct as a Q4_1 GGUF, against the numbers of llama.cpp.
//!
//! `crates/engine/tests/published/run.sh` fetches the file and runs these tests. The numbers in
//! `smollm2-135m-instruct.json` were computed by llama.cpp (`make.py`: CPU, f32, KV cache in f32) from the same
//! file with its weights widened to f32.

use std::path::PathBuf;

use serde::Deserialize;
use tandem_engine::{Decoder, InstructionSet, Kernels, LoadOptions, ModelSource, WeightDtype};
use tokenizers::Tokenizer;

use crate::common::{Session, tree_and_paths};

/// Logits that are closer than this to the second largest may change places.
const SMALLEST_GAP: f32 = 0.02;

/// Of log-probabilities. llama.cpp and we add up in different orders.
const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// A text: `log_probs[i]` is that of `ids[i + 1]` after those before it.
#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    log_probs: Vec<f32>,
    last_top_ids: Vec<u32>,
    last_top_log_probs: Vec<f32>,
    /// The likeliest tokens that follow, and how far each logit is above the second one.
    greedy: Vec<u32>,
    greedy_gaps: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/published/smollm2-135m-instruct.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    golden.cases
}

fn load(dtype: WeightDtype) -> Decoder {
    let file = std::env::var_os("TANDEM_PUBLISHED_GGUF").expect("run.sh sets TANDEM_PUBLISHED_GGUF");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::os::unix::fs::symlink(file, &path).unwrap();
    let options = LoadOptions { dtype, kernels: Kernels::Packed, ..LoadOptions::default() };
    Decoder::load(&ModelSource::Gguf(path), &options).unwrap()
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    logits.iter().map(|l| l - largest - sum.ln() as f32).collect()
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

#[test]
#[ignore = "needs a file that tests/published/run.sh fetches"]
fn the_tokenizer_in_the_file_gives_the_ids_of_llama_cpp() {
    let model = load(WeightDtype::Auto);
    let vocabulary = model.spec().vocabulary.as_ref().unwrap();
    let tokenizer = Tokenizer::from_bytes(&vocabulary.json).unwrap();
    for case in cases() {
        let ids = tokenizer.encode(case.text.as_str(), true).unwrap().get_ids().to_vec();
        assert_eq!(ids, case.ids, "{:.20}", case.text);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), case.text);
    }
    let config: serde_json::Value = serde_json::from_slice(&vocabulary.config).unwrap();
    assert_eq!(config["eos_token"], "<|im_end|>");
    assert!(config["chat_template"].as_str().unwrap().contains("<|im_start|>"));
}

#[test]
#[ignore = "needs a file that tests/published/run.sh fetches"]
fn widened_weights_give_the_numbers_of_llama_cpp() {
    let model = load(WeightDtype::F32);
    for case in cases() {
        let mut session = Session::new(&model);
        let rows = session.causal(&case.ids);
        let after: Vec<_> = rows.iter().map(|row| log_softmax(row)).collect();
        for (i, expected) in case.log_probs.iter().enumerate() {
            let ours = after[i][case.ids[i + 1] as usize];
            assert!(
                (ours - expected).abs() < TOLERANCE,
                "{:.20}, token {i}: {ours}, not {expected}",
                case.text
            );
        }
        let last = after.last().unwrap();
        for (&id, expected) in case.last_top_ids.iter().zip(&case.last_top_log_probs) {
            let ours = last[id as usize];
            assert!((ours - expected).abs() < TOLERANCE, "{:.20}, {id}: {ours}, not {expected}", case.text);
        }
        let mut logits = rows.last().unwrap().clone();
        for (i, (&token, &gap)) in case.greedy.iter().zip(&case.greedy_gaps).enumerate() {
            if gap > SMALLEST_GAP {
                assert_eq!(likeliest(&logits), token, "{:.20}, greedy token {i}", case.text);
            }
            logits = session.causal(&[token]).remove(0);
        }
    }
}

#[test]
#[ignore = "needs a file that tests/published/run.sh fetches"]
fn quantised_weights_have_the_perplexity_of_widened_ones() {
    let cases = cases();
    let mut totals = Vec::new();
    // The portable one takes minutes; its layers are tested to have the same bits.
    for isa in InstructionSet::available().filter(|isa| isa.to_string() != "portable") {
        Decoder::use_instruction_set(isa);
        let model = load(WeightDtype::Auto);
        assert_eq!(model.spec().dtype, "q4_1");
        let (mut ours, mut expected, mut count) = (0.0, 0.0, 0);
        for case in &cases {
            let rows = Session::new(&model).causal(&case.ids);
            for (i, golden) in case.log_probs.iter().enumerate() {
                ours += f64::from(log_softmax(&rows[i])[case.ids[i + 1] as usize]);
                expected += f64::from(*golden);
                count += 1;
            }
        }
        let ratio = ((expected - ours) / f64::from(count)).exp();
        println!("{isa}: {:.3} times the perplexity, over {count} tokens", ratio);
        assert!((ratio - 1.0).abs() < 0.02, "{isa}: {ratio} times the perplexity of widened weights");
        totals.push(ours);
        tree_and_paths(&model, &cases[0].ids, |node, tree, alone| {
            assert!(tree == alone, "{isa}, node {node}: the bits differ");
        });
    }
}
