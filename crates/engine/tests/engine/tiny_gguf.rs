//! A GGUF file of a model that is as small as one can be, around the metadata of a tokenizer.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use tandem_engine::{Decoder, LoadError, LoadOptions, ModelSource};

const HIDDEN: usize = 32;

/// Writes a model of the architecture `llama` with `rows` embeddings, all zero, and with `metadata` besides.
pub(crate) fn write(path: &Path, metadata: &HashMap<String, Value>, rows: usize) {
    let mut metadata = metadata.clone();
    metadata.insert("general.architecture".into(), Value::String("llama".into()));
    let sizes = [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", HIDDEN),
        ("attention.head_count", 2),
    ];
    metadata.extend(sizes.map(|(key, size)| (format!("llama.{key}"), Value::U32(size as u32))));
    let matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let matrices = matrices.map(|name| (format!("blk.0.{name}.weight"), vec![HIDDEN, HIDDEN]));
    let norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"];
    let norms = norms.map(|name| (format!("{name}.weight"), vec![HIDDEN]));
    let embedding = ("token_embd.weight".to_owned(), vec![rows, HIDDEN]);
    let tensors: Vec<(String, QTensor)> = [embedding]
        .into_iter()
        .chain(matrices)
        .chain(norms)
        .map(|(name, shape)| {
            let dtype = if shape.len() == 2 { GgmlDType::Q8_0 } else { GgmlDType::F32 };
            let zeros = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            (name, QTensor::quantize(&zeros, dtype).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// Loads a model that [`write`] made of `metadata`, alone in its directory.
pub(crate) fn load(metadata: &HashMap<String, Value>, rows: usize) -> Result<Decoder, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, metadata, rows);
    Decoder::load(&ModelSource::Gguf(path), &LoadOptions::default())
}
