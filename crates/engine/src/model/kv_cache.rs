//! The KV cache of one session.

use candle_core::{DType, Device, Result, Tensor};

use super::backend::Keep;
use crate::load::ModelConfig;

/// Rows that a cache grows by: few enough to waste little memory, many enough that growing is rare.
const BLOCK: usize = 256;

/// Keys (already rotated for their position) and values of every layer, in buffers that are written in place.
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
    /// Rows that the cache never exceeds. No memory is allocated beyond them.
    limit: usize,
    shape: Shape,
}

/// The buffers of a layer, `[kv_heads, capacity, head_dim]` each.
pub(super) struct LayerCache {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

#[derive(Clone)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
    layers: usize,
    dtype: DType,
    device: Device,
}

impl Shape {
    fn buffer(&self, capacity: usize) -> Result<Tensor> {
        Tensor::zeros((self.kv_heads, capacity, self.head_dim), self.dtype, &self.device)
    }

    /// A buffer of `capacity` rows that starts with those of `old`.
    fn grown(&self, old: &Tensor, capacity: usize) -> Result<Tensor> {
        let new = self.buffer(capacity)?;
        new.slice_set(old, 1, 0)?;
        Ok(new)
    }
}

impl KvCache {
    pub(super) fn new(config: &ModelConfig, limit: usize, dtype: DType, device: &Device) -> Self {
        let shape = Shape {
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            layers: config.layers,
            dtype,
            device: device.clone(),
        };
        Self { layers: Vec::new(), len: 0, limit, shape }
    }

    /// Rows that the cache holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The buffers of a layer. Their first [`Self::len`] rows are valid.
    pub(super) fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer]
    }

    /// Makes room for `rows` more.
    pub(super) fn grow(&mut self, rows: usize) -> Result<()> {
        let needed = self.len + rows;
        let capacity = self.layers.first().map_or(0, |layer| layer.keys.dims()[1]);
        if needed <= capacity {
            return Ok(());
        }
        let capacity = needed.next_multiple_of(BLOCK).min(self.limit.max(needed));
        if self.layers.is_empty() {
            let mut layers = Vec::with_capacity(self.shape.layers);
            for _ in 0..self.shape.layers {
                let keys = self.shape.buffer(capacity)?;
                let values = self.shape.buffer(capacity)?;
                layers.push(LayerCache { keys, values });
            }
            self.layers = layers;
            return Ok(());
        }
        // Buffer by buffer, so that the old and the new cache never take memory at the same time.
        for layer in &mut self.layers {
            layer.keys = self.shape.grown(&layer.keys, capacity)?;
            layer.values = self.shape.grown(&layer.values, capacity)?;
        }
        Ok(())
    }

    /// Counts `rows` that were written after the others.
    pub(super) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }

    /// Keeps the first `keep.prefix` rows and moves `keep.rows` up to them.
    pub(super) fn keep(&mut self, keep: &Keep) -> Result<()> {
        let in_place = keep.rows.iter().enumerate().all(|(i, &row)| row == keep.prefix + i);
        if !in_place {
            let rows: Vec<u32> = keep.rows.iter().map(|&r| r as u32).collect();
            let rows = Tensor::from_vec(rows, keep.rows.len(), &self.shape.device)?;
            for layer in &self.layers {
                for buffer in [&layer.keys, &layer.values] {
                    buffer.slice_set(&buffer.index_select(&rows, 1)?, 1, keep.prefix)?;
                }
            }
        }
        self.len = keep.prefix + keep.rows.len();
        Ok(())
    }
}
