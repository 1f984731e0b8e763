//! `config.json` and `generation_config.json`, checked.

use std::path::Path;

use candle_transformers::models::llama::{Llama3RopeType, LlamaConfig, LlamaEosToks};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tandem_decoding::TokenId;

use crate::LoadError;

/// The shape of a Llama-family decoder.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated layer.
    pub intermediate: usize,
    /// Rows of the embedding; may be padded beyond the tokenizer's entries.
    pub vocab: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Epsilon of the RMS normalisations.
    pub rms_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Llama 3's frequency scaling.
    pub rope_scaling: Option<RopeScaling>,
    /// Tokens that a text may have.
    pub context: usize,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Tokens that end a text.
    pub eos: Vec<TokenId>,
}

/// Llama 3's scaling of rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are config.json's own")]
pub struct RopeScaling {
    pub factor: f32,
    pub low_freq_factor: f32,
    pub high_freq_factor: f32,
    pub original_context: usize,
}

/// What candle's `LlamaConfig` does not read but changes the arithmetic.
#[derive(Deserialize)]
struct Extra {
    model_type: Option<String>,
    hidden_act: Option<String>,
    head_dim: Option<usize>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    rope_scaling: Option<serde_json::Value>,
    /// Where newer checkpoints keep `rope_theta` and the scaling.
    rope_parameters: Option<serde_json::Value>,
    quantization_config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<LlamaEosToks>,
}

impl ModelConfig {
    /// Reads and checks `config.json`, and the end-of-sequence tokens of `generation_config.json`, which win.
    pub fn read(config: &Path, generation: Option<&Path>) -> Result<Self, LoadError> {
        let unsupported = |what: String| LoadError::Unsupported { path: config.to_owned(), what };
        let mut json: serde_json::Value = read_json(config)?;
        let extra: Extra = from_value(config, json.clone())?;
        if extra.model_type.as_deref().is_some_and(|t| t != "llama") {
            return Err(unsupported(format!(
                "model_type {:?} is not supported: only llama is",
                extra.model_type.unwrap_or_default()
            )));
        }
        if extra.hidden_act.as_deref().is_some_and(|a| a != "silu") {
            return Err(unsupported(format!(
                "hidden_act {:?} is not supported: only silu is",
                extra.hidden_act.unwrap_or_default()
            )));
        }
        if extra.attention_bias || extra.mlp_bias {
            return Err(unsupported("attention_bias and mlp_bias are not supported".into()));
        }
        if extra.quantization_config.is_some_and(|q| !q.is_null()) {
            return Err(unsupported("quantised weights (quantization_config) are not supported".into()));
        }
        if let Some(rope) = extra.rope_parameters.as_ref().filter(|r| r.is_object()) {
            if let Some(theta) = rope.get("rope_theta") {
                json["rope_theta"] = theta.clone();
            }
            json["rope_scaling"] = rope.clone();
        }
        if let Some(scaling) =
            extra.rope_parameters.as_ref().or(extra.rope_scaling.as_ref()).filter(|s| !s.is_null())
        {
            let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(|t| t.as_str());
            match kind {
                Some("llama3") => {}
                // candle's type asks for all fields of llama3, which "default" does not have.
                Some("default") => json["rope_scaling"] = serde_json::Value::Null,
                _ => {
                    return Err(unsupported(format!(
                        "rope_scaling {scaling} is not supported: only llama3 is"
                    )));
                }
            }
        }
        let llama: LlamaConfig = from_value(config, json)?;
        let kv_heads = llama.num_key_value_heads();
        let sizes = [
            ("hidden_size", llama.hidden_size),
            ("intermediate_size", llama.intermediate_size),
            ("vocab_size", llama.vocab_size),
            ("num_hidden_layers", llama.num_hidden_layers),
            ("num_attention_heads", llama.num_attention_heads),
            ("num_key_value_heads", kv_heads),
            ("max_position_embeddings", llama.max_position_embeddings),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=1 << 24).contains(size)) {
            return Err(unsupported(format!("{name} is {size}: it must be between 1 and 16777216")));
        }
        let heads = llama.num_attention_heads;
        if !heads.is_multiple_of(kv_heads) {
            return Err(unsupported(format!(
                "num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
            )));
        }
        let head_dim = extra.head_dim.unwrap_or(llama.hidden_size / heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(unsupported(format!("heads of {head_dim} values: rotary embedding needs pairs")));
        }
        let eos = match generation {
            Some(path) => read_json::<GenerationConfig>(path)?.eos_token_id,
            None => None,
        };
        let eos = match eos.or(llama.eos_token_id) {
            None => Vec::new(),
            Some(LlamaEosToks::Single(id)) => vec![TokenId(id)],
            Some(LlamaEosToks::Multiple(ids)) => ids.into_iter().map(TokenId).collect(),
        };
        let rope_scaling = llama.rope_scaling.filter(|s| matches!(s.rope_type, Llama3RopeType::Llama3));
        Ok(Self {
            hidden: llama.hidden_size,
            intermediate: llama.intermediate_size,
            vocab: llama.vocab_size,
            layers: llama.num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            rms_eps: llama.rms_norm_eps,
            rope_theta: llama.rope_theta,
            rope_scaling: rope_scaling.map(|s| RopeScaling {
                factor: s.factor,
                low_freq_factor: s.low_freq_factor,
                high_freq_factor: s.high_freq_factor,
                original_context: s.original_max_position_embeddings,
            }),
            context: llama.max_position_embeddings,
            tied: llama.tie_word_embeddings.unwrap_or(false),
            eos,
        })
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let text = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

fn from_value<T: DeserializeOwned>(path: &Path, value: serde_json::Value) -> Result<T, LoadError> {
    serde_json::from_value(value).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut serde_json::Value)) -> Result<ModelConfig, String> {
        let mut json = serde_json::json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "max_position_embeddings": 256, "eos_token_id": 2
        });
        change(&mut json);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, json.to_string()).unwrap();
        ModelConfig::read(&path, None).map_err(|e| e.to_string())
    }

    const LLAMA3: &str = r#"{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
        "original_max_position_embeddings":8192,"rope_theta":500000.0}"#;

    #[test]
    fn rotary_settings_are_read_wherever_a_checkpoint_keeps_them() {
        let llama3: serde_json::Value = serde_json::from_str(LLAMA3).unwrap();
        let plain = read(|_| ()).unwrap();
        assert_eq!((plain.rope_theta, plain.rope_scaling, plain.head_dim), (10_000.0, None, 16));
        let old = read(|c| c["rope_scaling"] = llama3.clone()).unwrap();
        assert_eq!(old.rope_scaling.unwrap().factor, 32.0);
        let new = read(|c| c["rope_parameters"] = llama3.clone()).unwrap();
        assert_eq!((new.rope_theta, new.rope_scaling), (500_000.0, old.rope_scaling));
        let default = read(|c| {
            c["rope_parameters"] = serde_json::json!({ "rope_type": "default", "rope_theta": 1e6 });
        });
        let default = default.unwrap();
        assert_eq!((default.rope_theta, default.rope_scaling), (1e6, None));
    }

    #[test]
    fn what_would_change_the_arithmetic_is_refused() {
        let yarn = serde_json::json!({ "rope_type": "yarn", "factor": 2.0 });
        let cases: [(&str, &str, serde_json::Value); 8] = [
            ("rope_scaling", "only llama3 is", yarn.clone()),
            ("rope_parameters", "only llama3 is", yarn),
            ("quantization_config", "quantised weights", serde_json::json!({ "quant_method": "fp8" })),
            ("model_type", "only llama is", "gemma".into()),
            ("hidden_act", "only silu is", "gelu".into()),
            ("attention_bias", "attention_bias", true.into()),
            ("num_key_value_heads", "no multiple", 3.into()),
            ("vocab_size", "vocab_size is 0", 0.into()),
        ];
        for (field, expected, value) in cases {
            let error = read(|c| c[field] = value).unwrap_err();
            assert!(error.contains(expected), "{field}: {expected:?} is not in {error:?}");
        }
    }
}
