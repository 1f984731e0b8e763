//! `config.json` and `generation_config.json`, checked.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tandem_decoding::TokenId;

use super::names::{LLAMA, OPT, TensorNames};
use super::{MlpKind, ModelConfig, NormKind, Positions, RopeScaling, unsupported};
use crate::LoadError;

/// What is fixed for all models of a family, whatever their config.json says.
struct Family {
    model_type: &'static str,
    names: &'static TensorNames,
    norm: NormKind,
    mlp: MlpKind,
    /// The offset of learned positions; rotary ones without.
    learned: Option<usize>,
    qkv_bias: Given,
    output_bias: Given,
    mlp_bias: Given,
    qk_norm: bool,
    window: Window,
    /// Where `tie_word_embeddings` is absent.
    tied: bool,
}

/// Where it is written whether something is there.
#[derive(Clone, Copy)]
enum Given {
    Always,
    Never,
    /// In `attention_bias` or `mlp_bias`.
    InConfig,
}

impl Given {
    fn or(self, configured: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::InConfig => configured,
        }
    }
}

/// Where it is written how far a token looks back.
#[derive(Clone, Copy)]
enum Window {
    Unlimited,
    /// In `sliding_window`.
    Configured,
    /// There too, but only if `use_sliding_window` says so.
    IfUsed,
}

const LLAMA_FAMILY: Family = Family {
    model_type: "llama",
    names: &LLAMA,
    norm: NormKind::Rms,
    mlp: MlpKind::GatedSilu,
    learned: None,
    qkv_bias: Given::InConfig,
    output_bias: Given::InConfig,
    mlp_bias: Given::InConfig,
    qk_norm: false,
    window: Window::Unlimited,
    tied: false,
};

const FAMILIES: [Family; 5] = [
    LLAMA_FAMILY,
    Family {
        model_type: "mistral",
        qkv_bias: Given::Never,
        output_bias: Given::Never,
        mlp_bias: Given::Never,
        window: Window::Configured,
        ..LLAMA_FAMILY
    },
    Family {
        model_type: "qwen2",
        qkv_bias: Given::Always,
        output_bias: Given::Never,
        mlp_bias: Given::Never,
        window: Window::IfUsed,
        ..LLAMA_FAMILY
    },
    Family {
        model_type: "qwen3",
        mlp_bias: Given::Never,
        qk_norm: true,
        window: Window::IfUsed,
        ..LLAMA_FAMILY
    },
    Family {
        model_type: "opt",
        names: &OPT,
        norm: NormKind::Layer,
        mlp: MlpKind::Relu,
        learned: Some(2),
        qkv_bias: Given::Always,
        output_bias: Given::Always,
        mlp_bias: Given::Always,
        tied: true,
        ..LLAMA_FAMILY
    },
];

/// The fields of config.json that matter to any family; `alias` is what OPT calls them.
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
    /// Where newer checkpoints keep `rope_theta` and the scaling.
    rope_parameters: Option<Value>,
    quantization_config: Option<Value>,
    eos_token_id: Option<Eos>,
    word_embed_proj_dim: Option<usize>,
    do_layer_norm_before: Option<bool>,
    enable_bias: Option<bool>,
    layer_norm_elementwise_affine: Option<bool>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<Eos>,
}

/// One token or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Eos {
    Single(u32),
    Multiple(Vec<u32>),
}

impl Eos {
    fn tokens(self) -> Vec<TokenId> {
        match self {
            Self::Single(id) => vec![TokenId(id)],
            Self::Multiple(ids) => ids.into_iter().map(TokenId).collect(),
        }
    }
}

/// `rope_type` llama3.
#[derive(Deserialize)]
struct Llama3 {
    factor: f32,
    low_freq_factor: f32,
    high_freq_factor: f32,
    original_max_position_embeddings: usize,
}

impl ModelConfig {
    /// Reads and checks `config.json`, and the end-of-sequence tokens of `generation_config.json`, which win.
    pub fn read(config: &Path, generation: Option<&Path>) -> Result<Self, LoadError> {
        let fields: Fields = read_json(config)?;
        let refused = |what: String| unsupported(config, what);
        let family = family(&fields).map_err(refused)?;
        refuse_other_arithmetic(&fields, family).map_err(refused)?;
        let positions = match family.learned {
            Some(offset) => Positions::Learned { offset },
            None => rotary(config, &fields)?,
        };
        let window = match family.window {
            Window::Configured => fields.sliding_window,
            Window::IfUsed if fields.use_sliding_window => fields.sliding_window,
            _ => None,
        };
        let heads = fields.num_attention_heads;
        let read = Self {
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
            qkv_bias: family.qkv_bias.or(fields.attention_bias),
            output_bias: family.output_bias.or(fields.attention_bias),
            mlp_bias: family.mlp_bias.or(fields.mlp_bias),
            qk_norm: family.qk_norm,
            context: fields.max_position_embeddings,
            tied: fields.tie_word_embeddings.unwrap_or(family.tied),
            eos: generation_eos(generation)?
                .or_else(|| fields.eos_token_id.map(Eos::tokens))
                .unwrap_or_default(),
            names: family.names,
        };
        read.check().map_err(refused)?;
        Ok(read.within_window(window))
    }
}

/// The end-of-sequence tokens of `generation_config.json`, if it has any.
pub(super) fn generation_eos(generation: Option<&Path>) -> Result<Option<Vec<TokenId>>, LoadError> {
    let Some(path) = generation else { return Ok(None) };
    Ok(read_json::<GenerationConfig>(path)?.eos_token_id.map(Eos::tokens))
}

fn family(fields: &Fields) -> Result<&'static Family, String> {
    // The first Llama checkpoints had no model_type.
    let name = fields.model_type.as_deref().unwrap_or("llama");
    FAMILIES.iter().find(|family| family.model_type == name).ok_or_else(|| {
        let known = FAMILIES.map(|family| family.model_type).join(", ");
        format!("model_type {name:?} is not supported: {known} are")
    })
}

/// Refuses what would change the arithmetic, and that this decoder does not do.
fn refuse_other_arithmetic(fields: &Fields, family: &Family) -> Result<(), String> {
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
    if let Some(part) = fields.partial_rotary_factor.filter(|&part| part != 1.0) {
        return Err(format!("partial_rotary_factor {part} is not supported: only 1 is"));
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

/// The rotary settings, wherever the checkpoint keeps them.
fn rotary(config: &Path, fields: &Fields) -> Result<Positions, LoadError> {
    let new = fields.rope_parameters.as_ref().filter(|p| p.is_object());
    let theta = match new.and_then(|p| p.get("rope_theta")) {
        Some(theta) => Some(from_value(config, theta.clone())?),
        None => fields.rope_theta,
    };
    let scaling = match new.or(fields.rope_scaling.as_ref()).filter(|s| !s.is_null()) {
        None => None,
        Some(scaling) => {
            match scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(|t| t.as_str()) {
                Some("default") => None,
                Some("llama3") => {
                    let s: Llama3 = from_value(config, scaling.clone())?;
                    Some(RopeScaling::Llama3 {
                        factor: s.factor,
                        low_freq_factor: s.low_freq_factor,
                        high_freq_factor: s.high_freq_factor,
                        original_context: s.original_max_position_embeddings,
                    })
                }
                _ => {
                    let what = format!("rope_scaling {scaling} is not supported: only llama3 is");
                    return Err(unsupported(config, what));
                }
            }
        }
    };
    Ok(Positions::Rotary { theta: theta.unwrap_or(10_000.0), scaling })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let text = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

fn from_value<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T, LoadError> {
    serde_json::from_value(value).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
