//! The seam between the model thread and a model: one small trait.

use tandem_decoding::{AncestorMask, TokenId};

use crate::EngineError;

/// One session's part of a forward pass.
///
/// The session's KV cache holds `prefix` rows that every row of the pass sees, and maybe rows behind them that only
/// some see (a tree that grows). The pass appends one cache row per token.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Cache rows that every row of the pass sees.
    pub prefix: usize,
    /// The new rows.
    pub tokens: Vec<TokenId>,
    /// Of each token: its index in the text; siblings of a tree share one.
    pub positions: Vec<usize>,
    /// What each new row sees behind the prefix, itself included.
    pub mask: AncestorMask,
    /// The rows of the pass whose logits are wanted, in the order wanted.
    pub logits: Vec<usize>,
}

impl Pass {
    /// `tokens` in plain causal order behind `prefix` rows, without logits.
    pub fn causal(prefix: usize, tokens: Vec<TokenId>) -> Self {
        let positions = (prefix..prefix + tokens.len()).collect();
        let mask = AncestorMask::causal(tokens.len());
        Self { prefix, tokens, positions, mask, logits: Vec::new() }
    }

    /// Checks the pass against a cache of `cached` rows and a model.
    pub(crate) fn check(&self, cached: usize, vocab: usize, context: usize) -> Result<(), EngineError> {
        let rows = self.tokens.len();
        let invalid = |what: String| Err(EngineError::InvalidPass(what));
        if self.prefix > cached {
            return invalid(format!("a prefix of {} rows in a cache of {cached}", self.prefix));
        }
        if self.positions.len() != rows || self.mask.rows() != rows {
            return invalid(format!(
                "{rows} tokens, {} positions, {} rows of mask",
                self.positions.len(),
                self.mask.rows()
            ));
        }
        if self.mask.columns() != cached - self.prefix + rows {
            return invalid(format!(
                "a mask of {} columns over {} cache rows",
                self.mask.columns(),
                cached - self.prefix + rows
            ));
        }
        if let Some(row) = (0..rows).find(|&r| !self.mask.sees(r, cached - self.prefix + r)) {
            return invalid(format!("row {row} does not see itself"));
        }
        if let Some(row) = self.logits.iter().find(|&&r| r >= rows) {
            return invalid(format!("logits of row {row} out of {rows}"));
        }
        if let Some(&position) = self.positions.iter().find(|&&p| p >= context) {
            return Err(EngineError::ContextFull { position, limit: context });
        }
        if let Some(&token) = self.tokens.iter().find(|t| t.0 as usize >= vocab) {
            return Err(EngineError::TokenOutOfRange { token, vocab });
        }
        Ok(())
    }
}

/// What of a cache survives a commit: the first `prefix` rows, then `rows` in this order; all else is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Rows kept where they are.
    pub prefix: usize,
    /// Ascending rows behind the prefix, moved up to it.
    pub rows: Vec<usize>,
}

/// Logits of the wanted rows of a pass: `[rows, vocab]`, f32, not normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    vocab: usize,
    values: Vec<f32>,
}

impl Logits {
    /// `values` is a whole number of rows of `vocab`.
    pub fn new(vocab: usize, values: Vec<f32>) -> Self {
        Self { vocab, values }
    }

    /// Row by row, in the order that the pass asked for.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab.max(1))
    }
}

/// A pass and the cache it runs on.
pub struct Segment<'a, C> {
    /// The session's cache.
    pub cache: &'a mut C,
    /// What to run on it.
    pub pass: &'a Pass,
}

/// A model that the model thread can own.
pub trait Backend: 'static {
    /// The KV cache of one session.
    type Cache;

    /// An empty cache that will never have more than `rows`.
    fn new_cache(&self, rows: usize) -> Self::Cache;

    /// Rows that the cache holds.
    fn cached(&self, cache: &Self::Cache) -> usize;

    /// Drops what is not kept. `keep` was checked against the cache.
    fn keep(&self, cache: &mut Self::Cache, keep: &Keep) -> Result<(), EngineError>;

    /// Runs the passes of several sessions as one forward and appends their rows to their caches. Every pass was
    /// checked. One `Logits` per segment, in order. On an error no cache holds more rows than before.
    fn forward(&self, batch: &mut [Segment<'_, Self::Cache>]) -> Result<Vec<Logits>, EngineError>;
}
