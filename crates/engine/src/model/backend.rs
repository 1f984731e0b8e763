//! The interface between the runtime and a model: one small trait.

use tandem_decoding::{AncestorMask, RowQuery, RowSummary, TokenId};

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
    /// The rows of the pass whose logits are needed, in the order in which their summaries are returned.
    pub outputs: Vec<RowOutput>,
}

/// A row of a pass whose logits are needed.
#[derive(Clone, Debug)]
pub struct RowOutput {
    /// The index of the row in the pass.
    pub row: usize,
    /// What its logits are reduced to.
    pub query: RowQuery,
}

impl Pass {
    /// `tokens` in causal order after `prefix` rows, without outputs.
    pub fn causal(prefix: usize, tokens: Vec<TokenId>) -> Self {
        let positions = (prefix..prefix + tokens.len()).collect();
        let mask = AncestorMask::causal(tokens.len());
        Self { prefix, tokens, positions, mask, outputs: Vec::new() }
    }

    /// The same with the logits of `rows` as outputs.
    pub fn with_logits(mut self, rows: impl IntoIterator<Item = usize>) -> Self {
        self.outputs = rows.into_iter().map(|row| RowOutput { row, query: RowQuery::LOGITS }).collect();
        self
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
        if let Some(output) = self.outputs.iter().find(|output| output.row >= rows) {
            return Err(format!("it requests the logits of row {}, but has {rows} rows", output.row));
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

    /// The most bytes that `rows` rows of one session take during a pass in which they attend to `cached` cache
    /// rows, themselves included. A pass over several sessions takes at most the sum. Caches and weights do
    /// not count.
    fn pass_bytes(&self, rows: usize, cached: usize) -> usize;

    /// Runs the passes of several sessions as one forward pass. Every pass was checked.
    ///
    /// As soon as the rows of a segment are in its cache and its outputs are computed, it calls `done` with
    /// the index of the segment and the summaries of its outputs, in order, or with an error that concerns
    /// this segment alone. So the outputs of all segments need not be in memory at once.
    ///
    /// # Errors
    /// The caches of the segments for which `done` was not called hold no more rows than before.
    fn forward(&self, batch: &mut [Segment<'_, Self::Cache>], done: &mut Done<'_>)
    -> Result<(), EngineError>;

    /// Runs one pass by itself.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn run(&self, cache: &mut Self::Cache, pass: &Pass) -> Result<Vec<RowSummary>, EngineError> {
        let mut outputs = Ok(Vec::new());
        self.forward(&mut [Segment { cache, pass }], &mut |_, result| outputs = result)?;
        outputs
    }
}

/// Takes the outputs of a segment, by its index.
pub type Done<'a> = dyn FnMut(usize, Result<Vec<RowSummary>, EngineError>) + 'a;
