//! A Llama-family decoder for token trees: explicit positions, ancestor mask, several sessions in one pass.

use candle_core::{DType, Device, Result, Tensor};

use crate::cpu;
use crate::kv_cache::KvCache;
use crate::linear::Linear;
use crate::memory::free_bytes;
use crate::ops::{self, Heads, RotaryTable, Sight};
use crate::weights::Weights;
use crate::{
    Backend, EngineError, Keep, Kernels, LoadError, LoadOptions, Logits, ModelConfig, ModelSource, ModelSpec,
    Segment, Vocabulary,
};

/// The decoder and its weights.
pub struct Llama {
    config: ModelConfig,
    spec: ModelSpec,
    kernels: Kernels,
    /// dtype of activations and caches.
    dtype: DType,
    device: Device,
    /// `[vocab, hidden]`
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Linear,
    rotary: RotaryTable,
}

struct Layer {
    attention_norm: Tensor,
    /// Queries, keys and values side by side.
    qkv: Linear,
    output: Linear,
    mlp_norm: Tensor,
    /// Gate and up side by side.
    gate_up: Linear,
    down: Linear,
}

impl Llama {
    /// Loads a model.
    pub fn load(source: &ModelSource, options: &LoadOptions) -> std::result::Result<Self, LoadError> {
        let files = source.files()?;
        let config = ModelConfig::read(&files.config, files.generation.as_deref())?;
        let vocabulary =
            files.tokenizer.as_deref().map(|path| Vocabulary::read(path, config.vocab)).transpose()?;
        let device = options.device.open()?;
        let weights = Weights::open(&files, &device, options)?;
        let id = match source {
            ModelSource::Hub { id, .. } => id.clone(),
            ModelSource::Directory(path) | ModelSource::RandomWeights(path) => path.display().to_string(),
        };
        // Our kernels are for the CPU.
        let kernels = if device.is_cpu() { options.kernels } else { Kernels::Candle };
        Self::build(config, &weights, kernels, |config, dtype, activations| {
            let parameters = count(config);
            let embedding = (config.vocab * config.hidden) as u64;
            let passed = if config.tied { parameters } else { parameters - embedding };
            ModelSpec {
                id,
                vocab_size: config.vocab,
                context_length: config.context,
                eos: config.eos.clone(),
                vocabulary,
                parameters,
                weight_bytes: passed * dtype.size_in_bytes() as u64,
                kv_bytes_per_token: (2 * config.layers * config.kv_heads * config.head_dim) as u64
                    * activations.size_in_bytes() as u64,
                dtype,
                device: options.device,
            }
        })
    }

    fn build(
        c: ModelConfig,
        weights: &Weights,
        kernels: Kernels,
        spec: impl FnOnce(&ModelConfig, DType, DType) -> ModelSpec,
    ) -> std::result::Result<Self, LoadError> {
        const EMBEDDING: &str = "model.embed_tokens.weight";
        let stored = weights.dtype_of(EMBEDDING)?;
        let on_cpu = weights.device.is_cpu();
        let dtype = if on_cpu { DType::F32 } else { stored };
        let matrix = |name: &str, out: usize, inputs: usize| weights.get(name, &[out, inputs], stored);
        let vector = |name: &str| weights.get(name, &[c.hidden], dtype);
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let layer = |i: usize| -> std::result::Result<Layer, LoadError> {
            let of = |name: &str| format!("model.layers.{i}.{name}.weight");
            let attention = |name: &str, out| matrix(&of(&format!("self_attn.{name}_proj")), out, c.hidden);
            let mlp = |name: &str, out, inputs| matrix(&of(&format!("mlp.{name}_proj")), out, inputs);
            Ok(Layer {
                attention_norm: vector(&of("input_layernorm"))?,
                qkv: Linear::new(&[attention("q", q)?, attention("k", kv)?, attention("v", kv)?], kernels)?,
                output: Linear::new(&[matrix(&of("self_attn.o_proj"), c.hidden, q)?], kernels)?,
                mlp_norm: vector(&of("post_attention_layernorm"))?,
                gate_up: Linear::new(
                    &[mlp("gate", c.intermediate, c.hidden)?, mlp("up", c.intermediate, c.hidden)?],
                    kernels,
                )?,
                down: Linear::new(&[mlp("down", c.hidden, c.intermediate)?], kernels)?,
            })
        };
        let embedding = matrix(EMBEDDING, c.vocab, c.hidden)?;
        let layers = (0..c.layers).map(layer).collect::<std::result::Result<_, _>>()?;
        let norm = vector("model.norm.weight")?;
        let head = if c.tied { embedding.clone() } else { matrix("lm_head.weight", c.vocab, c.hidden)? };
        Ok(Self {
            spec: spec(&c, stored, dtype),
            kernels,
            dtype,
            device: weights.device.clone(),
            head: Linear::new(&[head], kernels)?,
            embedding,
            layers,
            norm,
            rotary: RotaryTable::new(&c),
            config: c,
        })
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
        let angles = self.rotary.rows(&positions, self.kernels, self.dtype, &self.device)?;
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
        let mut x = self.embedding.index_select(&ids, 0)?.to_dtype(self.dtype)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = ops::rms_norm(self.kernels, &x, &layer.attention_norm, self.config.rms_eps as f32)?;
            let qkv = ops::rope(layer.qkv.forward(&normed)?, &angles, self.heads())?;
            // Attention is per session: each has its own cache and mask.
            let attended = ops::attend(&qkv, &sessions, i, self.heads())?;
            x = ops::add(self.kernels, x, &layer.output.forward(&attended)?)?;
            let normed = ops::rms_norm(self.kernels, &x, &layer.mlp_norm, self.config.rms_eps as f32)?;
            let gated = ops::silu_mul(self.kernels, &layer.gate_up.forward(&normed)?)?;
            x = ops::add(self.kernels, x, &layer.down.forward(&gated)?)?;
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
        let x = ops::rms_norm(self.kernels, &x, &self.norm, self.config.rms_eps as f32)?;
        self.head.forward(&x)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }

    fn heads(&self) -> Heads {
        let c = &self.config;
        Heads { heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim }
    }
}

impl Backend for Llama {
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
        let values = cpu::team_awake(|| self.run(batch))?;
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

/// Weights of a model of this shape.
fn count(c: &ModelConfig) -> u64 {
    let attention = c.hidden * c.head_dim * (2 * c.heads + 2 * c.kv_heads);
    let layer = attention + 3 * c.hidden * c.intermediate + 2 * c.hidden;
    let embeddings = c.vocab * c.hidden * if c.tied { 1 } else { 2 };
    (c.layers * layer + embeddings + c.hidden) as u64
}
