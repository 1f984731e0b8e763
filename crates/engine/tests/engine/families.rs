//! Every model family against transformers: tiny models with random weights (`tests/families/make.py`), with
//! our kernels and with candle's, which a GPU uses.

use candle_core::{Device, safetensors};
use tandem_engine::{Decoder, Kernels, LoadOptions, ModelSource};

use crate::common::{
    KERNELS, Session, assert_close, assert_same, family_expected, family_fixture, tree_and_paths,
    write_tokenizer,
};

const FAMILIES: [&str; 8] =
    ["llama2", "llama3", "llama-bias", "mistral", "mistral-window", "qwen2", "qwen3", "opt"];

fn load(family: &str, kernels: Kernels) -> Decoder {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(family_fixture(family).join(file), dir.path().join(file)).unwrap();
    }
    write_tokenizer(dir.path(), 96);
    let options = LoadOptions { kernels, ..LoadOptions::default() };
    Decoder::load(&ModelSource::Directory(dir.path().into()), &options).unwrap()
}

#[test]
fn logits_equal_those_of_transformers() {
    for (family, kernels) in FAMILIES.iter().flat_map(|family| KERNELS.map(|k| (family, k))) {
        let (ids, logits) = family_expected(family);
        let model = load(family, kernels);
        let at_once = Session::new(&model).causal(&ids);
        let mut session = Session::new(&model);
        let token_by_token: Vec<_> = ids.iter().flat_map(|&id| session.causal(&[id])).collect();
        for ours in [at_once, token_by_token] {
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
        let ids = &family_expected(family).0[..9];
        tree_and_paths(&load(family, kernels), ids, |node, tree, alone| {
            assert_same(kernels, tree, alone, &format!("{family}, {kernels:?}, node {node}"));
        });
    }
}

#[test]
fn the_context_is_limited_to_the_sliding_window() {
    assert_eq!(load("mistral-window", Kernels::Packed).spec().context_length, 16);
    assert_eq!(load("mistral", Kernels::Packed).spec().context_length, 64);
}

#[test]
fn every_stored_value_counts_as_a_parameter() {
    for family in FAMILIES {
        let file = family_fixture(family).join("model.safetensors");
        let tensors = safetensors::load(file, &Device::Cpu).unwrap();
        let stored: usize = tensors.values().map(candle_core::Tensor::elem_count).sum();
        assert_eq!(load(family, Kernels::Packed).spec().parameters, stored as u64, "{family}");
    }
}
