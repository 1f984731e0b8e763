//! The description of a loaded model.

use tandem_decoding::TokenId;

use crate::cpu::KernelUse;
use crate::load::{DeviceChoice, Vocabulary};

/// The description of a loaded model.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// The name that it was loaded by.
    pub id: String,
    /// Rows of its embedding.
    pub vocab_size: usize,
    /// Tokens that a sequence may have, prompt included.
    pub context_length: usize,
    /// Tokens that end a sequence.
    pub eos: Vec<TokenId>,
    /// Its tokenizer; `None` for random weights without one.
    pub vocabulary: Option<Vocabulary>,
    /// The number of its weights. A tied head is counted once.
    pub parameters: u64,
    /// Bytes of weights that one pass reads.
    pub weight_bytes: u64,
    /// Bytes of KV cache per token.
    pub kv_bytes_per_token: u64,
    /// The dtype of its weights: `f32`, `bf16`, `f16`, or the most frequent quantisation, such as `q4_k`.
    pub dtype: String,
    /// The device that it runs on.
    pub device: DeviceChoice,
    /// The kernels of its linear layers.
    pub kernels: Vec<KernelUse>,
}
