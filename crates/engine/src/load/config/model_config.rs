//! The shape of a decoder: everything in which model families differ, as data.

use tandem_decoding::TokenId;

use super::names::TensorNames;

/// The largest size that a configuration may state; larger ones are mistakes.
const LARGEST_SIZE: usize = 1 << 24;

/// The shape of a decoder.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the inner layer of the MLP.
    pub intermediate: usize,
    /// Rows of the embedding. May be padded beyond the entries of the tokenizer.
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
    /// How positions enter the computation.
    pub positions: Positions,
    /// The kind of the MLP in each layer.
    pub mlp: MlpKind,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection of the attention has a bias.
    pub output_bias: bool,
    /// Whether the linear layers of the MLP have a bias.
    pub mlp_bias: bool,
    /// Whether every head of the queries and keys is RMS-normalised.
    pub qk_norm: bool,
    /// Tokens that a sequence may have, prompt included.
    pub context: usize,
    /// Whether the output head shares the weights of the embedding.
    pub tied: bool,
    /// Tokens that end a sequence.
    pub eos: Vec<TokenId>,
    /// Names of its tensors in the checkpoint.
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

/// How positions enter the computation.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are rotated by angles that grow with the position.
    Rotary {
        /// Base of the frequencies.
        theta: f32,
        /// Scaling of the frequencies, for contexts longer than the original one.
        scaling: Option<RopeScaling>,
    },
    /// A learned vector is added to the embedding. Row `offset` of the table belongs to position 0.
    Learned {
        /// Rows of the table before that of position 0.
        offset: usize,
    },
}

/// Scaling of rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of config.json")]
pub enum RopeScaling {
    /// Long wavelengths are stretched, short ones kept, and those in between blended.
    Llama3 { factor: f32, low_freq_factor: f32, high_freq_factor: f32, original_context: usize },
    /// Each frequency is divided by a number of its own. GGUF files store the scaling of Llama 3 in this
    /// form.
    Divisors(Vec<f32>),
}

/// The kind of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(silu(gate(x)) * up(x))`
    GatedSilu,
    /// `down(relu(up(x)))`
    Relu,
}

/// Shape of the heads in the fused projection `[rows, (heads + 2 kv_heads) * head_dim]`.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl ModelConfig {
    /// Checks that the sizes are possible and agree. The error describes the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_sizes()?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} attention heads are not a multiple of {} key-value heads",
                self.heads, self.kv_heads
            ));
        }
        let Positions::Rotary { scaling, .. } = &self.positions else { return Ok(()) };
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!(
                "the size of a head is {}: rotary embeddings need an even size",
                self.head_dim
            ));
        }
        let pairs = self.head_dim / 2;
        match scaling {
            Some(RopeScaling::Divisors(divisors)) if divisors.len() != pairs => Err(format!(
                "there are {} rotary divisors: heads of {} values need {pairs}",
                divisors.len(),
                self.head_dim
            )),
            _ => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), String> {
        let sizes = [
            ("the hidden size", self.hidden),
            ("the intermediate size", self.intermediate),
            ("the size of the vocabulary", self.vocab),
            ("the number of layers", self.layers),
            ("the number of attention heads", self.heads),
            ("the number of key-value heads", self.kv_heads),
            ("the size of a head", self.head_dim),
            ("the context length", self.context),
        ];
        match sizes.iter().find(|(_, size)| !(1..=LARGEST_SIZE).contains(size)) {
            Some((name, size)) => Err(format!("{name} is {size}: it must be between 1 and {LARGEST_SIZE}")),
            None => Ok(()),
        }
    }

    /// Lets a sequence end with `tokens` too. Those without an embedding are left out: the model cannot write
    /// them.
    pub(crate) fn end_at(&mut self, tokens: impl IntoIterator<Item = TokenId>) {
        for token in tokens {
            if (token.0 as usize) < self.vocab && !self.eos.contains(&token) {
                self.eos.push(token);
            }
        }
    }

    pub(crate) fn heads(&self) -> Heads {
        Heads { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// Limits the context to the sliding window of the attention.
    ///
    /// Within one window no token is hidden, so the result is exactly that of the model. A longer context would require an attention
    /// mask that knows the position of every cached row.
    pub(super) fn within_window(mut self, window: Option<usize>) -> Self {
        if let Some(window) = window.filter(|&window| window < self.context) {
            tracing::warn!(
                window,
                context = self.context,
                "the model attends to a sliding window: the context is limited to the window"
            );
            self.context = window;
        }
        self
    }
}
