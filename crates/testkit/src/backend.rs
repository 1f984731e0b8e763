//! The toy model behind the engine's seam, so that the real services run on it.

use tandem_decoding::TokenId;
use tandem_engine::{
    Backend, BatchPolicy, DeviceChoice, EngineError, Keep, KvBudget, Loaded, Logits, ModelSpec, Segment,
    Vocabulary,
};

use crate::ToyModel;
use crate::toy::toy_tokenizer_json;

/// Tokens that a text of a toy may have.
pub(crate) const CONTEXT: usize = 96;
/// Rows of a pass: few, so that passes are split.
const PACKED_ROWS: usize = 24;

impl ToyModel {
    /// The model, ready for a model thread, with a KV cache of `tokens`.
    pub fn loaded(self, name: &str, tokens: usize) -> Loaded<Self> {
        let spec = ModelSpec {
            id: name.to_owned(),
            vocab_size: self.vocab,
            context_length: CONTEXT,
            eos: Vec::new(),
            vocabulary: Some(Vocabulary {
                config: std::sync::Arc::default(),
                chat_template: std::sync::Arc::default(),
                json: toy_tokenizer_json(self.vocab).into_bytes().into(),
                hash: format!("toy-{}", self.vocab),
            }),
            parameters: 0,
            weight_bytes: 0,
            kv_bytes_per_token: 0,
            dtype: "f32".into(),
            device: DeviceChoice::Cpu,
        };
        let policy = BatchPolicy::unmeasured(PACKED_ROWS);
        Loaded { backend: self, spec, budget: KvBudget::new(tokens), policy }
    }
}

/// The cache of a text is the tokens of its rows.
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
        let logits = batch.iter_mut().map(|Segment { cache, pass }| {
            cache.extend(&pass.tokens);
            let row = |&row: &usize| {
                let tail = (0..pass.mask.columns()).filter(|&c| pass.mask.sees(row, c));
                let seen = (0..pass.prefix).chain(tail.map(|c| pass.prefix + c));
                self.logits(&seen.map(|i| cache[i]).collect::<Vec<_>>())
            };
            Logits::new(self.vocab, pass.logits.iter().flat_map(row).collect())
        });
        Ok(logits.collect())
    }
}
