//! Attention of a few queries of one key head over the rows of one page.
//!
//! The keys of a page are taken in the order of the sequence: those that all queries see, and then, one by
//! one, those that only some see. Every sum runs over them in that order, and over the values of a head in
//! theirs. So the result of a query depends neither on the other queries, nor on the places of its keys in
//! the cache, nor on the width of a vector.

use crate::cpu::element::Element;
use crate::cpu::isa::Isa;
use crate::cpu::kv_pages::{KEY_PANEL, PAGE_ROWS, Pages};
use crate::cpu::rows::exp;

/// Queries of a tile at most: 12 × 2 sums leave eight of 32 registers, 6 × 2 leave four of 16.
pub(super) const fn tile_queries(lanes: usize) -> usize {
    if lanes == 16 { 12 } else { 6 }
}

/// The largest number of queries of a tile.
pub(super) const MAX_QUERIES: usize = 12;

/// Scores of a page: one row per query.
pub(super) type Scores = Vec<[f32; PAGE_ROWS]>;

/// Runs `$tile::<I, E, R>($args)` for the number of queries as a constant.
macro_rules! for_queries {
    ($queries:expr, $tile:ident::<$isa:ty, $element:ty>($($arg:expr),* $(,)?)) => {
        match $queries {
            1 => $tile::<$isa, $element, 1>($($arg),*),
            2 => $tile::<$isa, $element, 2>($($arg),*),
            3 => $tile::<$isa, $element, 3>($($arg),*),
            4 => $tile::<$isa, $element, 4>($($arg),*),
            5 => $tile::<$isa, $element, 5>($($arg),*),
            6 => $tile::<$isa, $element, 6>($($arg),*),
            7 => $tile::<$isa, $element, 7>($($arg),*),
            8 => $tile::<$isa, $element, 8>($($arg),*),
            9 => $tile::<$isa, $element, 9>($($arg),*),
            10 => $tile::<$isa, $element, 10>($($arg),*),
            11 => $tile::<$isa, $element, 11>($($arg),*),
            _ => $tile::<$isa, $element, 12>($($arg),*),
        }
    };
}

/// Products of `queries` queries, packed as `[dim][queries]`, with the 32 keys of a panel, `[dim][KEY_PANEL]`:
/// `scores[query * stride..][..KEY_PANEL]`.
///
/// # Safety
/// The machine has `I`; the pointers are valid for that.
#[inline(always)]
pub(super) unsafe fn score<I: Isa, E: Element>(
    packed: *const f32,
    queries: usize,
    panel: &[E],
    scores: *mut f32,
    stride: usize,
) {
    let dim = panel.len() / KEY_PANEL;
    // SAFETY: the contract of the caller.
    unsafe { for_queries!(queries, score_tile::<I, E>(packed, panel.as_ptr(), dim, scores, stride)) }
}

/// # Safety
/// As [`score`].
#[inline(always)]
unsafe fn score_tile<I: Isa, E: Element, const R: usize>(
    packed: *const f32,
    panel: *const E,
    dim: usize,
    scores: *mut f32,
    stride: usize,
) {
    // SAFETY: the contract of the caller; a panel has whole vectors.
    unsafe {
        for at in (0..KEY_PANEL).step_by(2 * I::LANES) {
            let mut sums = [[I::splat(0.0); 2]; R];
            for d in 0..dim {
                let keys = panel.add(d * KEY_PANEL + at);
                let keys = [E::load::<I>(keys), E::load::<I>(keys.add(I::LANES))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let query = I::splat(*packed.add(d * R + r));
                    sums[0] = I::mul_add(keys[0], query, sums[0]);
                    sums[1] = I::mul_add(keys[1], query, sums[1]);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                I::store(scores.add(r * stride + at), sums[0]);
                I::store(scores.add(r * stride + at + I::LANES), sums[1]);
            }
        }
    }
}

/// Sums of `values: [rows][width]`, weighted: `out: [queries][width]`, where `weights` are those of each query
/// for the first `rows` rows.
///
/// # Safety
/// The machine has `I`; the pointers are valid for that, and `width` is a whole number of 16.
#[inline(always)]
pub(super) unsafe fn weighted_sums<I: Isa, E: Element>(
    weights: &[[f32; PAGE_ROWS]],
    queries: usize,
    values: *const E,
    rows: usize,
    width: usize,
    out: *mut f32,
) {
    // SAFETY: the contract of the caller.
    unsafe { for_queries!(queries, sum_tile::<I, E>(weights, values, rows, width, out)) }
}

/// # Safety
/// As [`weighted_sums`].
#[inline(always)]
unsafe fn sum_tile<I: Isa, E: Element, const R: usize>(
    weights: &[[f32; PAGE_ROWS]],
    values: *const E,
    rows: usize,
    width: usize,
    out: *mut f32,
) {
    let mut at = 0;
    // SAFETY: the contract of the caller; there are whole vectors.
    unsafe {
        while at + 2 * I::LANES <= width {
            sum_columns::<I, E, R, 2>(weights, values.add(at), rows, width, out.add(at));
            at += 2 * I::LANES;
        }
        if at < width {
            sum_columns::<I, E, R, 1>(weights, values.add(at), rows, width, out.add(at));
        }
    }
}

/// # Safety
/// As [`weighted_sums`], for `N` vectors of columns.
#[inline(always)]
unsafe fn sum_columns<I: Isa, E: Element, const R: usize, const N: usize>(
    weights: &[[f32; PAGE_ROWS]],
    values: *const E,
    rows: usize,
    width: usize,
    out: *mut f32,
) {
    // SAFETY: the contract of the caller.
    unsafe {
        let weights = weights.as_ptr().cast::<f32>();
        let mut sums = [[I::splat(0.0); N]; R];
        for row in 0..rows {
            let values = values.add(row * width);
            let mut vectors = [I::splat(0.0); N];
            for (n, vector) in vectors.iter_mut().enumerate() {
                *vector = E::load::<I>(values.add(n * I::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = I::splat(*weights.add(r * PAGE_ROWS + row));
                for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                    *sum = I::mul_add(vector, weight, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                I::store(out.add(r * width + n * I::LANES), sum);
            }
        }
    }
}

/// Adds further rows to the weighted sum of one query, one after the other.
///
/// # Safety
/// The machine has `I`; `out` is valid for the width of a head.
#[inline(always)]
pub(super) unsafe fn add_rows<I: Isa, E: Element>(
    pages: &Pages<E>,
    head: usize,
    rows: &[usize],
    weights: &[f32],
    out: *mut f32,
) {
    let width = pages.shape.width();
    for at in (0..width).step_by(I::LANES) {
        // SAFETY: the contract of the caller; the rows are in the cache.
        unsafe {
            let mut sum = I::load(out.add(at));
            let mut i = 0;
            while i < rows.len() {
                let values = pages.values(head, rows[i]).as_ptr().add(at);
                sum = I::mul_add(E::load::<I>(values), I::splat(weights[i]), sum);
                i += 1;
            }
            I::store(out.add(at), sum);
        }
    }
}

/// Replaces scores, which are finite, by `exp(score - max)`. Returns the largest score and the sum.
#[inline(always)]
pub(super) fn exponentials(scores: &mut [f32]) -> (f32, f32) {
    let mut max = [f32::NEG_INFINITY; 16];
    for chunk in scores.chunks(16) {
        for (m, &v) in max.iter_mut().zip(chunk) {
            *m = if v > *m { v } else { *m };
        }
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; 16];
    for chunk in scores.chunks_mut(16) {
        for (s, v) in sums.iter_mut().zip(chunk) {
            *v = exp(*v - max);
            *s += *v;
        }
    }
    (max, sums.iter().sum())
}

/// What a query has of the pages so far: sums relative to `exp(max)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    /// The largest score.
    pub(super) max: f32,
    /// The sum of the exponentials.
    pub(super) sum: f32,
}

impl Default for Softmax {
    fn default() -> Self {
        Self::NONE
    }
}

impl Softmax {
    /// Before the first page.
    pub(super) const NONE: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Adds what the next page gives: `total` and `page` are the weighted sums of values.
    #[inline(always)]
    pub(super) fn merge(&mut self, total: &mut [f32], next: Self, page: &[f32]) {
        if self.sum == 0.0 {
            *self = next;
            total.copy_from_slice(page);
            return;
        }
        let max = if next.max > self.max { next.max } else { self.max };
        let (before, after) = (exp(self.max - max), exp(next.max - max));
        *self = Self { max, sum: self.sum * before + next.sum * after };
        for (total, page) in total.iter_mut().zip(page) {
            *total = *total * before + page * after;
        }
    }
}
