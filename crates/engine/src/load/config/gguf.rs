//! The metadata of a GGUF file as a [`ModelConfig`].

use std::path::Path;

use super::generation::generation_eos;
use super::model_config::{MlpKind, ModelConfig, NormKind, Positions, RopeScaling};
use super::names::GGUF;
use crate::load::error::LoadError;
use crate::load::gguf::{Gguf, Value};
use crate::load::gguf_tokenizer::end_tokens;

/// Supported architectures. Files of Mistral models say `llama`.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];
/// The tensor of rotary divisors, in files of models with scaled frequencies.
const DIVISORS: &str = "rope_freqs.weight";

impl ModelConfig {
    /// Reads and checks the metadata. A model has a bias, or normalised heads, if the file has the tensors.
    pub(crate) fn read_gguf(file: &Gguf, generation: Option<&Path>) -> Result<Self, LoadError> {
        let metadata = Metadata::of(file)?;
        metadata.check_arithmetic()?;
        let hidden = metadata.required("embedding_length")?;
        let heads = metadata.required("attention.head_count")?;
        let head_dim = metadata.optional("attention.key_length")?.unwrap_or(hidden / heads.max(1));
        metadata.check_head_dim(head_dim)?;
        let positions = Positions::Rotary {
            theta: metadata.float("rope.freq_base").unwrap_or(10_000.0),
            scaling: divisors(file)?,
        };
        let embedding = file.shape(&format!("{}.weight", GGUF.embedding))?;
        let mut read = Self {
            hidden,
            intermediate: metadata.required("feed_forward_length")?,
            vocab: embedding.first().copied().unwrap_or(0),
            layers: metadata.required("block_count")?,
            heads,
            kv_heads: metadata.optional("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            norm: NormKind::Rms,
            norm_eps: metadata.float("attention.layer_norm_rms_epsilon").map_or(1e-6, f64::from),
            positions,
            mlp: MlpKind::GatedSilu,
            qkv_bias: first_layer_has(file, GGUF.q, "bias"),
            output_bias: first_layer_has(file, GGUF.output, "bias"),
            mlp_bias: first_layer_has(file, GGUF.up, "bias"),
            qk_norm: first_layer_has(file, GGUF.q_norm, "weight"),
            context: metadata.required("context_length")?,
            tied: !file.has(&format!("{}.weight", GGUF.head)),
            eos: Vec::new(),
            names: &GGUF,
        };
        read.check().map_err(|what| metadata.unsupported(what))?;
        read.end_at(generation_eos(generation)?);
        read.end_at(end_tokens(file));
        let window = metadata.optional("attention.sliding_window")?.filter(|&window| window > 0);
        Ok(read.within_window(window))
    }
}

/// The metadata of a file whose architecture is supported. Keys are those after `architecture.`.
struct Metadata<'a> {
    file: &'a Gguf,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    fn of(file: &'a Gguf) -> Result<Self, LoadError> {
        let architecture = file.architecture();
        let metadata = Self { file, architecture };
        if ARCHITECTURES.contains(&architecture) {
            return Ok(metadata);
        }
        let supported = ARCHITECTURES.join(", ");
        Err(metadata.unsupported(format!(
            "architecture {architecture:?} is not supported: it must be one of {supported}"
        )))
    }

    fn unsupported(&self, what: String) -> LoadError {
        LoadError::unsupported(self.file.path(), what)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.file.metadata(&format!("{}.{key}", self.architecture))
    }

    fn optional(&self, key: &str) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match whole(value) {
            Some(number) => Ok(Some(number)),
            None => Err(self.unsupported(format!(
                "{}.{key} is {value:?}: only a single whole number is supported",
                self.architecture
            ))),
        }
    }

    fn required(&self, key: &str) -> Result<usize, LoadError> {
        self.optional(key)?.ok_or_else(|| self.unsupported(format!("{}.{key} is missing", self.architecture)))
    }

    fn float(&self, key: &str) -> Option<f32> {
        self.get(key)?.as_float().map(|value| value as f32)
    }

    /// Refuses models whose arithmetic the decoder does not implement.
    fn check_arithmetic(&self) -> Result<(), LoadError> {
        if let Some(experts) = self.optional("expert_count")?.filter(|&n| n > 0) {
            return Err(self.unsupported(format!("a mixture of {experts} experts is not supported")));
        }
        let scaling = self.get("rope.scaling.type").and_then(Value::as_str);
        match scaling.filter(|kind| *kind != "none") {
            Some(kind) => Err(self.unsupported(format!("rope scaling {kind:?} is not supported"))),
            None => Ok(()),
        }
    }

    /// Values must be as wide as keys, and the whole head rotated.
    fn check_head_dim(&self, head_dim: usize) -> Result<(), LoadError> {
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = self.optional(key)?.filter(|&n| n != head_dim) {
                return Err(self.unsupported(format!(
                    "{}.{key} {other} is not supported: only the size of a head, {head_dim}, is",
                    self.architecture
                )));
            }
        }
        Ok(())
    }
}

fn first_layer_has(file: &Gguf, name: &str, part: &str) -> bool {
    file.has(&format!("{}0.{name}.{part}", GGUF.layer))
}

fn divisors(file: &Gguf) -> Result<Option<RopeScaling>, LoadError> {
    if !file.has(DIVISORS) {
        return Ok(None);
    }
    Ok(Some(RopeScaling::Divisors(file.values(DIVISORS)?)))
}

/// A whole number that is not negative, of any width.
fn whole(value: &Value) -> Option<usize> {
    usize::try_from(value.as_integer()?).ok()
}
