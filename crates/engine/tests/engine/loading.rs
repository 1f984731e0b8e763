//! Forms in which a checkpoint may come: sharded, in other dtypes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use tandem_decoding::TokenId;
use tandem_engine::{Backend, Decoder, LoadOptions, ModelSource, Pass, Segment, WeightDtype};

fn draft() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/draft")
}

fn logits(dir: &Path, dtype: WeightDtype) -> Vec<f32> {
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    let model = Decoder::load(&ModelSource::Directory(dir.into()), &options).unwrap();
    let ids = [0, 532, 28, 201, 422].map(TokenId).to_vec();
    let pass = Pass { logits: vec![4], ..Pass::causal(0, ids) };
    let mut cache = model.new_cache(usize::MAX);
    let all = model.forward(&mut [Segment { cache: &mut cache, pass: &pass }]).unwrap();
    all[0].rows().next().unwrap().to_vec()
}

#[test]
fn a_sharded_checkpoint_is_the_same_model() {
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

    // An index must not reach outside its directory.
    let evil = serde_json::json!({ "weight_map": { "x": "../../etc/passwd" } });
    std::fs::write(&index_path, evil.to_string()).unwrap();
    let error = ModelSource::Directory(dir.path().into()).files(None).unwrap_err();
    assert!(error.to_string().contains("no plain file name"), "{error}");
}

#[test]
fn weights_in_f16_lose_nothing_against_f32_and_bf16_little() {
    let stored = logits(&draft(), WeightDtype::Auto);
    assert_eq!(stored, logits(&draft(), WeightDtype::F32), "widening f16 is exact");
    assert_eq!(stored, logits(&draft(), WeightDtype::F16));
    let rounded = logits(&draft(), WeightDtype::Bf16);
    let worst = stored.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.3, "bf16 is off by {worst}");
}
