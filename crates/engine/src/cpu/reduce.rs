//! Reducing rows of logits on all threads.

use tandem_decoding::{InvalidLogits, RowQuery, RowReducer, RowSummary};

use super::buffer::DisjointChunks;
use super::thread_pool::parallel;

/// Logits from which a second thread is worthwhile.
const PARALLEL_LOGITS: usize = 16_384;

/// Reduces each row of `logits: [queries, vocab]` as its query says. A row that is not valid is an error of
/// that row.
pub(crate) fn reduce_rows(logits: &[f32], queries: &[&RowQuery]) -> Vec<Result<RowSummary, InvalidLogits>> {
    let vocab = logits.len() / queries.len().max(1);
    let mut summaries = vec![Ok(RowSummary::default()); queries.len()];
    let slots = DisjointChunks::new(&mut summaries, 1);
    parallel(queries.len(), logits.len() > PARALLEL_LOGITS, |rows| {
        let mut reducer = RowReducer::default();
        for row in rows {
            // SAFETY: each row is reduced once.
            let slot = unsafe { slots.chunk(row) };
            slot[0] = reducer.reduce(&logits[row * vocab..][..vocab], queries[row]);
        }
    });
    summaries
}
