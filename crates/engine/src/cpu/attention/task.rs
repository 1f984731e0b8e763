//! The attention of one session, in units of work.

use super::kernel::{MAX_QUERIES, Softmax, tile_queries};
use crate::cpu::kv_pages::{KvPages, KvShape, PAGE_ROWS};
use crate::cpu::level::Level;
use crate::cpu::mask::SparseMask;

/// Blocks of queries that a page is read for before the next page is read. What is kept for them takes less of
/// a processor's cache than a page.
pub(super) const GROUP: usize = 8;

/// Queries that a unit of work has at most.
pub(super) const MAX_UNIT_QUERIES: usize = GROUP * MAX_QUERIES;

/// The cache of one session, and the mask of its rows.
#[derive(Clone, Copy)]
pub(crate) struct SessionKv<'a> {
    pub(crate) pages: &'a KvPages,
    pub(crate) mask: &'a SparseMask,
}

/// The attention of one session. Its queries are numbered row by row, and within a row by the heads of a
/// group.
pub(super) struct Task<'a> {
    pub(super) kv: SessionKv<'a>,
    /// Queries in the first columns: `[rows, width]`.
    pub(super) q: &'a [f32],
    pub(super) width: usize,
    /// Query heads per key head.
    pub(super) group: usize,
    pub(super) scale: f32,
    pub(super) blocks: Vec<Block>,
    /// Pages that its longest row has.
    pub(super) pages: usize,
    /// `[rows, heads * dim]`
    y: *mut f32,
    /// If a unit of work is one page, what each page gives to each query.
    pub(super) partials: Option<Partials>,
}

/// Consecutive queries that are multiplied together.
pub(super) struct Block {
    pub(super) first: usize,
    pub(super) count: usize,
    /// Cache rows that all of them see, from the first on.
    pub(super) shared: usize,
    /// The end of the cache rows that any of them sees.
    pub(super) end: usize,
}

/// `[page][key head][query]`
pub(super) struct Partials {
    sums: Vec<f32>,
    softmax: Vec<Softmax>,
    /// To the values of both, which threads write.
    start: (*mut f32, *mut Softmax),
}

// SAFETY: threads write disjoint (query, key head) parts of `y`, and disjoint entries of the partial results.
unsafe impl Sync for Task<'_> {}

/// Bytes of the partial results of `queries` that attend to `cached` cache rows.
pub(super) fn partial_bytes(queries: usize, cached: usize, head_dim: usize) -> usize {
    let width = KvShape { heads: 1, dim: head_dim }.width();
    let result = width * size_of::<f32>() + size_of::<Softmax>();
    queries * cached.div_ceil(PAGE_ROWS) * result
}

impl<'a> Task<'a> {
    /// `y` must be valid for the rows of the mask.
    pub(super) fn new(
        kv: SessionKv<'a>,
        q: &'a [f32],
        width: usize,
        heads: usize,
        level: Level,
        y: *mut f32,
    ) -> Self {
        let shape = kv.pages.shape();
        let group = heads / shape.heads;
        let queries = kv.mask.rows() * group;
        // Even blocks: 17 queries are 8 + 9, not 12 + 5.
        let count = queries.div_ceil(tile_queries(level.lanes()));
        let start = |block: usize| queries * block / count;
        let block = |b: usize| {
            let (first, last) = (start(b), start(b + 1));
            let rows = first / group..last.div_ceil(group);
            let shared = rows.clone().map(|row| kv.mask.row(row).contiguous()).min();
            let end = rows.map(|row| kv.mask.row(row).end()).max();
            Block { first, count: last - first, shared: shared.unwrap_or(0), end: end.unwrap_or(0) }
        };
        Self {
            kv,
            q,
            width,
            group,
            scale: 1.0 / (shape.dim as f32).sqrt(),
            blocks: (0..count).map(block).collect(),
            pages: kv.mask.longest().div_ceil(PAGE_ROWS),
            y,
            partials: None,
        }
    }

    /// The units of work, ordered by key heads, so that the keys of a head stay in the cache of one core.
    pub(super) fn units(&self) -> usize {
        let per_group = if self.partials.is_some() { self.pages } else { 1 };
        self.kv.pages.shape().heads * self.blocks.len().div_ceil(GROUP) * per_group
    }

    /// Makes each page of a group of blocks a unit of work of its own.
    pub(super) fn share_out_pages(&mut self) {
        if self.pages < 2 {
            return;
        }
        let shape = self.kv.pages.shape();
        let results = self.pages * shape.heads * self.queries();
        let mut sums = vec![0.0; results * shape.width()];
        let mut softmax = vec![Softmax::NONE; results];
        let start = (sums.as_mut_ptr(), softmax.as_mut_ptr());
        self.partials = Some(Partials { sums, softmax, start });
    }

    fn queries(&self) -> usize {
        self.kv.mask.rows() * self.group
    }

    /// The index of a partial result.
    fn partial(&self, page: usize, head: usize, query: usize) -> usize {
        (page * self.kv.pages.shape().heads + head) * self.queries() + query
    }

    /// Stores what a page gives to the queries of a block, if pages are units of work.
    ///
    /// # Safety
    /// No other thread stores these results.
    #[inline(always)]
    pub(super) unsafe fn keep_partials(
        &self,
        head: usize,
        block: &Block,
        page: usize,
        softmax: &[Softmax; MAX_QUERIES],
        sums: &[f32],
    ) {
        let Some(partials) = &self.partials else { return };
        let width = self.kv.pages.shape().width();
        let at = self.partial(page, head, block.first);
        let sums = &sums[..block.count * width];
        // SAFETY: within the vectors, which nothing else accesses while threads run; the contract of the
        // caller.
        unsafe {
            std::ptr::copy_nonoverlapping(sums.as_ptr(), partials.start.0.add(at * width), sums.len());
            std::ptr::copy_nonoverlapping(softmax.as_ptr(), partials.start.1.add(at), block.count);
        }
    }

    /// Merges what the pages gave, if they were units of work.
    pub(super) fn merge_pages(&self) {
        let Some(partials) = &self.partials else { return };
        let shape = self.kv.pages.shape();
        let width = shape.width();
        let mut total = vec![0.0; width];
        for head in 0..shape.heads {
            for query in 0..self.queries() {
                let mut softmax = Softmax::NONE;
                for page in 0..self.pages {
                    let at = self.partial(page, head, query);
                    let next = partials.softmax[at];
                    if next.sum > 0.0 {
                        softmax.merge(&mut total, next, &partials.sums[at * width..][..width]);
                    }
                }
                // SAFETY: no unit of work runs any more.
                unsafe { self.write(head, query, softmax, &total) };
            }
        }
    }

    /// Writes the result of a query.
    ///
    /// # Safety
    /// No other thread writes this result.
    #[inline(always)]
    pub(super) unsafe fn write(&self, head: usize, query: usize, softmax: Softmax, total: &[f32]) {
        let dim = self.kv.pages.shape().dim;
        let heads = self.kv.pages.shape().heads * self.group;
        let (row, head) = (query / self.group, head * self.group + query % self.group);
        let scale = 1.0 / softmax.sum;
        for (d, &sum) in total.iter().take(dim).enumerate() {
            // SAFETY: `y` has all rows and heads; the contract of the caller.
            unsafe { self.y.add((row * heads + head) * dim + d).write(sum * scale) };
        }
    }
}
