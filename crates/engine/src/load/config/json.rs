//! `config.json` as a [`ModelConfig`].

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::family::{self, Family, Window};
use super::generation::{Eos, generation_eos};
use super::model_config::{MlpKind, ModelConfig, NormKind, Positions};
use super::rope::RopeFields;
use crate::load::error::LoadError;
use crate::load::json_file::read_json;

/// The fields of config.json that matter to any family; an `alias` is the name that OPT uses.
#[derive(Deserialize)]
struct Fields {
    model_type: Option<String>,
    hidden_size: usize,
    #[serde(alias = "ffn_dim")]
    intermediate_size: usize,
    vocab_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f64>,
    #[serde(alias = "activation_function")]
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<usize>,
    #[serde(default)]
    use_sliding_window: bool,
    rope_theta: Option<f32>,
    rope_scaling: Option<Value>,
    /// Newer checkpoints store `rope_theta` and the scaling here.
    rope_parameters: Option<Value>,
    quantization_config: Option<Value>,
    eos_token_id: Option<Eos>,
    word_embed_proj_dim: Option<usize>,
    do_layer_norm_before: Option<bool>,
    enable_bias: Option<bool>,
    layer_norm_elementwise_affine: Option<bool>,
    partial_rotary_factor: Option<f64>,
}

impl ModelConfig {
    /// Reads and checks `config.json`. A sequence ends with the tokens that it states, and with those of
    /// `generation_config.json`.
    ///
    /// # Errors
    /// If a file cannot be read or parsed, if the family is not supported, or if a value is invalid or would
    /// require arithmetic that the decoder does not implement.
    pub fn read(config: &Path, generation: Option<&Path>) -> Result<Self, LoadError> {
        let fields: Fields = read_json(config)?;
        let unsupported = |what: String| LoadError::unsupported(config, what);
        // The first Llama checkpoints had no model_type.
        let model_type = fields.model_type.as_deref().unwrap_or("llama");
        let family = family::find(model_type).map_err(unsupported)?;
        check_arithmetic(&fields, family).map_err(unsupported)?;
        let positions = match family.learned_positions {
            Some(offset) => Positions::Learned { offset },
            None => fields.rope().positions().map_err(unsupported)?,
        };
        let window = match family.window {
            Window::Configured => fields.sliding_window,
            Window::ConfiguredIfUsed if fields.use_sliding_window => fields.sliding_window,
            Window::Unlimited | Window::ConfiguredIfUsed => None,
        };
        let heads = fields.num_attention_heads;
        let mut read = Self {
            hidden: fields.hidden_size,
            intermediate: fields.intermediate_size,
            vocab: fields.vocab_size,
            layers: fields.num_hidden_layers,
            heads,
            kv_heads: fields.num_key_value_heads.unwrap_or(heads),
            head_dim: fields.head_dim.unwrap_or(fields.hidden_size / heads.max(1)),
            norm: family.norm,
            norm_eps: match family.norm {
                NormKind::Rms => fields.rms_norm_eps.unwrap_or(1e-6),
                NormKind::Layer => 1e-5,
            },
            positions,
            mlp: family.mlp,
            qkv_bias: family.qkv_bias.is_present(fields.attention_bias),
            output_bias: family.output_bias.is_present(fields.attention_bias),
            mlp_bias: family.mlp_bias.is_present(fields.mlp_bias),
            qk_norm: family.qk_norm,
            context: fields.max_position_embeddings,
            tied: fields.tie_word_embeddings.unwrap_or(family.tied),
            eos: Vec::new(),
            names: family.names,
        };
        read.check().map_err(unsupported)?;
        read.end_at(generation_eos(generation)?);
        read.end_at(fields.eos_token_id.map(Eos::tokens).unwrap_or_default());
        Ok(read.within_window(window))
    }
}

/// Refuses settings that require arithmetic which the decoder does not implement.
fn check_arithmetic(fields: &Fields, family: &Family) -> Result<(), String> {
    let activation = match family.mlp {
        MlpKind::GatedSilu => "silu",
        MlpKind::Relu => "relu",
    };
    if let Some(other) = fields.hidden_act.as_deref().filter(|&name| name != activation) {
        return Err(format!("hidden_act {other:?} is not supported: only {activation} is"));
    }
    if fields.quantization_config.as_ref().is_some_and(|q| !q.is_null()) {
        return Err("quantised safetensors (quantization_config) are not supported: use a GGUF file".into());
    }
    if let Some(width) = fields.word_embed_proj_dim.filter(|&width| width != fields.hidden_size) {
        return Err(format!(
            "word_embed_proj_dim {width} is not supported: only the hidden size {} is",
            fields.hidden_size
        ));
    }
    let flags = [
        ("do_layer_norm_before", fields.do_layer_norm_before),
        ("enable_bias", fields.enable_bias),
        ("layer_norm_elementwise_affine", fields.layer_norm_elementwise_affine),
    ];
    match flags.iter().find(|(_, flag)| *flag == Some(false)) {
        Some((name, _)) => Err(format!("{name} false is not supported: only true is")),
        None => Ok(()),
    }
}

impl Fields {
    fn rope(&self) -> RopeFields<'_> {
        RopeFields {
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            partial_factor: self.partial_rotary_factor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a small Llama configuration after `change`.
    fn read(change: impl FnOnce(&mut Value)) -> Result<ModelConfig, String> {
        read_with(change, None)
    }

    fn read_with(change: impl FnOnce(&mut Value), generation: Option<&Path>) -> Result<ModelConfig, String> {
        let mut json = serde_json::json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "max_position_embeddings": 256, "eos_token_id": 2
        });
        change(&mut json);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, json.to_string()).unwrap();
        ModelConfig::read(&path, generation).map_err(|e| e.to_string())
    }

    /// All fields, as an older and a newer version of transformers write them.
    #[test]
    fn old_and_new_fields_give_the_same_configuration() {
        let llama3 = serde_json::json!({
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192
        });
        for scaling in [Value::Null, llama3] {
            let old = read(|c| {
                c["torch_dtype"] = "bfloat16".into();
                c["rope_theta"] = 500_000.0.into();
                c["rope_scaling"] = scaling.clone();
            });
            let new = read(|c| {
                c["dtype"] = "bfloat16".into();
                let mut parameters = scaling.as_object().cloned().unwrap_or_default();
                parameters.insert("rope_theta".into(), 500_000.0.into());
                c["rope_parameters"] = parameters.into();
                c.as_object_mut().unwrap().remove("rope_theta");
            });
            let old = old.unwrap();
            assert_eq!(old.head_dim, 16);
            let Positions::Rotary { theta, scaling: read_scaling } = &old.positions else {
                panic!("{old:?}")
            };
            assert_eq!((*theta, read_scaling.is_some()), (500_000.0, !scaling.is_null()));
            assert_eq!(format!("{old:?}"), format!("{:?}", new.unwrap()));
        }
    }

    #[test]
    fn a_sequence_ends_with_the_tokens_of_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let generation = dir.path().join("generation_config.json");
        let eos = |config: Value, generated: Value| {
            std::fs::write(&generation, serde_json::json!({ "eos_token_id": generated }).to_string())
                .unwrap();
            let read = read_with(|c| c["eos_token_id"] = config, Some(&generation)).unwrap();
            read.eos.into_iter().map(|token| token.0).collect::<Vec<_>>()
        };
        assert_eq!(eos(2.into(), serde_json::json!([7, 2])), [7, 2]);
        assert_eq!(eos(serde_json::json!([2, 3]), 9.into()), [9, 2, 3]);
        assert_eq!(eos(2.into(), Value::Null), [2]);
        assert_eq!(eos(Value::Null, 2.into()), [2]);
        // The embedding has 100 rows: the model cannot write token 100.
        assert_eq!(eos(serde_json::json!([2, 100]), 99.into()), [99, 2]);
    }

    fn of_family(model_type: &str) -> ModelConfig {
        read(|c| c["model_type"] = model_type.into()).unwrap()
    }

    /// Whether the queries, the output of the attention, and the MLP have a bias.
    fn biases(config: &ModelConfig) -> (bool, bool, bool) {
        (config.qkv_bias, config.output_bias, config.mlp_bias)
    }

    #[test]
    fn a_family_sets_what_its_config_does_not_state() {
        assert_eq!(biases(&of_family("llama")), (false, false, false));
        assert_eq!(biases(&of_family("mistral")), (false, false, false));
        assert_eq!(biases(&of_family("qwen2")), (true, false, false));
        let qwen3 = of_family("qwen3");
        assert_eq!(biases(&qwen3), (false, false, false));
        assert!(qwen3.qk_norm);
        let biased = read(|c| c["attention_bias"] = true.into()).unwrap();
        assert_eq!(biases(&biased), (true, true, false));
        let opt = of_family("opt");
        assert_eq!(biases(&opt), (true, true, true));
        assert!(opt.tied);
        assert_eq!(opt.norm, NormKind::Layer);
        assert_eq!(opt.mlp, MlpKind::Relu);
        assert_eq!(opt.positions, Positions::Learned { offset: 2 });
    }

    #[test]
    fn a_sliding_window_limits_the_context() {
        let context = |family: &str, used: bool, window: Value| {
            let config = read(|c| {
                c["model_type"] = family.into();
                c["use_sliding_window"] = used.into();
                c["sliding_window"] = window;
            });
            config.unwrap().context
        };
        assert_eq!(context("mistral", false, 100.into()), 100);
        assert_eq!(context("mistral", false, 1000.into()), 256);
        assert_eq!(context("mistral", false, Value::Null), 256);
        assert_eq!(context("qwen2", false, 100.into()), 256);
        assert_eq!(context("qwen3", true, 100.into()), 100);
        assert_eq!(context("llama", true, 100.into()), 256);
    }

    #[test]
    fn settings_that_need_other_arithmetic_are_refused() {
        let yarn = serde_json::json!({ "rope_type": "yarn", "factor": 2.0 });
        let unknown_family =
            "\"gemma\" is not supported: it must be one of llama, mistral, qwen2, qwen3, opt";
        let cases: [(&str, &str, Value); 11] = [
            ("rope_scaling", "only default and llama3 are", yarn.clone()),
            ("rope_parameters", "only default and llama3 are", yarn),
            ("quantization_config", "use a GGUF file", serde_json::json!({ "quant_method": "fp8" })),
            ("model_type", unknown_family, "gemma".into()),
            ("hidden_act", "only silu is", "gelu".into()),
            ("partial_rotary_factor", "0.5 is not supported: only 1 is", 0.5.into()),
            ("num_key_value_heads", "4 attention heads are not a multiple of 3", 3.into()),
            ("vocab_size", "the vocabulary is 0", 0.into()),
            ("num_attention_heads", "attention heads is 0", 0.into()),
            ("do_layer_norm_before", "only true is", false.into()),
            ("word_embed_proj_dim", "only the hidden size 64 is", 32.into()),
        ];
        for (field, expected, value) in cases {
            let error = read(|c| c[field] = value).unwrap_err();
            assert!(error.contains(expected), "{field}: {expected:?} is not in {error:?}");
        }
    }
}
