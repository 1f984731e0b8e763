//! The interface between the runtime and a model: one small trait.

use tandem_decoding::{AncestorMask, TokenId};

use super::error::EngineError;

/// One session's part of a forward pass.
///
/// The KV cache of the session holds `prefix` rows that every row of the pass attends to. It may hold more
/// rows after them that only some rows attend to: those of a tree that grows depth by depth. The pass appends
/// one cache row per token.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Cache rows that every row of the pass attends to.
    pub prefix: usize,
    /// The tokens of the new rows.
    pub tokens: Vec<TokenId>,
    /// The position of each token in its sequence. Siblings of a tree share one.
    pub positions: Vec<usize>,
    /// The cache rows after the prefix that each new row attends to, itself included.
    pub mask: AncestorMask,
    /// The rows of the pass whose logits are needed, in the order in which they are returned.
    pub logits: Vec<usize>,
}

impl Pass {
    /// `tokens` in causal order after `prefix` rows, without logits.
    pub fn causal(prefix: usize, tokens: Vec<TokenId>) -> Self {
        let positions = (prefix..prefix + tokens.len()).collect();
        let mask = AncestorMask::causal(tokens.len());
        Self { prefix, tokens, positions, mask, logits: Vec::new() }
    }

    /// Checks the pass against a cache of `cached` rows and the limits of a model.
    pub(crate) fn check(&self, cached: usize, vocab: usize, context: usize) -> Result<(), EngineError> {
        self.check_shape(cached).map_err(EngineError::InvalidPass)?;
        if let Some(&position) = self.positions.iter().find(|&&p| p >= context) {
            return Err(EngineError::ContextFull { position, limit: context });
        }
        if let Some(&token) = self.tokens.iter().find(|t| t.0 as usize >= vocab) {
            return Err(EngineError::TokenOutOfRange { token, vocab });
        }
        Ok(())
    }

    fn check_shape(&self, cached: usize) -> Result<(), String> {
        let rows = self.tokens.len();
        let positions = self.positions.len();
        let mask_rows = self.mask.rows();
        if self.prefix > cached {
            return Err(format!("it has a prefix of {} rows, but the cache holds {cached}", self.prefix));
        }
        if positions != rows || mask_rows != rows {
            return Err(format!("it has {rows} tokens, {positions} positions and {mask_rows} rows of mask"));
        }
        let cached_after_prefix = cached - self.prefix;
        let columns = self.mask.columns();
        if columns != cached_after_prefix + rows {
            let expected = cached_after_prefix + rows;
            return Err(format!("its mask has {columns} columns for {expected} cache rows"));
        }
        if let Some(row) = (0..rows).find(|&r| !self.mask.sees(r, cached_after_prefix + r)) {
            return Err(format!("row {row} does not attend to itself"));
        }
        if let Some(row) = self.logits.iter().find(|&&r| r >= rows) {
            return Err(format!("it requests the logits of row {row}, but has {rows} rows"));
        }
        Ok(())
    }
}

/// The rows of a cache that survive a commit: the first `prefix` rows, then `rows` in this order. All others
/// are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Rows that stay where they are.
    pub prefix: usize,
    /// Rows after the prefix, in ascending order, that move up to it.
    pub rows: Vec<usize>,
}

impl Keep {
    /// Checks it against a cache of `cached` rows, and returns how many rows remain.
    pub(crate) fn check(&self, cached: usize) -> Result<usize, EngineError> {
        let ascending = self.rows.windows(2).all(|pair| pair[0] < pair[1]);
        let after_prefix = self.rows.first().is_none_or(|&first| first >= self.prefix);
        let within = self.prefix <= cached && self.rows.last().is_none_or(|&last| last < cached);
        if !ascending || !after_prefix || !within {
            return Err(EngineError::InvalidPass(format!("cannot keep {self:?} of {cached} rows")));
        }
        Ok(self.prefix + self.rows.len())
    }
}

/// Logits of the requested rows of a pass: `[rows, vocab]`, f32, not normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    vocab: usize,
    values: Vec<f32>,
}

impl Logits {
    /// `values` is a whole number of rows of `vocab` values.
    pub fn new(vocab: usize, values: Vec<f32>) -> Self {
        Self { vocab, values }
    }

    /// The rows, in the order in which the pass requested them.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab.max(1))
    }
}

/// A pass and the cache that it runs on.
pub struct Segment<'a, C> {
    /// The cache of the session.
    pub cache: &'a mut C,
    /// The pass to run on it.
    pub pass: &'a Pass,
}

/// A model that the model thread can own.
pub trait Backend: 'static {
    /// The KV cache of one session.
    type Cache;

    /// An empty cache that will never hold more than `rows` rows.
    fn new_cache(&self, rows: usize) -> Self::Cache;

    /// Rows that the cache holds.
    fn cached(&self, cache: &Self::Cache) -> usize;

    /// Drops all rows but those of `keep`, which was checked against the cache.
    fn keep(&self, cache: &mut Self::Cache, keep: &Keep) -> Result<(), EngineError>;

    /// Runs the passes of several sessions as one forward pass and appends their rows to their caches. Every
    /// pass was checked. Returns one `Logits` per segment, in order. On an error, no cache holds more rows
    /// than before.
    fn forward(&self, batch: &mut [Segment<'_, Self::Cache>]) -> Result<Vec<Logits>, EngineError>;
}
