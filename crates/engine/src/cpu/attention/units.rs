//! Running units of work: a group of blocks of queries of one key head, page by page.

use std::cell::Cell;
use std::ops::Range;

use half::{bf16, f16};

use super::kernel::{MAX_QUERIES, Scores, Softmax, add_rows, exponentials, score, weighted_sums};
use super::task::{Block, GROUP, Task};
use crate::cpu::element::Element;
use crate::cpu::isa::{Isa, for_each_isa};
use crate::cpu::kv_pages::{KEY_PANEL, KvPages, KvShape, PAGE_ROWS, Pages};
use crate::cpu::level::Level;

/// Runs some units of work of a task. No other thread may run them.
pub(super) fn attend(level: Level, task: &Task<'_>, units: Range<usize>) {
    match task.kv.pages {
        KvPages::F32(pages) => attend_f32(level, task, pages, units),
        KvPages::F16(pages) => attend_f16(level, task, pages, units),
        KvPages::Bf16(pages) => attend_bf16(level, task, pages, units),
    }
}

for_each_isa! { fn attend_f32(task: &Task<'_>, pages: &Pages<f32>, units: Range<usize>) = attend_units }
for_each_isa! { fn attend_f16(task: &Task<'_>, pages: &Pages<f16>, units: Range<usize>) = attend_units }
for_each_isa! { fn attend_bf16(task: &Task<'_>, pages: &Pages<bf16>, units: Range<usize>) = attend_units }

thread_local! {
    /// Kept from layer to layer, so that a pass over few rows does not allocate in every one.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// What a thread works in, for a group of blocks.
#[derive(Default)]
struct Scratch {
    blocks: Vec<BlockScratch>,
    /// Scores of a page, in the order of the sequence; then their exponentials.
    scores: Scores,
    /// Sums of a page, `[query][width]`.
    page: Vec<f32>,
    /// The cache rows of a query in a page that others do not see.
    rows: Vec<usize>,
}

/// What is kept of a block of queries from page to page.
#[derive(Default)]
struct BlockScratch {
    /// The queries: `[dim][queries]`.
    packed: Vec<f32>,
    /// Scores of the cache rows that only some queries see, in the order of the cache: `[query][stride]`.
    rest: Vec<f32>,
    /// Of all pages so far.
    softmax: [Softmax; MAX_QUERIES],
    /// Sums of all pages so far, `[query][width]`.
    total: Vec<f32>,
}

/// # Safety
/// The machine has `I`; no other thread runs these units; the mask refers to rows within the cache.
#[inline(always)]
unsafe fn attend_units<I: Isa>(task: &Task<'_>, pages: &Pages<impl Element>, units: Range<usize>) {
    // SAFETY: the contract of the caller.
    unsafe { attend_groups::<I, _>(task, pages, units) }
}

/// # Safety
/// As [`attend_units`].
#[inline(always)]
unsafe fn attend_groups<I: Isa, E: Element>(task: &Task<'_>, pages: &Pages<E>, units: Range<usize>) {
    let shape = pages.shape;
    let mut scratch = SCRATCH.take();
    scratch.prepare(task, shape);
    let groups = task.blocks.len().div_ceil(GROUP);
    for unit in units {
        let (unit, only_page) = match task.partials {
            Some(_) => (unit / task.pages, Some(unit % task.pages)),
            None => (unit, None),
        };
        let head = unit / groups;
        let first = unit % groups * GROUP;
        let blocks = &task.blocks[first..task.blocks.len().min(first + GROUP)];
        // SAFETY: the contract of the caller.
        unsafe {
            for (block, scratch) in blocks.iter().zip(&mut scratch.blocks) {
                pack(task, head, block, &mut scratch.packed);
                // Only a page after the shared rows needs them.
                if only_page.is_none_or(|page| (page + 1) * PAGE_ROWS > block.shared) {
                    score_rest::<I, E>(pages, head, block, scratch);
                }
                scratch.softmax = [Softmax::NONE; MAX_QUERIES];
            }
            match only_page {
                Some(page) => {
                    for (index, block) in blocks.iter().enumerate() {
                        let softmax =
                            attend_page::<I, E>(task, pages, head, block, page, index, &mut scratch);
                        task.keep_partials(head, block, page, &softmax, &scratch.page);
                    }
                }
                None => attend_pages::<I, E>(task, pages, head, blocks, &mut scratch),
            }
        }
    }
    SCRATCH.set(scratch);
}

impl Scratch {
    /// Makes room for the blocks of a task. What is in it may be of another task.
    fn prepare(&mut self, task: &Task<'_>, shape: KvShape) {
        let (values, width) = (MAX_QUERIES * shape.dim, MAX_QUERIES * shape.width());
        self.blocks.resize_with(GROUP.min(task.blocks.len()).max(self.blocks.len()), BlockScratch::default);
        for block in &mut self.blocks {
            grow(&mut block.packed, values);
            grow(&mut block.total, width);
        }
        self.scores.resize(MAX_QUERIES, [0.0; PAGE_ROWS]);
        grow(&mut self.page, width);
    }
}

/// Makes room for `len` values.
fn grow(values: &mut Vec<f32>, len: usize) {
    if values.len() < len {
        values.resize(len, 0.0);
    }
}

/// Packs the queries of a block, scaled.
#[inline(always)]
fn pack(task: &Task<'_>, head: usize, block: &Block, packed: &mut [f32]) {
    let dim = task.kv.pages.shape().dim;
    for r in 0..block.count {
        let query = block.first + r;
        let column = (head * task.group + query % task.group) * dim;
        let q = &task.q[query / task.group * task.width + column..][..dim];
        for (d, &q) in q.iter().enumerate() {
            packed[d * block.count + r] = q * task.scale;
        }
    }
}

/// The first row of the panel in which the rows start that only some queries of a block see.
fn rest_start(block: &Block) -> usize {
    block.shared / KEY_PANEL * KEY_PANEL
}

/// Scores per query in [`BlockScratch::rest`].
fn rest_stride(block: &Block) -> usize {
    block.end.next_multiple_of(KEY_PANEL) - rest_start(block)
}

/// Computes the scores of the cache rows that only some queries see, for all queries.
///
/// # Safety
/// As [`attend_units`].
#[inline(always)]
unsafe fn score_rest<I: Isa, E: Element>(
    pages: &Pages<E>,
    head: usize,
    block: &Block,
    scratch: &mut BlockScratch,
) {
    if block.end <= block.shared {
        return;
    }
    let (start, stride) = (rest_start(block), rest_stride(block));
    grow(&mut scratch.rest, block.count * stride);
    let mut row = start;
    while row < block.end {
        let panel = pages.key_panel(head, row);
        // SAFETY: the contract of the caller; there is room for whole panels.
        unsafe {
            let scores = scratch.rest.as_mut_ptr().add(row - start);
            score::<I, E>(scratch.packed.as_ptr(), block.count, panel, scores, stride);
        }
        row += KEY_PANEL;
    }
}

/// All pages of a group of blocks, page by page, and the results.
///
/// # Safety
/// As [`attend_units`].
#[inline(always)]
unsafe fn attend_pages<I: Isa, E: Element>(
    task: &Task<'_>,
    pages: &Pages<E>,
    head: usize,
    blocks: &[Block],
    scratch: &mut Scratch,
) {
    let width = pages.shape.width();
    for page in 0..task.pages {
        for (index, block) in blocks.iter().enumerate() {
            if page * PAGE_ROWS >= block.end {
                continue;
            }
            // SAFETY: the contract of the caller.
            let next = unsafe { attend_page::<I, E>(task, pages, head, block, page, index, scratch) };
            let BlockScratch { softmax, total, .. } = &mut scratch.blocks[index];
            for r in 0..block.count {
                if next[r].sum > 0.0 {
                    let range = r * width..(r + 1) * width;
                    softmax[r].merge(&mut total[range.clone()], next[r], &scratch.page[range]);
                }
            }
        }
    }
    for (block, scratch) in blocks.iter().zip(&scratch.blocks) {
        for (r, softmax) in scratch.softmax.iter().enumerate().take(block.count) {
            let total = &scratch.total[r * width..(r + 1) * width];
            // SAFETY: the contract of the caller.
            unsafe { task.write(head, block.first + r, *softmax, total) };
        }
    }
}

/// One page of the block of queries that is the `index`-th of its group. Returns the softmax of each query, whose sum is 0 if it sees nothing of the
/// page, and leaves the weighted sums in the scratch.
///
/// # Safety
/// As [`attend_units`].
#[inline(always)]
unsafe fn attend_page<I: Isa, E: Element>(
    task: &Task<'_>,
    pages: &Pages<E>,
    head: usize,
    block: &Block,
    page: usize,
    index: usize,
    scratch: &mut Scratch,
) -> [Softmax; MAX_QUERIES] {
    let own = &scratch.blocks[index];
    let first = page * PAGE_ROWS;
    let width = pages.shape.width();
    let shared = block.shared.saturating_sub(first).min(PAGE_ROWS);
    let mut result = [Softmax::NONE; MAX_QUERIES];
    let mut at = 0;
    while at < shared {
        let panel = pages.key_panel(head, first + at);
        let scores = scratch.scores.as_mut_ptr().cast::<f32>().wrapping_add(at);
        // SAFETY: the contract of the caller; a page has whole panels.
        unsafe { score::<I, E>(own.packed.as_ptr(), block.count, panel, scores, PAGE_ROWS) };
        at += KEY_PANEL;
    }
    for (r, result) in result.iter_mut().enumerate().take(block.count) {
        let seen = task.kv.mask.row((block.first + r) / task.group);
        let length = seen.len().saturating_sub(first).min(PAGE_ROWS);
        let scores = &mut scratch.scores[r][..length];
        if length > shared {
            let rest = &own.rest[r * rest_stride(block)..];
            for (i, score) in scores.iter_mut().enumerate().skip(shared) {
                *score = rest[seen.at(first + i) - rest_start(block)];
            }
        }
        if length > 0 {
            let (max, sum) = exponentials(scores);
            *result = Softmax { max, sum };
        }
    }
    // SAFETY: the contract of the caller; the cache has the shared rows.
    unsafe {
        let values = if shared > 0 { pages.values(head, first).as_ptr() } else { std::ptr::null() };
        weighted_sums::<I, E>(&scratch.scores, block.count, values, shared, width, scratch.page.as_mut_ptr());
        for r in 0..block.count {
            let seen = task.kv.mask.row((block.first + r) / task.group);
            let length = seen.len().saturating_sub(first).min(PAGE_ROWS);
            if length > shared {
                scratch.rows.clear();
                scratch.rows.extend((shared..length).map(|i| seen.at(first + i)));
                let weights = &scratch.scores[r][shared..length];
                let out = scratch.page.as_mut_ptr().add(r * width);
                add_rows::<I, E>(pages, head, &scratch.rows, weights, out);
            }
        }
    }
    result
}
