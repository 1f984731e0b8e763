//! How much memory a forward pass takes besides weights and KV caches: known from the shape of the model before
//! the pass runs.

use candle_core::DType;

use super::outputs::CHUNK_BYTES;
use crate::cpu::attention_bytes;
use crate::load::{Kernels, ModelConfig};

/// Bytes of an f32.
const F32: usize = size_of::<f32>();
/// Scores, scaled scores, masked scores, their exponentials and the weights: as many copies of the scores does
/// candle's attention have in memory at once.
const SCORE_COPIES: usize = 5;

/// Upper bounds of what a pass allocates, by the shape of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassMemory {
    kernels: Kernels,
    /// Bytes per row, whatever the row attends to.
    row: usize,
    /// Query heads.
    heads: usize,
    /// Width of a head.
    head_dim: usize,
    /// Bytes of the keys and values of one cache row in one layer, in the dtype of the activations.
    key: usize,
    /// Bytes for the logits of a chunk of outputs and what they are reduced to, once per pass.
    outputs: usize,
}

impl PassMemory {
    pub(super) fn new(config: &ModelConfig, kernels: Kernels, activations: DType) -> Self {
        let element = activations.size_in_bytes();
        let attention = config.heads * config.head_dim;
        let keys_and_values = 2 * config.kv_heads * config.head_dim;
        // The residual stream, its normalised copy and the output of a block; the angles of the row.
        let stream = 3 * config.hidden + 2 * config.head_dim;
        // In the attention: queries, keys and values, once more while they are rotated, and the result. In the
        // MLP: gate and up, and their product. Each next to a copy of the widest input in the form that a
        // kernel multiplies.
        let in_attention = 2 * (attention + keys_and_values) + attention;
        let in_mlp = 3 * config.intermediate;
        let input = config.hidden.max(config.intermediate).max(attention);
        Self {
            kernels,
            row: (stream + in_attention.max(in_mlp) + input) * element.max(F32),
            heads: config.heads,
            head_dim: config.head_dim,
            key: keys_and_values * element,
            outputs: CHUNK_BYTES.max(config.vocab * 6 * F32),
        }
    }

    /// Bytes for `rows` rows of one session, each of which attends to at most `cached` cache rows. What a pass
    /// over several sessions allocates is at most the sum, plus [`Self::outputs`].
    pub(super) fn bytes(&self, rows: usize, cached: usize) -> usize {
        // The ancestor mask has a byte for each pair of rows, and our kernel's form of it at most an index.
        let mask = rows * rows * (1 + size_of::<usize>());
        let attention = match self.kernels {
            Kernels::Packed => attention_bytes(rows * self.heads, cached, self.head_dim),
            Kernels::Candle => {
                let additive_mask = 2 * rows * cached * F32;
                let scores = SCORE_COPIES * self.heads * rows * cached * F32;
                // Converted, and once more as contiguous memory.
                additive_mask + scores + 2 * cached * self.key
            }
        };
        rows * self.row + mask + attention
    }

    /// Bytes for the outputs of a pass, however many it has.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }
}
