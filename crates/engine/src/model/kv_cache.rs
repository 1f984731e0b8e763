//! The KV cache of one session.

use candle_core::{DType, Device, Result, Tensor};

use crate::{Keep, ModelConfig};

/// Rows that a cache grows by: few enough to waste little, many enough that growing is rare.
const BLOCK: usize = 256;

/// Keys (already rotated for their position) and values of every layer, in buffers that are written in place.
pub struct KvCache {
    /// `[kv_heads, capacity, head_dim]` each.
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    /// Rows that it never exceeds: nothing is allocated beyond.
    limit: usize,
    shape: Shape,
}

#[derive(Clone)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
    layers: usize,
    dtype: DType,
    device: Device,
}

impl KvCache {
    pub(crate) fn new(config: &ModelConfig, limit: usize, dtype: DType, device: &Device) -> Self {
        let shape = Shape {
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            layers: config.layers,
            dtype,
            device: device.clone(),
        };
        Self { layers: Vec::new(), len: 0, limit, shape }
    }

    /// Rows held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The buffers of a layer, keys and values; the first [`Self::len`] rows are valid.
    pub(crate) fn layer(&self, layer: usize) -> &(Tensor, Tensor) {
        &self.layers[layer]
    }

    /// Makes room for `rows` more.
    pub(crate) fn grow(&mut self, rows: usize) -> Result<()> {
        let capacity = self.layers.first().map_or(0, |(k, _)| k.dims()[1]);
        if self.len + rows <= capacity {
            return Ok(());
        }
        let s = &self.shape;
        let needed = self.len + rows;
        let wanted = (s.kv_heads, needed.next_multiple_of(BLOCK).min(self.limit.max(needed)), s.head_dim);
        let larger = |old: Option<&Tensor>| -> Result<Tensor> {
            let new = Tensor::zeros(wanted, s.dtype, &s.device)?;
            if let Some(old) = old {
                new.slice_set(old, 1, 0)?;
            }
            Ok(new)
        };
        if self.layers.is_empty() {
            self.layers = (0..s.layers).map(|_| Ok((larger(None)?, larger(None)?))).collect::<Result<_>>()?;
            return Ok(());
        }
        // Buffer by buffer, so that no two sizes of the whole cache are held at once.
        for (k, v) in &mut self.layers {
            *k = larger(Some(k))?;
            *v = larger(Some(v))?;
        }
        Ok(())
    }

    /// Counts `rows` that were written behind the others.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }

    /// Keeps the first `keep.prefix` rows and moves `keep.rows` up to them.
    pub(crate) fn keep(&mut self, keep: &Keep) -> Result<()> {
        let in_place = keep.rows.iter().enumerate().all(|(i, &row)| row == keep.prefix + i);
        if !in_place {
            let rows: Vec<u32> = keep.rows.iter().map(|&r| r as u32).collect();
            let rows = Tensor::from_vec(rows, keep.rows.len(), &self.shape.device)?;
            for (k, v) in &self.layers {
                for buffer in [k, v] {
                    buffer.slice_set(&buffer.index_select(&rows, 1)?, 1, keep.prefix)?;
                }
            }
        }
        self.len = keep.prefix + keep.rows.len();
        Ok(())
    }
}
