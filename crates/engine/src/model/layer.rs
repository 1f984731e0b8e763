//! One decoder layer.

use candle_core::{Result, Tensor};

use super::attention::{SessionRows, attend};
use super::linear::Linear;
use super::norm::{HeadNorm, Norm};
use super::ops;
use super::rotary::{Angles, rope};
use crate::cpu::KernelUse;
use crate::load::{Heads, Kernels, MlpKind};

/// One decoder layer.
pub(super) struct Layer {
    pub(super) attention_norm: Norm,
    /// Queries, keys and values side by side.
    pub(super) qkv: Linear,
    pub(super) head_norm: Option<HeadNorm>,
    pub(super) output: Linear,
    pub(super) mlp_norm: Norm,
    /// Gate, if there is one, and up side by side.
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) mlp: MlpKind,
}

/// What a pass is for all layers alike.
pub(super) struct LayerInput<'a> {
    pub(super) kernels: Kernels,
    pub(super) heads: Heads,
    pub(super) eps: f32,
    /// `None` with learned positions.
    pub(super) angles: Option<Angles>,
    /// In the order of their rows.
    pub(super) sessions: Vec<SessionRows<'a>>,
}

impl Layer {
    /// Runs `x: [rows, hidden]` through the layer, which is the `index`-th, and appends its keys and values
    /// to the caches of the sessions.
    pub(super) fn forward(&self, x: Tensor, index: usize, input: &mut LayerInput<'_>) -> Result<Tensor> {
        let attention = self.attention(&x, index, input)?;
        let x = ops::add(input.kernels, x, &attention)?;
        let mlp = self.mlp(&x, input)?;
        ops::add(input.kernels, x, &mlp)
    }

    fn attention(&self, x: &Tensor, index: usize, input: &mut LayerInput<'_>) -> Result<Tensor> {
        let normed = self.attention_norm.forward(input.kernels, x, input.eps)?;
        let mut qkv = self.qkv.forward(&normed)?;
        if let Some(norm) = &self.head_norm {
            qkv = norm.forward(input.kernels, qkv, input.heads, input.eps)?;
        }
        if let Some(angles) = &input.angles {
            qkv = rope(qkv, angles, input.heads)?;
        }
        // Each session has a cache and a mask of its own.
        let attended = attend(&qkv, &mut input.sessions, index, input.heads)?;
        self.output.forward(&attended)
    }

    fn mlp(&self, x: &Tensor, input: &LayerInput<'_>) -> Result<Tensor> {
        let normed = self.mlp_norm.forward(input.kernels, x, input.eps)?;
        let up = self.up.forward(&normed)?;
        let activated = match self.mlp {
            MlpKind::GatedSilu => ops::silu_mul(input.kernels, &up)?,
            MlpKind::Relu => up.relu()?,
        };
        self.down.forward(&activated)
    }

    /// The kernels of its linear layers.
    pub(super) fn kernels(&self) -> impl Iterator<Item = KernelUse> {
        [&self.qkv, &self.output, &self.up, &self.down].into_iter().flat_map(Linear::kernels)
    }
}
