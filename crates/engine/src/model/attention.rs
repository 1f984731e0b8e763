//! Attention of a decoder layer: our kernel on the CPU, candle's operations everywhere else.

use candle_core::{DType, Device, Result, Tensor};
use tandem_decoding::AncestorMask;

use super::kv_cache::{KvCache, LayerCache};
use crate::cpu::{AppendKv, SessionKv, SparseMask, TreeAttention};
use crate::load::{Heads, Kernels};

/// The attention mask of one session's rows of a pass.
pub(super) enum AttentionMask {
    /// For our kernel: the cache rows that each row attends to.
    Sparse(SparseMask),
    /// For candle's operations: `[rows, cached rows]`, f32, 0 or -inf, added to the scores.
    Additive(Tensor),
}

impl AttentionMask {
    /// Every row attends to `prefix` cache rows, and to those after them that `ancestors` states.
    pub(super) fn new(
        kernels: Kernels,
        prefix: usize,
        ancestors: &AncestorMask,
        device: &Device,
    ) -> Result<Self> {
        if kernels == Kernels::Packed {
            return Ok(Self::Sparse(SparseMask::new(prefix, ancestors)));
        }
        let columns = prefix + ancestors.columns();
        let mut values = Vec::with_capacity(ancestors.rows() * columns);
        for row in ancestors.as_slice().chunks_exact(ancestors.columns().max(1)) {
            values.extend(std::iter::repeat_n(0f32, prefix));
            values.extend(row.iter().map(|&attends| if attends { 0.0 } else { f32::NEG_INFINITY }));
        }
        Ok(Self::Additive(Tensor::from_vec(values, (ancestors.rows(), columns), device)?))
    }
}

/// One session's rows of a pass.
pub(super) struct SessionRows<'a> {
    pub(super) cache: &'a KvCache,
    pub(super) mask: &'a AttentionMask,
    /// Number of rows.
    pub(super) rows: usize,
}

/// Appends the keys and values of `qkv: [rows, (heads + 2 kv_heads) * head_dim]` to the caches of `layer`,
/// each session's to its own, then computes the attention of its queries: `[rows, heads * head_dim]`.
pub(super) fn attend(qkv: &Tensor, sessions: &[SessionRows<'_>], layer: usize, h: Heads) -> Result<Tensor> {
    let keys_at = h.heads * h.head_dim;
    let values_at = (h.heads + h.kv_heads) * h.head_dim;
    let mut sparse = Vec::new();
    let mut additive = Vec::new();
    let mut first = 0;
    for session in sessions {
        let cache = session.cache.layer(layer);
        let cached = session.cache.len();
        let qkv = qkv.narrow(0, first, session.rows)?;
        first += session.rows;
        match session.mask {
            AttentionMask::Sparse(mask) => {
                cache.keys.inplace_op2(&qkv, &AppendKv { from: keys_at, at: cached })?;
                cache.values.inplace_op2(&qkv, &AppendKv { from: values_at, at: cached })?;
                sparse.push(SessionKv { keys: &cache.keys, values: &cache.values, mask });
            }
            AttentionMask::Additive(mask) => additive.push(attend_additive(&qkv, cache, cached, mask, h)?),
        }
    }
    match additive.as_slice() {
        [] => qkv.apply_op1_no_bwd(&TreeAttention { heads: h.heads, sessions: sparse }),
        [one] => Ok(one.clone()),
        _ => Tensor::cat(&additive, 0),
    }
}

/// The same for one session, with candle's operations and an additive mask. `cached`: rows of the cache
/// before.
fn attend_additive(
    qkv: &Tensor,
    cache: &LayerCache,
    cached: usize,
    mask: &Tensor,
    h: Heads,
) -> Result<Tensor> {
    let rows = qkv.dims()[0];
    let by_head = |from: usize, heads: usize| {
        let x = qkv.narrow(1, from, heads * h.head_dim)?.reshape((rows, heads, h.head_dim))?;
        x.transpose(0, 1)?.contiguous()
    };
    cache.keys.slice_set(&by_head(h.heads * h.head_dim, h.kv_heads)?, 1, cached)?;
    cache.values.slice_set(&by_head((h.heads + h.kv_heads) * h.head_dim, h.kv_heads)?, 1, cached)?;
    let columns = cached + rows;
    let k = cache.keys.narrow(1, 0, columns)?;
    let v = cache.values.narrow(1, 0, columns)?;
    // The query heads that share a key head are consecutive, so one matrix per key head serves the whole
    // group.
    let group = h.heads / h.kv_heads;
    let q = by_head(0, h.heads)?.reshape((h.kv_heads, group * rows, h.head_dim))?;
    let scores = (q.matmul(&k.transpose(1, 2)?)? * (1.0 / (h.head_dim as f64).sqrt()))?;
    let scores = scores.to_dtype(DType::F32)?.reshape((h.heads, rows, columns))?.broadcast_add(mask)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(v.dtype())?;
    let y = weights.reshape((h.kv_heads, group * rows, columns))?.matmul(&v)?;
    let y = y.reshape((h.heads, rows, h.head_dim))?.transpose(0, 1)?;
    y.reshape((rows, h.heads * h.head_dim))
}
