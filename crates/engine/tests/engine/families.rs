//! Every family of models against transformers: tiny models with random weights (`families/make.py`), with our kernels and with
//! candle's (the path of a GPU).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod common;

use std::path::PathBuf;

use candle_core::{Device, safetensors};
use common::{KERNELS, Session, assert_close, assert_same, tree_and_paths, write_tokenizer};
use tandem_engine::{Decoder, Kernels, LoadOptions, ModelSource};

const FAMILIES: [&str; 8] =
    ["llama2", "llama3", "llama-bias", "mistral", "mistral-window", "qwen2", "qwen3", "opt"];

fn fixture(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/families").join(family)
}

fn load(family: &str, kernels: Kernels) -> Decoder {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture(family).join(file), dir.path().join(file)).unwrap();
    }
    write_tokenizer(dir.path(), 96);
    let options = LoadOptions { kernels, ..LoadOptions::default() };
    Decoder::load(&ModelSource::Directory(dir.path().into()), &options).unwrap()
}

/// A text, and what transformers gives after each of its tokens.
fn expected(family: &str) -> (Vec<u32>, Vec<Vec<f32>>) {
    let file = safetensors::load(fixture(family).join("expected.safetensors"), &Device::Cpu).unwrap();
    let ids = file["tokens"].to_vec1::<i64>().unwrap().into_iter().map(|id| id as u32).collect();
    (ids, file["logits"].to_vec2().unwrap())
}

#[test]
fn logits_are_those_of_transformers() {
    for (family, kernels) in FAMILIES.iter().flat_map(|family| KERNELS.map(|k| (family, k))) {
        let (ids, logits) = expected(family);
        let model = load(family, kernels);
        // At once, and token by token out of the cache.
        let mut session = Session::new(&model);
        let stepped = ids.iter().flat_map(|&id| session.causal(&[id]));
        for ours in [Session::new(&model).causal(&ids), stepped.collect()] {
            assert_eq!(ours.len(), logits.len());
            for (i, (ours, theirs)) in ours.iter().zip(&logits).enumerate() {
                assert_close(ours, theirs, &format!("{family}, {kernels:?}, token {i}"));
            }
        }
    }
}

#[test]
fn a_tree_pass_equals_its_paths() {
    for (family, kernels) in FAMILIES.iter().flat_map(|family| KERNELS.map(|k| (family, k))) {
        let ids = &expected(family).0[..9];
        tree_and_paths(&load(family, kernels), ids, |node, tree, alone| {
            assert_same(kernels, tree, alone, &format!("{family}, {kernels:?}, node {node}"));
        });
    }
}

#[test]
fn the_context_is_no_longer_than_a_sliding_window() {
    assert_eq!(load("mistral-window", Kernels::Packed).spec().context_length, 16);
    assert_eq!(load("mistral", Kernels::Packed).spec().context_length, 64);
}

#[test]
fn every_stored_number_is_a_parameter() {
    for family in FAMILIES {
        let tensors = safetensors::load(fixture(family).join("model.safetensors"), &Device::Cpu).unwrap();
        let stored: usize = tensors.values().map(candle_core::Tensor::elem_count).sum();
        assert_eq!(load(family, Kernels::Packed).spec().parameters, stored as u64, "{family}");
    }
}
