//! Tree attention: each row over the prefix, its ancestors and itself, straight from the KV cache.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, InplaceOp2, Layout, Result, Shape};
use tandem_decoding::AncestorMask;

use super::isa::{Isa, for_each_isa, level};
use super::rows::{contiguous, contiguous_mut, exp};
use super::team;

/// Multiply-adds from which a second thread is worth its while.
const PARALLEL_WORK: usize = 20_000;

/// The cache rows that each row of a pass attends to, in ascending order.
pub(crate) struct Visible {
    prefix: usize,
    /// Behind the prefix, counted from its end, by row.
    tail: Vec<Vec<usize>>,
}

impl Visible {
    /// `prefix` rows that all see, then the columns of `mask`.
    pub(crate) fn new(prefix: usize, mask: &AncestorMask) -> Self {
        let tail = (0..mask.rows()).map(|row| (0..mask.columns()).filter(|&c| mask.sees(row, c)).collect());
        Self { prefix, tail: tail.collect() }
    }

    fn len(&self, row: usize) -> usize {
        self.prefix + self.tail[row].len()
    }
}

/// Copies heads out of `[rows, width]`, from column `from`, into a cache `[kv_heads, capacity, head_dim]` behind its first
/// `at` rows.
pub(crate) struct AppendKv {
    pub(crate) from: usize,
    pub(crate) at: usize,
}

impl InplaceOp2 for AppendKv {
    fn name(&self) -> &'static str {
        "append-kv"
    }

    fn cpu_fwd(&self, cache: &mut CpuStorage, cl: &Layout, x: &CpuStorage, xl: &Layout) -> Result<()> {
        let (heads, capacity, dim) = cl.shape().dims3()?;
        let (rows, width) = xl.shape().dims2()?;
        if self.from + heads * dim > width || self.at + rows > capacity {
            candle_core::bail!("append-kv: {rows} rows at {} do not fit a cache of {capacity}", self.at);
        }
        let (cache, x) = (contiguous_mut(cache, cl, self.name())?, contiguous(x, xl, self.name())?);
        for (row, x) in x.chunks_exact(width).enumerate() {
            for (head, x) in x[self.from..].chunks_exact(dim).take(heads).enumerate() {
                cache[(head * capacity + self.at + row) * dim..][..dim].copy_from_slice(x);
            }
        }
        Ok(())
    }
}

/// Scaled dot-product attention of the queries in the first columns of `qkv: [rows, width]` over the caches
/// `k, v: [kv_heads, capacity, head_dim]`, to `[rows, heads * head_dim]`. Query heads share key heads in groups; nothing is
/// repeated for that.
pub(crate) struct Attend<'a> {
    pub(crate) heads: usize,
    pub(crate) visible: &'a Visible,
}

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "tree-attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = ql.shape().dims2()?;
        let (kv_heads, capacity, dim) = kl.shape().dims3()?;
        let seen = (0..rows.min(self.visible.tail.len())).map(|r| self.visible.len(r));
        // Ascending, so the last is the largest.
        let last = (0..self.visible.tail.len()).filter_map(|r| self.visible.tail[r].last()).max();
        if self.visible.tail.len() != rows
            || self.visible.prefix + last.map_or(0, |l| l + 1) > capacity
            || self.heads * dim > width
            || !self.heads.is_multiple_of(kv_heads)
            || vl.dims() != kl.dims()
        {
            candle_core::bail!(
                "tree-attention: {rows} rows of {} heads over a cache of {:?}",
                self.heads,
                kl.dims()
            );
        }
        let work = seen.sum::<usize>() * self.heads * dim * 2;
        let mut y = vec![0f32; rows * self.heads * dim];
        let job = Job {
            q: contiguous(qkv, ql, self.name())?,
            k: contiguous(k, kl, self.name())?,
            v: contiguous(v, vl, self.name())?,
            width,
            rows,
            heads: self.heads,
            group: self.heads / kv_heads,
            capacity,
            dim,
            scale: 1.0 / (dim as f32).sqrt(),
            visible: self.visible,
            y: y.as_mut_ptr(),
        };
        // Units are (key head, row) pairs, head by head, so that a head's keys stay in the cache of one core.
        let level = level();
        team::parallel(rows * kv_heads, work > PARALLEL_WORK, |units| attend(level, &job, units));
        Ok((CpuStorage::F32(y), Shape::from((rows, self.heads * dim))))
    }
}

struct Job<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    width: usize,
    rows: usize,
    heads: usize,
    group: usize,
    capacity: usize,
    dim: usize,
    scale: f32,
    visible: &'a Visible,
    y: *mut f32,
}

// SAFETY: threads write disjoint (row, key head) blocks of `y` and only read the rest.
unsafe impl Sync for Job<'_> {}

for_each_isa! { fn attend(job: &Job<'_>, units: Range<usize>) = attend_units }

/// # Safety
/// The machine has `I`; nobody else writes these units of `y`; the visible rows are within the caches.
#[inline(always)]
unsafe fn attend_units<I: Isa>(job: &Job<'_>, units: Range<usize>) {
    let mut weights = Vec::new();
    for unit in units {
        let (kv_head, row) = (unit / job.rows, unit % job.rows);
        let seen = Seen { prefix: job.visible.prefix, tail: &job.visible.tail[row], dim: job.dim };
        let cache = kv_head * job.capacity * job.dim;
        for head in kv_head * job.group..(kv_head + 1) * job.group {
            // SAFETY: shapes were checked by the op; rows and heads are in range.
            unsafe {
                let q = job.q.as_ptr().add(row * job.width + head * job.dim);
                weights.resize(seen.len(), 0f32);
                scores::<I>(job, q, job.k.as_ptr().add(cache), &seen, &mut weights);
                softmax(&mut weights);
                let y = job.y.add((row * job.heads + head) * job.dim);
                weighted_sum::<I>(&seen, &weights, job.v.as_ptr().add(cache), y);
            }
        }
    }
}

/// The cache rows that one row sees.
struct Seen<'a> {
    prefix: usize,
    tail: &'a [usize],
    dim: usize,
}

impl Seen<'_> {
    fn len(&self) -> usize {
        self.prefix + self.tail.len()
    }

    /// Where the `i`-th of them starts.
    #[inline(always)]
    fn at(&self, i: usize) -> usize {
        let row = if i < self.prefix { i } else { self.prefix + self.tail[i - self.prefix] };
        row * self.dim
    }
}

/// Scaled products of `q` with the keys. They stand side by side whatever rows the keys are in, so that what follows does
/// not depend on where in the cache a token's ancestors lie.
///
/// Loops here and below are loops, not iterators with closures: a closure would be compiled without the instruction set.
///
/// # Safety
/// The machine has `I`; `q` is valid for a head, `k` for the visible rows.
#[inline(always)]
unsafe fn scores<I: Isa>(job: &Job<'_>, q: *const f32, k: *const f32, seen: &Seen<'_>, scores: &mut [f32]) {
    let fours = scores.len() / 4 * 4;
    // SAFETY: the caller's contract.
    unsafe {
        for i in (0..fours).step_by(4) {
            let keys =
                [k.add(seen.at(i)), k.add(seen.at(i + 1)), k.add(seen.at(i + 2)), k.add(seen.at(i + 3))];
            let products = dots::<I, 4>(q, keys, job.dim);
            for (score, product) in scores[i..i + 4].iter_mut().zip(products) {
                *score = product * job.scale;
            }
        }
        for (i, score) in scores.iter_mut().enumerate().skip(fours) {
            *score = dots::<I, 1>(q, [k.add(seen.at(i))], job.dim)[0] * job.scale;
        }
    }
}

/// `N` products at once, so that the latency of one hides behind the others.
///
/// # Safety
/// The machine has `I`; `a` and all of `b` are valid for `n` values.
#[inline(always)]
unsafe fn dots<I: Isa, const N: usize>(a: *const f32, b: [*const f32; N], n: usize) -> [f32; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [I::splat(0.0); N];
        let whole = n / I::LANES * I::LANES;
        for i in (0..whole).step_by(I::LANES) {
            let a = I::load(a.add(i));
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = I::mul_add(a, I::load(b.add(i)), *sum);
            }
        }
        let mut products = [0f32; N];
        for ((product, sum), b) in products.iter_mut().zip(sums).zip(b) {
            *product = I::sum(sum);
            for i in whole..n {
                *product += *a.add(i) * *b.add(i);
            }
        }
        products
    }
}

/// In place; the values are finite.
#[inline(always)]
fn softmax(values: &mut [f32]) {
    let mut max = [f32::NEG_INFINITY; 16];
    for chunk in values.chunks(16) {
        for (m, &v) in max.iter_mut().zip(chunk) {
            *m = if v > *m { v } else { *m };
        }
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; 16];
    for chunk in values.chunks_mut(16) {
        for (s, v) in sums.iter_mut().zip(chunk) {
            *v = exp(*v - max);
            *s += *v;
        }
    }
    let scale = 1.0 / sums.iter().sum::<f32>();
    for v in values {
        *v *= scale;
    }
}

/// The values of the visible rows, weighted.
///
/// # Safety
/// The machine has `I`; `v` is valid for the visible rows, `y` for a head.
#[inline(always)]
unsafe fn weighted_sum<I: Isa>(seen: &Seen<'_>, weights: &[f32], v: *const f32, y: *mut f32) {
    let mut at = 0;
    // SAFETY: the caller's contract.
    unsafe {
        while at + 4 * I::LANES <= seen.dim {
            weighted_columns::<I, 4>(seen, weights, v.add(at), y.add(at));
            at += 4 * I::LANES;
        }
        while at + I::LANES <= seen.dim {
            weighted_columns::<I, 1>(seen, weights, v.add(at), y.add(at));
            at += I::LANES;
        }
        for at in at..seen.dim {
            let mut sum = 0.0;
            for (i, &weight) in weights.iter().enumerate() {
                sum += weight * *v.add(seen.at(i) + at);
            }
            *y.add(at) = sum;
        }
    }
}

/// `N` vectors of columns.
///
/// # Safety
/// As [`weighted_sum`].
#[inline(always)]
unsafe fn weighted_columns<I: Isa, const N: usize>(
    seen: &Seen<'_>,
    weights: &[f32],
    v: *const f32,
    y: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [I::splat(0.0); N];
        for (i, &weight) in weights.iter().enumerate() {
            let (weight, v) = (I::splat(weight), v.add(seen.at(i)));
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = I::mul_add(weight, I::load(v.add(n * I::LANES)), *sum);
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            I::store(y.add(n * I::LANES), sum);
        }
    }
}
