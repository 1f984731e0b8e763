//! The KV cache of one session.

use candle_core::{DType, Device, Result, Storage, Tensor};

use super::backend::Keep;
use crate::cpu::{KvDtype, KvPages, KvShape, contiguous};
use crate::load::{Heads, Kernels, ModelConfig};

/// Rows that a cache of tensors grows by: few enough to waste little memory, many enough that growing is rare.
const BLOCK: usize = 256;

/// Keys (already rotated for their position) and values of every layer, in buffers that are written in place.
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
    /// Rows that the cache never exceeds. No memory is allocated beyond them.
    limit: usize,
    /// Rows that there is room for.
    capacity: usize,
    shape: Shape,
}

/// The rows of a layer.
pub(super) enum LayerCache {
    /// For our kernel.
    Pages(KvPages),
    /// For candle's operations: `[kv_heads, capacity, head_dim]` each.
    Tensors { keys: Tensor, values: Tensor },
}

#[derive(Clone)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
    layers: usize,
    dtype: KvDtype,
    kernels: Kernels,
    device: Device,
}

impl Shape {
    fn layer(&self) -> Result<LayerCache> {
        Ok(match self.kernels {
            Kernels::Packed => {
                let shape = KvShape { heads: self.kv_heads, dim: self.head_dim };
                LayerCache::Pages(KvPages::new(shape, self.dtype))
            }
            Kernels::Candle => LayerCache::Tensors { keys: self.buffer(0)?, values: self.buffer(0)? },
        })
    }

    fn buffer(&self, capacity: usize) -> Result<Tensor> {
        Tensor::zeros((self.kv_heads, capacity, self.head_dim), DType::from(self.dtype), &self.device)
    }

    /// A buffer of `capacity` rows that starts with those of `old`.
    fn grown(&self, old: &Tensor, capacity: usize) -> Result<Tensor> {
        let new = self.buffer(capacity)?;
        if old.elem_count() > 0 {
            new.slice_set(old, 1, 0)?;
        }
        Ok(new)
    }
}

impl KvCache {
    pub(super) fn new(
        config: &ModelConfig,
        limit: usize,
        dtype: KvDtype,
        kernels: Kernels,
        device: &Device,
    ) -> Self {
        let shape = Shape {
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            layers: config.layers,
            dtype,
            kernels,
            device: device.clone(),
        };
        Self { layers: Vec::new(), len: 0, limit, capacity: 0, shape }
    }

    /// Rows that the cache holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A layer. Its first [`Self::len`] rows are valid.
    pub(super) fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer]
    }

    /// Makes room for `rows` more.
    pub(super) fn grow(&mut self, rows: usize) -> Result<()> {
        let needed = self.len + rows;
        if self.layers.is_empty() {
            self.layers = (0..self.shape.layers).map(|_| self.shape.layer()).collect::<Result<_>>()?;
        }
        if needed <= self.capacity {
            return Ok(());
        }
        let limit = self.limit.max(needed);
        let capacity = needed.next_multiple_of(BLOCK).min(limit);
        // Layer by layer, so that the old and the new cache never take memory at the same time.
        for layer in &mut self.layers {
            match layer {
                LayerCache::Pages(pages) => pages.grow(capacity, limit),
                LayerCache::Tensors { keys, values } => {
                    *keys = self.shape.grown(keys, capacity)?;
                    *values = self.shape.grown(values, capacity)?;
                }
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Writes the keys and values of `qkv: [rows, (heads + 2 kv_heads) * head_dim]` into a layer, after the
    /// rows that the cache holds.
    pub(super) fn append(&mut self, layer: usize, qkv: &Tensor, h: Heads) -> Result<()> {
        let (keys_at, values_at) = (h.heads * h.head_dim, (h.heads + h.kv_heads) * h.head_dim);
        let dtype = DType::from(self.shape.dtype);
        match &mut self.layers[layer] {
            LayerCache::Pages(pages) => {
                let (storage, layout) = qkv.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else {
                    candle_core::bail!("append-kv: the input is not on the CPU");
                };
                let (_, width) = layout.shape().dims2()?;
                pages.append(self.len, contiguous(storage, layout, "append-kv")?, width, keys_at, values_at);
            }
            LayerCache::Tensors { keys, values } => {
                let by_head = |from| by_head(qkv, from, h.kv_heads, h.head_dim)?.to_dtype(dtype);
                keys.slice_set(&by_head(keys_at)?, 1, self.len)?;
                values.slice_set(&by_head(values_at)?, 1, self.len)?;
            }
        }
        Ok(())
    }

    /// Counts `rows` that were written after the others.
    pub(super) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }

    /// Keeps the first `keep.prefix` rows and moves `keep.rows`, which are ascending, up to them.
    pub(super) fn keep(&mut self, keep: &Keep) -> Result<()> {
        let moved: Vec<(usize, usize)> =
            keep.rows.iter().copied().zip(keep.prefix..).filter(|(from, to)| from != to).collect();
        let rows: Vec<u32> = keep.rows.iter().map(|&r| r as u32).collect();
        for layer in &mut self.layers {
            match layer {
                LayerCache::Pages(pages) => moved.iter().for_each(|&(from, to)| pages.copy_row(from, to)),
                LayerCache::Tensors { .. } if moved.is_empty() => {}
                LayerCache::Tensors { keys, values } => {
                    let rows = Tensor::new(rows.as_slice(), &self.shape.device)?;
                    for buffer in [keys, values] {
                        buffer.slice_set(&buffer.index_select(&rows, 1)?, 1, keep.prefix)?;
                    }
                }
            }
        }
        self.len = keep.prefix + keep.rows.len();
        Ok(())
    }
}

/// Some columns of `x: [rows, width]` as `[heads, rows, head_dim]`.
pub(super) fn by_head(x: &Tensor, from: usize, heads: usize, head_dim: usize) -> Result<Tensor> {
    let (rows, _) = x.dims2()?;
    x.narrow(1, from, heads * head_dim)?.reshape((rows, heads, head_dim))?.transpose(0, 1)?.contiguous()
}
