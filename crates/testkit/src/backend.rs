//! The toy model as a backend of the engine, so that the real services run on it.

use std::sync::Arc;

use tandem_decoding::TokenId;
use tandem_engine::{
    Backend, BatchPolicy, DeviceChoice, EngineError, Keep, KvBudget, Loaded, Logits, ModelSpec, Segment,
    Vocabulary,
};

use crate::toy::{ToyModel, toy_tokenizer_json};

/// Rows of a pass: few, so that passes are split.
const PACKED_ROWS: usize = 24;

impl ToyModel {
    /// The model, ready for a model thread, with a KV cache of `kv_tokens`.
    pub fn loaded(self, name: &str, kv_tokens: usize) -> Loaded<Self> {
        let spec = ModelSpec {
            id: name.to_owned(),
            vocab_size: self.vocab,
            context_length: Self::CONTEXT_TOKENS,
            eos: Vec::new(),
            vocabulary: Some(Vocabulary {
                config: Arc::default(),
                chat_template: Arc::default(),
                json: toy_tokenizer_json(self.vocab).into_bytes().into(),
                hash: format!("toy-{}", self.vocab),
            }),
            parameters: 0,
            weight_bytes: 0,
            kv_bytes_per_token: 0,
            dtype: "f32".into(),
            device: DeviceChoice::Cpu,
            kernels: Vec::new(),
        };
        let budget = KvBudget::new(kv_tokens);
        let policy = BatchPolicy::unmeasured(PACKED_ROWS);
        Loaded { backend: self, spec, budget, policy }
    }
}

/// The cache of a sequence is the tokens of its rows.
impl Backend for ToyModel {
    type Cache = Vec<TokenId>;

    fn new_cache(&self, _: usize) -> Vec<TokenId> {
        Vec::new()
    }

    fn cached(&self, cache: &Vec<TokenId>) -> usize {
        cache.len()
    }

    fn keep(&self, cache: &mut Vec<TokenId>, keep: &Keep) -> Result<(), EngineError> {
        let kept: Vec<TokenId> = keep.rows.iter().map(|&r| cache[r]).collect();
        cache.truncate(keep.prefix);
        cache.extend(kept);
        Ok(())
    }

    fn forward(&self, batch: &mut [Segment<'_, Vec<TokenId>>]) -> Result<Vec<Logits>, EngineError> {
        Ok(batch.iter_mut().map(|segment| self.segment_logits(segment)).collect())
    }
}

impl ToyModel {
    fn segment_logits(&self, segment: &mut Segment<'_, Vec<TokenId>>) -> Logits {
        let Segment { cache, pass } = segment;
        cache.extend(&pass.tokens);
        let mut logits = Vec::new();
        for &row in &pass.logits {
            let tail = (0..pass.mask.columns()).filter(|&column| pass.mask.sees(row, column));
            let visible = (0..pass.prefix).chain(tail.map(|column| pass.prefix + column));
            let sequence: Vec<TokenId> = visible.map(|i| cache[i]).collect();
            logits.extend(self.logits(&sequence));
        }
        Logits::new(self.vocab, logits)
    }
}
