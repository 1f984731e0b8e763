//! The toy model as a backend of the engine, so that the real services run on it.

use std::sync::Arc;

use tandem_decoding::{RowReducer, RowSummary, TokenId};
use tandem_engine::{
    Backend, BatchPolicy, DeviceChoice, Done, EngineError, Keep, KvBudget, Loaded, ModelSpec, Segment,
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
                end_tokens: Vec::new(),
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
        Loaded { backend: self, spec, budget, policy, pass_bytes: 0 }
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

    fn pass_bytes(&self, _: usize, _: usize) -> usize {
        // Its rows are computed one by one, and only the reply grows with their number.
        0
    }

    fn forward(
        &self,
        batch: &mut [Segment<'_, Vec<TokenId>>],
        done: &mut Done<'_>,
    ) -> Result<(), EngineError> {
        for (index, segment) in batch.iter_mut().enumerate() {
            done(index, Ok(self.outputs(segment)?));
        }
        Ok(())
    }
}

impl ToyModel {
    fn outputs(&self, segment: &mut Segment<'_, Vec<TokenId>>) -> Result<Vec<RowSummary>, EngineError> {
        let Segment { cache, pass } = segment;
        cache.extend(&pass.tokens);
        let mut reducer = RowReducer::default();
        let summaries = pass.outputs.iter().map(|output| {
            let tail = (0..pass.mask.columns()).filter(|&column| pass.mask.sees(output.row, column));
            let visible = (0..pass.prefix).chain(tail.map(|column| pass.prefix + column));
            let sequence: Vec<TokenId> = visible.map(|i| cache[i]).collect();
            let summary = reducer.reduce(&self.logits(&sequence), &output.query);
            summary.map_err(|error| EngineError::Failed(error.to_string()))
        });
        summaries.collect()
    }
}
