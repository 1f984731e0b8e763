//! Attention of a decoder layer: our kernel on the CPU, candle's operations everywhere else.

use candle_core::{DType, Device, Result, Tensor};
use tandem_decoding::AncestorMask;

use super::kv_cache::{KvCache, LayerCache, by_head};
use crate::cpu::{SessionKv, SparseMask, TreeAttention};
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
    pub(super) cache: &'a mut KvCache,
    pub(super) mask: &'a AttentionMask,
    /// Number of rows.
    pub(super) rows: usize,
}

/// Appends the keys and values of `qkv: [rows, (heads + 2 kv_heads) * head_dim]` to the caches of `layer`,
/// each session's to its own, then computes the attention of its queries: `[rows, heads * head_dim]`.
pub(super) fn attend(
    qkv: &Tensor,
    sessions: &mut [SessionRows<'_>],
    layer: usize,
    h: Heads,
) -> Result<Tensor> {
    let mut first = 0;
    for session in sessions.iter_mut() {
        session.cache.append(layer, &qkv.narrow(0, first, session.rows)?, h)?;
        first += session.rows;
    }
    let mut sparse = Vec::new();
    let mut additive = Vec::new();
    let mut first = 0;
    for session in sessions.iter() {
        match (session.cache.layer(layer), session.mask) {
            (LayerCache::Pages(pages), AttentionMask::Sparse(mask)) => sparse.push(SessionKv { pages, mask }),
            (LayerCache::Tensors { keys, values }, AttentionMask::Additive(mask)) => {
                let q = by_head(&qkv.narrow(0, first, session.rows)?, 0, h.heads, h.head_dim)?;
                let columns = session.cache.len() + session.rows;
                let (k, v) = (keys.narrow(1, 0, columns)?, values.narrow(1, 0, columns)?);
                additive.push(attend_additive(&q, &k, &v, mask, h)?);
            }
            _ => candle_core::bail!("the cache and the mask are of different kernels"),
        }
        first += session.rows;
    }
    match additive.as_slice() {
        [] => qkv.apply_op1_no_bwd(&TreeAttention { heads: h.heads, sessions: sparse }),
        [one] => Ok(one.clone()),
        _ => Tensor::cat(&additive, 0),
    }
}

/// The same for the queries `q: [heads, rows, head_dim]` of one session, with candle's operations and an
/// additive mask. `k`, `v`: `[kv_heads, columns, head_dim]`.
fn attend_additive(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor, h: Heads) -> Result<Tensor> {
    let (_, rows, _) = q.dims3()?;
    let (_, columns, _) = k.dims3()?;
    let (k, v) = (k.to_dtype(q.dtype())?, v.to_dtype(q.dtype())?);
    // The query heads that share a key head are consecutive, so one matrix per key head serves the whole
    // group.
    let group = h.heads / h.kv_heads;
    let q = q.reshape((h.kv_heads, group * rows, h.head_dim))?;
    let scores = (q.matmul(&k.transpose(1, 2)?)? * (1.0 / (h.head_dim as f64).sqrt()))?;
    let scores = scores.to_dtype(DType::F32)?.reshape((h.heads, rows, columns))?.broadcast_add(mask)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(v.dtype())?;
    let y = weights.reshape((h.kv_heads, group * rows, columns))?.matmul(&v.contiguous()?)?;
    let y = y.reshape((h.heads, rows, h.head_dim))?.transpose(0, 1)?;
    y.reshape((rows, h.heads * h.head_dim))
}
