//! Forms of a checkpoint: sharded, and in other dtypes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use tandem_engine::{Backend, Decoder, InstructionSet, LoadOptions, ModelSource, Pass, WeightDtype};

use crate::common::{self, root, tokens};

fn draft() -> PathBuf {
    root().join("models/demo/draft")
}

fn logits(dir: &Path, dtype: WeightDtype) -> Vec<f32> {
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    let model = Decoder::load(&ModelSource::Directory(dir.into()), &options).unwrap();
    let pass = Pass::causal(0, tokens(&[0, 532, 28, 201, 422])).with_logits([4]);
    common::logits(model.run(&mut model.new_cache(usize::MAX), &pass).unwrap()).remove(0)
}

#[test]
fn a_sharded_checkpoint_gives_the_same_logits() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(draft().join(file), dir.path().join(file)).unwrap();
    }
    let tensors = candle_core::safetensors::load(draft().join("model.safetensors"), &Device::Cpu).unwrap();
    let mut shards = [HashMap::<String, Tensor>::new(), HashMap::new()];
    let mut index = HashMap::new();
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        index.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", i % 2 + 1));
        shards[i % 2].insert(name, tensor);
    }
    for (i, shard) in shards.iter().enumerate() {
        let path = dir.path().join(format!("model-0000{}-of-00002.safetensors", i + 1));
        candle_core::safetensors::save(shard, path).unwrap();
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": index });
    let index_path = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index_path, index.to_string()).unwrap();
    assert_eq!(logits(dir.path(), WeightDtype::Auto), logits(&draft(), WeightDtype::Auto));

    // An index must not refer to files outside its directory.
    let malicious = serde_json::json!({ "weight_map": { "x": "../../etc/passwd" } });
    std::fs::write(&index_path, malicious.to_string()).unwrap();
    let error = ModelSource::Directory(dir.path().into()).files(None).unwrap_err();
    assert!(error.to_string().contains("is not a valid shard"), "{error}");
}

#[test]
fn widening_f16_is_exact_and_bf16_differs_a_little() {
    // A tile unit adds up bf16 in another order than f32.
    if let Some(isa) = InstructionSet::available().find(|isa| isa.to_string() != "amx") {
        Decoder::use_instruction_set(isa);
    }
    let stored = logits(&draft(), WeightDtype::Auto);
    assert_eq!(stored, logits(&draft(), WeightDtype::F32), "widening f16 is exact");
    assert_eq!(stored, logits(&draft(), WeightDtype::F16));
    let rounded = logits(&draft(), WeightDtype::Bf16);
    let worst = stored.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.3, "the difference of bf16 is {worst}");
}
