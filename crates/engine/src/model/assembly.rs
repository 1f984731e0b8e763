//! Putting a decoder together from the tensors of a checkpoint.

use candle_core::Tensor;

use super::layer::Layer;
use super::linear::{Embedding, Linear};
use super::norm::{HeadNorm, Norm};
use super::rotary::RotaryTable;
use crate::load::{Kernels, LoadError, Matrix, MlpKind, ModelConfig, NormKind, Positions, Weights};

/// How the decoder computes positions.
pub(super) enum PositionTable {
    Rotary(RotaryTable),
    /// `[context, hidden]`
    Learned(Tensor),
}

/// Builds the parts of a decoder.
pub(super) struct Assembly<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) weights: &'a Weights,
    pub(super) kernels: Kernels,
}

/// A linear layer in the checkpoint.
struct Projection {
    name: String,
    outputs: usize,
    /// The number of heads that the outputs are, if they will be rotated: some layouts store those
    /// differently.
    rotary_heads: Option<usize>,
}

impl Projection {
    fn new(name: String, outputs: usize) -> Self {
        Self { name, outputs, rotary_heads: None }
    }
}

impl Assembly<'_> {
    pub(super) fn layers(&self) -> Result<Vec<Layer>, LoadError> {
        (0..self.config.layers).map(|index| self.layer(index)).collect()
    }

    fn layer(&self, index: usize) -> Result<Layer, LoadError> {
        let c = self.config;
        let names = c.names;
        let full_name = |name: &str| format!("{}{index}.{name}", names.layer);
        let query_width = c.heads * c.head_dim;
        let key_width = c.kv_heads * c.head_dim;
        let rotary = matches!(c.positions, Positions::Rotary { .. });
        let qkv = [
            Projection {
                rotary_heads: rotary.then_some(c.heads),
                ..Projection::new(full_name(names.q), query_width)
            },
            Projection {
                rotary_heads: rotary.then_some(c.kv_heads),
                ..Projection::new(full_name(names.k), key_width)
            },
            Projection::new(full_name(names.v), key_width),
        ];
        let mut up = Vec::new();
        if c.mlp == MlpKind::GatedSilu {
            up.push(Projection::new(full_name(names.gate), c.intermediate));
        }
        up.push(Projection::new(full_name(names.up), c.intermediate));
        let output = Projection::new(full_name(names.output), c.hidden);
        let down = Projection::new(full_name(names.down), c.hidden);
        Ok(Layer {
            attention_norm: self.norm(&full_name(names.attention_norm))?,
            qkv: self.linear(&qkv, c.hidden, c.qkv_bias)?,
            head_norm: match c.qk_norm {
                true => Some(self.head_norm(&full_name(names.q_norm), &full_name(names.k_norm))?),
                false => None,
            },
            output: self.linear(&[output], query_width, c.output_bias)?,
            mlp_norm: self.norm(&full_name(names.mlp_norm))?,
            up: self.linear(&up, c.hidden, c.mlp_bias)?,
            down: self.linear(&[down], c.intermediate, c.mlp_bias)?,
            mlp: c.mlp,
        })
    }

    /// Layers over the same `inputs`, as one.
    fn linear(&self, parts: &[Projection], inputs: usize, bias: bool) -> Result<Linear, LoadError> {
        let mut matrices = Vec::with_capacity(parts.len());
        let mut biases = Vec::new();
        for part in parts {
            let weight = format!("{}.weight", part.name);
            matrices.push(self.weights.matrix(&weight, [part.outputs, inputs], part.rotary_heads)?);
            if bias {
                let bias = format!("{}.bias", part.name);
                biases.push(self.weights.vector(&bias, part.outputs, part.rotary_heads)?);
            }
        }
        Ok(Linear::new(matrices, &biases, self.kernels)?)
    }

    fn norm(&self, name: &str) -> Result<Norm, LoadError> {
        let hidden = self.config.hidden;
        let weight = self.weights.vector(&format!("{name}.weight"), hidden, None)?;
        Ok(match self.config.norm {
            NormKind::Rms => Norm::Rms { weight },
            NormKind::Layer => {
                let bias = self.weights.vector(&format!("{name}.bias"), hidden, None)?;
                Norm::Layer { weight, bias }
            }
        })
    }

    fn head_norm(&self, q: &str, k: &str) -> Result<HeadNorm, LoadError> {
        let head_dim = self.config.head_dim;
        let q = self.weights.vector(&format!("{q}.weight"), head_dim, None)?;
        let k = self.weights.vector(&format!("{k}.weight"), head_dim, None)?;
        Ok(HeadNorm::new(&q, &k, self.config.heads())?)
    }

    pub(super) fn final_norm(&self) -> Result<Norm, LoadError> {
        self.norm(self.config.names.norm)
    }

    pub(super) fn positions(&self) -> Result<PositionTable, LoadError> {
        let c = self.config;
        let offset = match &c.positions {
            Positions::Rotary { theta, scaling } => {
                let table = RotaryTable::new(*theta, scaling.as_ref(), c.head_dim, c.context);
                return Ok(PositionTable::Rotary(table));
            }
            Positions::Learned { offset } => *offset,
        };
        let name = format!("{}.weight", c.names.positions);
        let table = self.weights.matrix(&name, [c.context + offset, c.hidden], None)?.dense()?;
        let table = table.narrow(0, offset, c.context)?.to_dtype(self.weights.activations())?;
        Ok(PositionTable::Learned(table))
    }

    /// The embedding and the output head.
    pub(super) fn embedding_and_head(&self) -> Result<(Embedding, Linear), LoadError> {
        let embedding = self.vocabulary_matrix(self.config.names.embedding)?;
        if self.config.tied {
            let head = Linear::new(vec![embedding], &[], self.kernels)?;
            return Ok((Embedding::tied(&head), head));
        }
        let embedding = Embedding::new(embedding, self.kernels)?;
        let head = self.vocabulary_matrix(self.config.names.head).map_err(|error| match error {
            LoadError::MissingTensor { name } => LoadError::MissingHead { name },
            other => other,
        })?;
        Ok((embedding, Linear::new(vec![head], &[], self.kernels)?))
    }

    fn vocabulary_matrix(&self, name: &str) -> Result<Matrix, LoadError> {
        let shape = [self.config.vocab, self.config.hidden];
        self.weights.matrix(&format!("{name}.weight"), shape, None)
    }
}
