//! The metadata of a GGUF file as a shape.

use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::Value;
use tandem_decoding::TokenId;

use super::json::generation_eos;
use super::names::GGUF;
use super::{MlpKind, ModelConfig, NormKind, Positions, RopeScaling, unsupported};
use crate::LoadError;
use crate::gguf::Gguf;

/// Mistral's files say `llama`.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];
/// What the rotary frequencies are divided by, if they are.
const DIVISORS: &str = "rope_freqs.weight";

impl ModelConfig {
    /// Reads and checks the metadata. Biases and norms of heads are there if their tensors are.
    pub(crate) fn read_gguf(file: &Gguf, generation: Option<&Path>) -> Result<Self, LoadError> {
        let refused = |what: String| unsupported(file.path(), what);
        let architecture = file.architecture();
        if !ARCHITECTURES.contains(&architecture) {
            let known = ARCHITECTURES.join(", ");
            return Err(refused(format!("architecture {architecture:?} is not supported: {known} are")));
        }
        let optional = |key: &str| match file.metadata(&format!("{architecture}.{key}")) {
            None => Ok(None),
            Some(value) => whole(value).map(Some).ok_or_else(|| {
                refused(format!("{architecture}.{key} is {value:?}: only a single whole number is supported"))
            }),
        };
        let number =
            |key: &str| optional(key)?.ok_or_else(|| refused(format!("{architecture}.{key} is missing")));
        let float =
            |key: &str| file.metadata(&format!("{architecture}.{key}")).and_then(|value| value.to_f32().ok());
        if let Some(experts) = optional("expert_count")?.filter(|&n| n > 0) {
            return Err(refused(format!("a mixture of {experts} experts is not supported")));
        }
        let scaling = file.metadata(&format!("{architecture}.rope.scaling.type"));
        if let Some(scaling) = scaling.and_then(|v| v.to_string().ok()).filter(|s| *s != "none") {
            return Err(refused(format!("rope scaling {scaling:?} is not supported")));
        }
        let (hidden, heads) = (number("embedding_length")?, number("attention.head_count")?);
        let head_dim = optional("attention.key_length")?.unwrap_or(hidden / heads.max(1));
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = optional(key)?.filter(|&n| n != head_dim) {
                return Err(refused(format!("{architecture}.{key} is {other}, heads have {head_dim}")));
            }
        }
        let layer = |name: &str| file.has(&format!("{}0.{name}", GGUF.layer));
        let scaling = match file.has(DIVISORS) {
            true => Some(RopeScaling::Divisors(
                file.tensor(DIVISORS, &Device::Cpu)?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?,
            )),
            false => None,
        };
        let embedding = file.shape(&format!("{}.weight", GGUF.embedding))?;
        let read = Self {
            hidden,
            intermediate: number("feed_forward_length")?,
            vocab: embedding.first().copied().unwrap_or(0),
            layers: number("block_count")?,
            heads,
            kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            norm: NormKind::Rms,
            norm_eps: float("attention.layer_norm_rms_epsilon").map_or(1e-6, f64::from),
            positions: Positions::Rotary { theta: float("rope.freq_base").unwrap_or(10_000.0), scaling },
            mlp: MlpKind::GatedSilu,
            qkv_bias: layer(&format!("{}.bias", GGUF.q)),
            output_bias: layer(&format!("{}.bias", GGUF.output)),
            mlp_bias: layer(&format!("{}.bias", GGUF.up)),
            qk_norm: layer(&format!("{}.weight", GGUF.q_norm)),
            context: number("context_length")?,
            tied: !file.has(&format!("{}.weight", GGUF.head)),
            eos: generation_eos(generation)?.unwrap_or_else(|| end_tokens(file)),
            names: &GGUF,
        };
        read.check().map_err(refused)?;
        let window = optional("attention.sliding_window")?.filter(|&window| window > 0);
        Ok(read.within_window(window))
    }
}

/// End of sequence and end of turn.
fn end_tokens(file: &Gguf) -> Vec<TokenId> {
    let keys = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
    let mut tokens: Vec<TokenId> =
        keys.iter().filter_map(|key| file.metadata(key)?.to_u32().ok()).map(TokenId).collect();
    tokens.dedup();
    tokens
}

/// A whole number that is not negative, of whatever width.
fn whole(value: &Value) -> Option<usize> {
    let signed = match *value {
        Value::I8(v) => i64::from(v),
        Value::I16(v) => i64::from(v),
        Value::I32(v) => i64::from(v),
        Value::I64(v) => v,
        Value::Bool(_) => return None,
        _ => return usize::try_from(value.to_u64().ok()?).ok(),
    };
    usize::try_from(signed).ok()
}
