//! A decoder for token trees: explicit positions, ancestor mask, several sessions in one pass. What families of models differ in is data:
//! [`ModelConfig`].

use candle_core::{DType, Device, Result, Tensor};

use crate::cpu;
use crate::gguf::Gguf;
use crate::kv_cache::KvCache;
use crate::linear::Linear;
use crate::memory::free_bytes;
use crate::norm::{HeadNorm, Norm};
use crate::ops::{self, RotaryTable, Sight};
use crate::weights::{Matrix, Weights};
use crate::{
    Backend, EngineError, Keep, Kernels, LoadError, LoadOptions, Logits, MlpKind, ModelConfig, ModelSource,
    ModelSpec, NormKind, Positions, Segment, Vocabulary,
};

/// The decoder and its weights.
pub struct Decoder {
    config: ModelConfig,
    spec: ModelSpec,
    kernels: Kernels,
    /// Whether candle multiplies, with threads of its own.
    quantised: bool,
    /// dtype of activations and caches.
    dtype: DType,
    device: Device,
    /// `[vocab, hidden]`
    embedding: Matrix,
    positions: PositionTable,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
}

enum PositionTable {
    Rotary(RotaryTable),
    /// `[context, hidden]`
    Learned(Tensor),
}

struct Layer {
    attention_norm: Norm,
    /// Queries, keys and values side by side.
    qkv: Linear,
    head_norm: Option<HeadNorm>,
    output: Linear,
    mlp_norm: Norm,
    /// Gate, if there is one, and up side by side.
    up: Linear,
    down: Linear,
}

impl Decoder {
    /// Loads a model.
    pub fn load(source: &ModelSource, options: &LoadOptions) -> std::result::Result<Self, LoadError> {
        let files = source.files(options.progress.as_ref())?;
        let device = options.device.open()?;
        let (config, weights) = match &files.gguf {
            Some(path) => {
                let file = Gguf::open(path)?;
                let config = ModelConfig::read_gguf(&file, files.generation.as_deref())?;
                (config, Weights::gguf(file, &device, options)?)
            }
            None => {
                let config = ModelConfig::read(&files.config, files.generation.as_deref())?;
                let embedding = format!("{}.weight", config.names.embedding);
                let weights = Weights::safetensors(&files.weights, &embedding, &device, options)?;
                (config, weights)
            }
        };
        let vocabulary =
            files.tokenizer.as_deref().map(|path| Vocabulary::read(path, config.vocab)).transpose()?;
        // Our kernels are for the CPU.
        let kernels = if device.is_cpu() { options.kernels } else { Kernels::Candle };
        let parts = Parts { config: &config, weights: &weights, kernels };
        let (layers, norm, positions) = (parts.layers()?, parts.final_norm()?, parts.positions()?);
        let (embedding, head) = parts.embedding_and_head()?;
        let unused = weights.unused();
        if !unused.is_empty() {
            tracing::warn!(?unused, "the checkpoint has tensors that this decoder does not know");
        }
        let spec = ModelSpec {
            id: source.name(),
            vocab_size: config.vocab,
            context_length: config.context,
            eos: config.eos.clone(),
            vocabulary,
            parameters: weights.parameters(),
            weight_bytes: layers.iter().map(Layer::bytes).sum::<u64>() + head.bytes(),
            kv_bytes_per_token: (2 * config.layers * config.kv_heads * config.head_dim) as u64
                * weights.activations.size_in_bytes() as u64,
            dtype: weights.dtype(),
            device: options.device,
        };
        let (quantised, dtype) = (weights.quantised(), weights.activations);
        Ok(Self { config, quantised, spec, kernels, dtype, device, embedding, positions, layers, norm, head })
    }

    /// Lets this thread's passes use `threads` processors, with our kernels. candle's own use rayon's pool.
    pub fn use_threads(threads: usize) {
        cpu::assemble_team(threads.max(1));
    }

    /// Bytes that may still be allocated where it runs; `None` where the system does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        free_bytes(&self.device)
    }

    /// What is known of it.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The rows of all segments through all layers, then the logits of the wanted rows: `[wanted, vocab]`, f32.
    fn run(&self, batch: &mut [Segment<'_, KvCache>]) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = batch.iter().flat_map(|s| s.pass.tokens.iter().map(|t| t.0)).collect();
        let positions: Vec<usize> = batch.iter().flat_map(|s| s.pass.positions.iter().copied()).collect();
        let mut sights = Vec::with_capacity(batch.len());
        for segment in batch.iter_mut() {
            segment.cache.grow(segment.pass.tokens.len())?;
            sights.push(Sight::new(self.kernels, segment.pass.prefix, &segment.pass.mask, &self.device)?);
        }
        let session = |(segment, sight)| {
            let Segment { cache, pass }: &Segment<'_, KvCache> = segment;
            ops::Session { cache, sight, rows: pass.tokens.len() }
        };
        let sessions: Vec<_> = batch.iter().zip(&sights).map(session).collect();
        let ids = Tensor::new(tokens, &self.device)?;
        let mut x = self.embedding.rows(&ids)?.to_dtype(self.dtype)?;
        let angles = match &self.positions {
            PositionTable::Rotary(table) => {
                Some(table.rows(&positions, self.kernels, self.dtype, &self.device)?)
            }
            PositionTable::Learned(table) => {
                let rows: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
                let added = table.index_select(&Tensor::new(rows, &self.device)?, 0)?;
                x = ops::add(self.kernels, x, &added)?;
                None
            }
        };
        let (heads, eps) = (self.config.heads(), self.config.norm_eps as f32);
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = layer.attention_norm.forward(self.kernels, &x, eps)?;
            let mut qkv = layer.qkv.forward(&normed)?;
            if let Some(norm) = &layer.head_norm {
                qkv = norm.forward(self.kernels, qkv, heads, eps)?;
            }
            if let Some(angles) = &angles {
                qkv = ops::rope(qkv, angles, heads)?;
            }
            // Attention is per session: each has its own cache and mask.
            let attended = ops::attend(&qkv, &sessions, i, heads)?;
            x = ops::add(self.kernels, x, &layer.output.forward(&attended)?)?;
            let normed = layer.mlp_norm.forward(self.kernels, &x, eps)?;
            let between = layer.up.forward(&normed)?;
            let between = match self.config.mlp {
                MlpKind::GatedSilu => ops::silu_mul(self.kernels, &between)?,
                MlpKind::Relu => between.relu()?,
            };
            x = ops::add(self.kernels, x, &layer.down.forward(&between)?)?;
        }
        let mut wanted = Vec::new();
        let mut row = 0;
        for segment in batch.iter() {
            wanted.extend(segment.pass.logits.iter().map(|&r| (row + r) as u32));
            row += segment.pass.tokens.len();
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let x = x.index_select(&Tensor::new(wanted, &self.device)?, 0)?;
        let x = self.norm.forward(self.kernels, &x, eps)?;
        self.head.forward(&x)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }
}

/// What a decoder is put together from.
struct Parts<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
    kernels: Kernels,
}

type Loaded<T> = std::result::Result<T, LoadError>;

impl Parts<'_> {
    fn layers(&self) -> Loaded<Vec<Layer>> {
        (0..self.config.layers).map(|i| self.layer(i)).collect()
    }

    fn layer(&self, i: usize) -> Loaded<Layer> {
        let (c, n) = (self.config, self.config.names);
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let of = |name: &str| format!("{}{i}.{name}", n.layer);
        let head_norm = match c.qk_norm {
            true => {
                let weight = |name| self.weights.vector(&format!("{}.weight", of(name)), c.head_dim, None);
                Some(HeadNorm::new(&weight(n.q_norm)?, &weight(n.k_norm)?, c.heads())?)
            }
            false => None,
        };
        let gate = match c.mlp {
            MlpKind::GatedSilu => Some((of(n.gate), c.intermediate, None)),
            MlpKind::Relu => None,
        };
        let up: Vec<_> = gate.into_iter().chain([(of(n.up), c.intermediate, None)]).collect();
        // The files of some layouts keep rotated heads otherwise.
        let rotated = |heads| matches!(c.positions, Positions::Rotary { .. }).then_some(heads);
        let qkv = [(of(n.q), q, rotated(c.heads)), (of(n.k), kv, rotated(c.kv_heads)), (of(n.v), kv, None)];
        Ok(Layer {
            attention_norm: self.norm(&of(n.attention_norm))?,
            qkv: self.linear(&qkv, c.hidden, c.qkv_bias)?,
            head_norm,
            output: self.linear(&[(of(n.output), c.hidden, None)], q, c.output_bias)?,
            mlp_norm: self.norm(&of(n.mlp_norm))?,
            up: self.linear(&up, c.hidden, c.mlp_bias)?,
            down: self.linear(&[(of(n.down), c.hidden, None)], c.intermediate, c.mlp_bias)?,
        })
    }

    /// Layers over the same `inputs`, each by name, outputs, and heads if it makes such as are rotated.
    fn linear(&self, parts: &[(String, usize, Option<usize>)], inputs: usize, bias: bool) -> Loaded<Linear> {
        let matrix = |(name, outputs, heads): &(String, usize, Option<usize>)| {
            self.weights.matrix(&format!("{name}.weight"), [*outputs, inputs], *heads)
        };
        let vector = |(name, outputs, heads): &(String, usize, Option<usize>)| {
            self.weights.vector(&format!("{name}.bias"), *outputs, *heads)
        };
        let matrices = parts.iter().map(matrix).collect::<Loaded<Vec<_>>>()?;
        let biases = if bias { parts.iter().map(vector).collect::<Loaded<Vec<_>>>()? } else { Vec::new() };
        Ok(Linear::new(&matrices, &biases, self.kernels)?)
    }

    fn norm(&self, name: &str) -> Loaded<Norm> {
        let vector = |what| self.weights.vector(&format!("{name}.{what}"), self.config.hidden, None);
        Ok(match self.config.norm {
            NormKind::Rms => Norm::Rms { weight: vector("weight")? },
            NormKind::Layer => Norm::Layer { weight: vector("weight")?, bias: vector("bias")? },
        })
    }

    fn final_norm(&self) -> Loaded<Norm> {
        self.norm(self.config.names.norm)
    }

    fn positions(&self) -> Loaded<PositionTable> {
        let c = self.config;
        Ok(match &c.positions {
            Positions::Rotary { theta, scaling } => {
                PositionTable::Rotary(RotaryTable::new(*theta, scaling.as_ref(), c.head_dim, c.context))
            }
            Positions::Learned { offset } => {
                let name = format!("{}.weight", c.names.positions);
                let Matrix::Dense(table) =
                    self.weights.matrix(&name, [c.context + offset, c.hidden], None)?
                else {
                    return Err(LoadError::MissingTensor { name });
                };
                PositionTable::Learned(
                    table.narrow(0, *offset, c.context)?.to_dtype(self.weights.activations)?,
                )
            }
        })
    }

    fn embedding_and_head(&self) -> Loaded<(Matrix, Linear)> {
        let c = self.config;
        let matrix = |name: &str| self.weights.matrix(&format!("{name}.weight"), [c.vocab, c.hidden], None);
        let embedding = matrix(c.names.embedding)?;
        let head = if c.tied { embedding.clone() } else { matrix(c.names.head)? };
        Ok((embedding, Linear::new(&[head], &[], self.kernels)?))
    }
}

impl Layer {
    /// Bytes of its linear layers.
    fn bytes(&self) -> u64 {
        [&self.qkv, &self.output, &self.up, &self.down].map(Linear::bytes).iter().sum()
    }
}

impl Backend for Decoder {
    type Cache = KvCache;

    fn new_cache(&self, rows: usize) -> KvCache {
        KvCache::new(&self.config, rows, self.dtype, &self.device)
    }

    fn cached(&self, cache: &KvCache) -> usize {
        cache.len()
    }

    fn keep(&self, cache: &mut KvCache, keep: &Keep) -> std::result::Result<(), EngineError> {
        Ok(cache.keep(keep)?)
    }

    fn forward(&self, batch: &mut [Segment<'_, KvCache>]) -> std::result::Result<Vec<Logits>, EngineError> {
        // Two sets of threads that wait by spinning would take the processors from one another.
        let values = if self.quantised { self.run(batch)? } else { cpu::team_awake(|| self.run(batch))? };
        let mut rest = values.as_slice();
        let mut all = Vec::with_capacity(batch.len());
        for segment in batch {
            segment.cache.advance(segment.pass.tokens.len());
            let (own, others) = rest.split_at(segment.pass.logits.len() * self.config.vocab);
            all.push(Logits::new(self.config.vocab, own.to_vec()));
            rest = others;
        }
        Ok(all)
    }
}
