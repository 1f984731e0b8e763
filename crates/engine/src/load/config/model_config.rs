//! The shape of a decoder: all in which model families differ, as data.

mod gguf;
mod json;
mod names;

use tandem_decoding::TokenId;

use crate::LoadError;
use crate::ops::Heads;

pub(crate) use names::TensorNames;

/// The shape of a decoder.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the layer between.
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
    /// How activations are normalised.
    pub norm: NormKind,
    /// Epsilon of all normalisations.
    pub norm_eps: f64,
    /// How a token knows where it stands.
    pub positions: Positions,
    /// The layer between the attentions.
    pub mlp: MlpKind,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the output of the attention has a bias.
    pub output_bias: bool,
    /// Whether the linear layers of the MLP have a bias.
    pub mlp_bias: bool,
    /// Whether every head of the queries and keys is RMS-normalised.
    pub qk_norm: bool,
    /// Tokens that a text may have.
    pub context: usize,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Tokens that end a text.
    pub eos: Vec<TokenId>,
    /// What its tensors are called.
    pub(crate) names: &'static TensorNames,
}

/// How activations are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By their root mean square, with a weight.
    Rms,
    /// By mean and variance, with a weight and a bias.
    Layer,
}

/// How a token knows where it stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary {
        /// Base of the frequencies.
        theta: f32,
        /// What is done to the frequencies.
        scaling: Option<RopeScaling>,
    },
    /// A learned vector is added to the embedding; that of position 0 is row `offset` of the table.
    Learned {
        /// Rows before that of position 0.
        offset: usize,
    },
}

/// What is done to rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are config.json's own")]
pub enum RopeScaling {
    /// Long wavelengths are stretched, short ones kept, those between blended.
    Llama3 { factor: f32, low_freq_factor: f32, high_freq_factor: f32, original_context: usize },
    /// Each frequency is divided by its own number: the form in which GGUF files keep the above.
    Divisors(Vec<f32>),
}

/// The layer between the attentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(silu(gate(x)) * up(x))`
    GatedSilu,
    /// `down(relu(up(x)))`
    Relu,
}

impl ModelConfig {
    /// Whether the sizes can be those of a model. `what` is said of the first that cannot.
    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("the hidden size", self.hidden),
            ("the intermediate size", self.intermediate),
            ("the vocabulary", self.vocab),
            ("the number of layers", self.layers),
            ("the number of attention heads", self.heads),
            ("the number of key-value heads", self.kv_heads),
            ("the size of a head", self.head_dim),
            ("the context", self.context),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=1 << 24).contains(size)) {
            return Err(format!("{name} is {size}: it must be between 1 and 16777216"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} attention heads are no multiple of {} key-value heads",
                self.heads, self.kv_heads
            ));
        }
        let Positions::Rotary { scaling, .. } = &self.positions else { return Ok(()) };
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("heads of {} values: rotary embedding needs pairs", self.head_dim));
        }
        match scaling {
            Some(RopeScaling::Divisors(all)) if all.len() != self.head_dim / 2 => {
                Err(format!("{} rotary divisors for heads of {} values", all.len(), self.head_dim))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn heads(&self) -> Heads {
        Heads { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// Cuts the context to the sliding window of the attention. Within it nothing slides out of sight, so the model is
    /// exactly itself; beyond it, a mask would have to know the position of every cached row.
    fn within_window(mut self, window: Option<usize>) -> Self {
        if let Some(window) = window.filter(|&window| window < self.context) {
            tracing::warn!(
                window,
                context = self.context,
                "the model attends to a sliding window: its context is cut to that"
            );
            self.context = window;
        }
        self
    }
}

/// `config.json` or a GGUF file that says something which is not supported.
fn unsupported(path: &std::path::Path, what: String) -> LoadError {
    LoadError::Unsupported { path: path.to_owned(), what }
}
