//! The memory that a pass takes, counted, against the bound that is known before it runs.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test stops at the first error")]

use peak_alloc::PeakAlloc;
use tandem_decoding::{AncestorMask, TokenId, TokenTree, TreeLimits};
use tandem_engine::{Backend, Decoder, Keep, Kernels, LoadOptions, ModelSource, Pass};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const VOCAB: usize = 4_000;
const CONTEXT: usize = 4_096;

fn model(kernels: Kernels) -> Decoder {
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 128, "intermediate_size": 384, "vocab_size": VOCAB,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT, "tie_word_embeddings": true,
    });
    let path = dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let options = LoadOptions { kernels, ..LoadOptions::default() };
    Decoder::load(&ModelSource::RandomWeights(path), &options).unwrap()
}

fn binary_tree(nodes: usize) -> TokenTree {
    let tokens = (0..nodes).map(|node| TokenId(node as u32)).collect();
    let parents = (0..nodes).map(|node| (node / 2).checked_sub(1)).collect();
    TokenTree::new(tokens, parents, TreeLimits::default()).unwrap()
}

/// Bytes that `pass` takes at its peak. It ran before, so that neither the cache nor what threads keep grows.
fn measured(model: &Decoder, cache: &mut <Decoder as Backend>::Cache, pass: &Pass) -> usize {
    let keep = Keep { prefix: pass.prefix, rows: Vec::new() };
    model.run(cache, pass).unwrap();
    model.keep(cache, &keep).unwrap();
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    model.run(cache, pass).unwrap();
    let peak = ALLOCATED.peak_usage();
    model.keep(cache, &keep).unwrap();
    peak - before
}

/// One test, because tests run at the same time and the allocator counts all of them.
#[test]
fn a_pass_takes_no_more_memory_than_was_known_before() {
    Decoder::use_threads(2);
    for kernels in [Kernels::Packed, Kernels::Candle] {
        let model = model(kernels);
        let mut cache = model.new_cache(CONTEXT);
        for cached in [16, 300, 3_000] {
            let first = model.cached(&cache);
            let prompt = Pass::causal(first, vec![TokenId(1); cached - first]);
            model.run(&mut cache, &prompt).unwrap();
            for rows in [1, 17, 256, 700] {
                let tree = binary_tree(rows - 1);
                let prompt = Pass::causal(cached, vec![TokenId(1); rows]);
                let tree = Pass { mask: AncestorMask::chain_then_tree(1, &tree), ..prompt.clone() };
                for pass in [prompt, tree.with_logits(0..rows)] {
                    let taken = measured(&model, &mut cache, &pass);
                    let bound = model.pass_bytes(rows, cached + rows) + model.output_bytes();
                    assert!(taken <= bound, "{kernels:?}, {rows} rows behind {cached}: {taken} > {bound}");
                }
            }
        }
    }
}
