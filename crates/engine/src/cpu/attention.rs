//! Tree attention: each row attends to the prefix, its ancestors and itself, straight in the KV cache.
//!
//! The queries of a session that share a key head are taken a dozen at a time, and the cache a page at a time:
//! so keys and values are read once for a dozen queries, and from memory once for eight such blocks. Each page gives a softmax of its own, and those are
//! merged in the order of the pages (Milakov and Gimelshein, "Online normalizer calculation for softmax",
//! 2018).

mod kernel;
mod task;
#[cfg(test)]
mod tests;
mod units;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};

pub(crate) use self::task::SessionKv;
use self::task::{MAX_UNIT_QUERIES, Task, partial_bytes};
use self::units::attend;
use super::level::level;
use super::rows::contiguous;
use super::thread_pool::parallel;

/// Multiply-adds from which a second thread is worthwhile.
const PARALLEL_WORK: usize = 20_000;
/// With fewer units of work than this, the pages of a session are shared out too. Results do not depend on it.
const FEW_UNITS: usize = 16;

/// Scaled dot-product attention of the queries in the first columns of `qkv: [rows, width]`, session by
/// session, each over its own cache, to `[rows, heads * head_dim]`. Query heads share key heads in groups,
/// without copies of the keys.
pub(crate) struct TreeAttention<'a> {
    pub(crate) heads: usize,
    /// In the order of their rows.
    pub(crate) sessions: Vec<SessionKv<'a>>,
}

impl CustomOp1 for TreeAttention<'_> {
    fn name(&self) -> &'static str {
        "tree-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, ql: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = ql.shape().dims2()?;
        let qkv = contiguous(qkv, ql, self.name())?;
        let mut sessions = Vec::with_capacity(self.sessions.len());
        let mut first = 0;
        let mut out_width = 0;
        for session in &self.sessions {
            let last = first + session.mask.rows();
            self.check(session, rows.saturating_sub(first), width)?;
            out_width = self.heads * session.pages.shape().dim;
            sessions.push(Session { kv: *session, q: &qkv[first * width..last * width], first });
            first = last;
        }
        if first != rows {
            candle_core::bail!("tree-attention: the sessions have {first} rows, but the input has {rows}");
        }
        let mut y = vec![0f32; rows * out_width];
        self.run(&sessions, width, &mut y);
        Ok((CpuStorage::F32(y), Shape::from((rows, out_width))))
    }
}

/// The most bytes that the attention of a session takes besides its result: `queries` query vectors of
/// `head_dim` values that attend to `cached` cache rows.
pub(crate) fn attention_bytes(queries: usize, cached: usize, head_dim: usize) -> usize {
    let partials = partial_bytes(queries.min(FEW_UNITS * MAX_UNIT_QUERIES), cached, head_dim);
    // Scores of cache rows that only some queries of a block attend to.
    let rest = queries.min(MAX_UNIT_QUERIES) * cached * size_of::<f32>();
    partials + rest
}

/// One session's rows of the input.
struct Session<'a> {
    kv: SessionKv<'a>,
    q: &'a [f32],
    /// The index of its first row.
    first: usize,
}

impl TreeAttention<'_> {
    /// Checks a session's mask and cache against the `rows` rows of `width` columns that are left of the
    /// input.
    fn check(&self, session: &SessionKv<'_>, rows: usize, width: usize) -> Result<()> {
        let (needed, capacity) = (session.mask.cache_rows(), session.pages.capacity());
        if needed > capacity {
            candle_core::bail!("tree-attention: the mask refers to {needed} rows of a cache of {capacity}");
        }
        let (own, shape) = (session.mask.rows(), session.pages.shape());
        if own > rows || self.heads * shape.dim > width || !self.heads.is_multiple_of(shape.heads) {
            candle_core::bail!(
                "tree-attention: {own} of {rows} rows of {} heads do not fit a cache of {shape:?}",
                self.heads
            );
        }
        Ok(())
    }

    /// Runs all sessions in one parallel loop, because a single one seldom has enough work to share.
    fn run(&self, sessions: &[Session<'_>], width: usize, y: &mut [f32]) {
        let level = level();
        let out_width = y.len() / sessions.iter().map(|s| s.kv.mask.rows()).sum::<usize>().max(1);
        let y = y.as_mut_ptr();
        let mut tasks: Vec<Task<'_>> = sessions
            .iter()
            // SAFETY: the rows of all sessions together are those of `y`.
            .map(|s| Task::new(s.kv, s.q, width, self.heads, level, unsafe { y.add(s.first * out_width) }))
            .collect();
        let work: usize = sessions.iter().map(|s| s.kv.mask.pairs() * out_width * 2).sum();
        let many = work > PARALLEL_WORK;
        let units: usize = tasks.iter().map(Task::units).sum();
        let shared_out = many && units < FEW_UNITS;
        if shared_out {
            tasks.iter_mut().for_each(Task::share_out_pages);
        }
        parallel(tasks.iter().map(Task::units).sum(), many, |range| {
            let mut first = 0;
            for task in &tasks {
                let end = first + task.units();
                let own = range.start.max(first)..range.end.min(end);
                if !own.is_empty() {
                    attend(level, task, own.start - first..own.end - first);
                }
                first = end;
            }
        });
        if shared_out {
            for task in &tasks {
                task.merge_pages();
            }
        }
    }
}
