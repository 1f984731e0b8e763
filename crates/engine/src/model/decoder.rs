//! A decoder for token trees: explicit positions, ancestor masks, several sessions in one pass. What model
//! families differ in is data: [`ModelConfig`].

use std::collections::VecDeque;

use candle_core::{DType, Device, Result, Tensor};
use tandem_decoding::{InvalidLogits, RowQuery, RowSummary};

use super::assembly::{Assembly, PositionTable};
use super::attention::{AttentionMask, SessionRows};
use super::backend::{Backend, Done, Keep, Segment};
use super::error::EngineError;
use super::kv_cache::KvCache;
use super::layer::{Layer, LayerInput};
use super::linear::{Embedding, Linear};
use super::norm::Norm;
use super::ops;
use super::outputs::{Chunks, Output, outputs_of};
use super::pass_memory::PassMemory;
use super::rotary::Angles;
use super::spec::ModelSpec;
use crate::cpu::{self, InstructionSet, KernelUse, KvDtype};
use crate::load::{Checkpoint, Kernels, LoadError, LoadOptions, ModelConfig, ModelSource, release_freed};

/// The decoder and its weights.
pub struct Decoder {
    config: ModelConfig,
    spec: ModelSpec,
    kernels: Kernels,
    /// The dtype of activations.
    dtype: DType,
    kv_dtype: KvDtype,
    device: Device,
    embedding: Embedding,
    positions: PositionTable,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
}

impl Decoder {
    /// Loads a model.
    ///
    /// # Errors
    /// If a file is missing or cannot be read, if the model is not supported, or if the device is not
    /// available.
    pub fn load(source: &ModelSource, options: &LoadOptions) -> std::result::Result<Self, LoadError> {
        let Checkpoint { config, vocabulary, weights, device } = Checkpoint::open(source, options)?;
        // Our kernels are for the CPU.
        let kernels = if device.is_cpu() { options.kernels } else { Kernels::Candle };
        let assembly = Assembly { config: &config, weights: &weights, kernels };
        // The largest tensors first: while one is repacked, it is in memory twice.
        let (embedding, head) = assembly.embedding_and_head()?;
        let layers = assembly.layers()?;
        let norm = assembly.final_norm()?;
        let positions = assembly.positions()?;
        let unused = weights.unused();
        if !unused.is_empty() {
            tracing::warn!(?unused, "the checkpoint has tensors that this decoder does not use");
        }
        release_freed();
        let kernel_uses = KernelUse::sum(layers.iter().flat_map(Layer::kernels).chain(head.kernels()));
        let kv_dtype = KvDtype::of_activations(weights.activations());
        let spec = ModelSpec {
            id: source.name(),
            vocab_size: config.vocab,
            context_length: config.context,
            eos: config.eos.clone(),
            vocabulary,
            parameters: weights.parameters(),
            weight_bytes: kernel_uses.iter().map(|one| one.bytes).sum(),
            kv_bytes_per_token: kv_bytes_per_token(&config, kv_dtype),
            dtype: weights.dtype(),
            device: options.device,
            kernels: kernel_uses,
        };
        Ok(Self {
            dtype: weights.activations(),
            kv_dtype,
            config,
            spec,
            kernels,
            device,
            embedding,
            positions,
            layers,
            norm,
            head,
        })
    }

    /// Lets the passes of this thread use `threads` processors with our kernels. candle's own kernels use the
    /// thread pool of rayon.
    pub fn use_threads(threads: usize) {
        cpu::start_thread_pool(threads.max(1));
    }

    /// Lets the models that this thread loads and runs from now on use `isa` on the CPU instead of the best
    /// instruction set of this machine.
    pub fn use_instruction_set(isa: InstructionSet) {
        isa.use_on_this_thread();
    }

    /// Keeps keys and values in `dtype` from now on, instead of in that of the activations.
    pub fn with_kv_dtype(mut self, dtype: KvDtype) -> Self {
        self.kv_dtype = dtype;
        self.spec.kv_bytes_per_token = kv_bytes_per_token(&self.config, dtype);
        self
    }

    /// The description of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The kernels of the output head, which computes logits.
    pub fn head_kernels(&self) -> Vec<KernelUse> {
        self.head.kernels()
    }

    /// Bytes that a pass takes for its outputs, however many it has, beyond [`Backend::pass_bytes`].
    pub fn output_bytes(&self) -> usize {
        self.pass_memory().outputs()
    }

    fn pass_memory(&self) -> PassMemory {
        PassMemory::new(&self.config, self.kernels, self.dtype)
    }

    /// The device that it runs on.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Runs the rows of all segments through all layers: `[rows, hidden]`. The caches have room for their rows
    /// then, and hold them after their last.
    fn run_layers(&self, batch: &mut [Segment<'_, KvCache>]) -> Result<Tensor> {
        let mut masks = Vec::with_capacity(batch.len());
        for segment in batch.iter_mut() {
            segment.cache.grow(segment.pass.tokens.len())?;
            let pass = segment.pass;
            masks.push(AttentionMask::new(self.kernels, pass.prefix, &pass.mask, &self.device)?);
        }
        let (mut x, angles) = self.embed(batch)?;
        let sessions = batch.iter_mut().zip(&masks).map(|(segment, mask)| SessionRows {
            cache: &mut *segment.cache,
            mask,
            rows: segment.pass.tokens.len(),
        });
        let mut input = LayerInput {
            kernels: self.kernels,
            heads: self.config.heads(),
            eps: self.config.norm_eps as f32,
            angles,
            sessions: sessions.collect(),
        };
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, index, &mut input)?;
        }
        Ok(x)
    }

    /// The embeddings of the tokens, `[rows, hidden]`, and the angles of their positions if these are rotary.
    fn embed(&self, batch: &[Segment<'_, KvCache>]) -> Result<(Tensor, Option<Angles>)> {
        let tokens: Vec<u32> = batch.iter().flat_map(|s| s.pass.tokens.iter().map(|t| t.0)).collect();
        let positions: Vec<usize> = batch.iter().flat_map(|s| s.pass.positions.iter().copied()).collect();
        let x = self.embedding.forward(tokens, &self.device)?.to_dtype(self.dtype)?;
        match &self.positions {
            PositionTable::Rotary(table) => {
                let angles = table.rows(&positions, self.kernels, self.dtype, &self.device)?;
                Ok((x, Some(angles)))
            }
            PositionTable::Learned(table) => {
                let rows: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
                let vectors = table.index_select(&Tensor::new(rows, &self.device)?, 0)?;
                Ok((ops::add(self.kernels, x, &vectors)?, None))
            }
        }
    }

    /// Runs the batch, computes its outputs, few rows at a time, and hands them over.
    fn run_batch(&self, batch: &mut [Segment<'_, KvCache>], done: &mut Done<'_>) -> Result<()> {
        let outputs = outputs_of(batch);
        let mut chunks = Chunks { outputs: &outputs, vocab: self.config.vocab };
        // The threads are not kept awake while sessions take their outputs: other models share the machine.
        let (x, mut summaries) = cpu::with_threads_awake(|| {
            let x = self.run_layers(batch)?;
            let first = chunks.next().map_or(Ok(Vec::new()), |chunk| self.summaries(&x, chunk))?;
            Ok::<_, candle_core::Error>((x, VecDeque::from(first)))
        })?;
        for (index, segment) in batch.iter_mut().enumerate() {
            let count = segment.pass.outputs.len();
            while summaries.len() < count {
                let Some(chunk) = chunks.next() else { candle_core::bail!("an output has no row") };
                summaries.extend(cpu::with_threads_awake(|| self.summaries(&x, chunk))?);
            }
            segment.cache.advance(segment.pass.tokens.len());
            let own: std::result::Result<_, _> = summaries.drain(..count).collect();
            done(index, own.map_err(|error: InvalidLogits| EngineError::Failed(error.to_string())));
        }
        Ok(())
    }

    /// The summaries of some rows of `x: [rows, hidden]`.
    fn summaries(
        &self,
        x: &Tensor,
        outputs: &[Output<'_>],
    ) -> Result<Vec<std::result::Result<RowSummary, InvalidLogits>>> {
        let rows: Vec<u32> = outputs.iter().map(|output| output.row).collect();
        let x = x.index_select(&Tensor::new(rows, &self.device)?, 0)?;
        let x = self.norm.forward(self.kernels, &x, self.config.norm_eps as f32)?;
        let logits = self.head.forward_values(&x)?;
        let queries: Vec<&RowQuery> = outputs.iter().map(|output| output.query).collect();
        Ok(cpu::reduce_rows(&logits, &queries))
    }
}

/// Bytes of the keys and values of one token.
fn kv_bytes_per_token(config: &ModelConfig, dtype: KvDtype) -> u64 {
    (2 * config.layers * config.kv_heads * config.head_dim * dtype.bytes()) as u64
}

impl Backend for Decoder {
    type Cache = KvCache;

    fn new_cache(&self, rows: usize) -> KvCache {
        KvCache::new(&self.config, rows, self.kv_dtype, self.kernels, &self.device)
    }

    fn cached(&self, cache: &KvCache) -> usize {
        cache.len()
    }

    fn keep(&self, cache: &mut KvCache, keep: &Keep) -> std::result::Result<(), EngineError> {
        Ok(cache.keep(keep)?)
    }

    fn pass_bytes(&self, rows: usize, cached: usize) -> usize {
        self.pass_memory().bytes(rows, cached)
    }

    fn forward(
        &self,
        batch: &mut [Segment<'_, KvCache>],
        done: &mut Done<'_>,
    ) -> std::result::Result<(), EngineError> {
        Ok(self.run_batch(batch, done)?)
    }
}
