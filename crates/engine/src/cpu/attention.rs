//! Tree attention: each row over the prefix, its ancestors and itself, straight from the KV cache.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, InplaceOp2, Layout, Result, Shape};
use tandem_decoding::AncestorMask;

use super::isa::{Isa, Level, for_each_isa, level};
use super::rows::{contiguous, contiguous_mut, exp};

/// Multiply-adds from which a second thread is worth waking.
const PARALLEL_WORK: usize = 150_000;

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

    #[inline(always)]
    fn get(&self, row: usize, i: usize) -> usize {
        if i < self.prefix { i } else { self.prefix + self.tail[row][i - self.prefix] }
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
        let pieces = if work < PARALLEL_WORK { 1 } else { rayon::current_num_threads() };
        job.split(level(), 0..rows * kv_heads, pieces);
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

impl Job<'_> {
    /// Units are (key head, row) pairs, head by head, so that a head's keys stay in the cache of one core.
    fn split(&self, level: Level, units: Range<usize>, pieces: usize) {
        if pieces <= 1 || units.len() <= 1 {
            return attend(level, self, units);
        }
        let left = pieces / 2;
        let middle = units.start + units.len() * left / pieces;
        rayon::join(
            || self.split(level, units.start..middle, left),
            || self.split(level, middle..units.end, pieces - left),
        );
    }
}

for_each_isa! { fn attend(job: &Job<'_>, units: Range<usize>) = attend_units }

/// # Safety
/// The machine has `I`; nobody else writes these units of `y`; the visible rows are within the caches.
#[inline(always)]
unsafe fn attend_units<I: Isa>(job: &Job<'_>, units: Range<usize>) {
    let mut weights = Vec::new();
    for unit in units {
        let (kv_head, row) = (unit / job.rows, unit % job.rows);
        let seen = job.visible.len(row);
        let cache = kv_head * job.capacity * job.dim;
        for head in kv_head * job.group..(kv_head + 1) * job.group {
            // SAFETY: shapes were checked by the op; rows and heads are in range.
            unsafe {
                let q = job.q.as_ptr().add(row * job.width + head * job.dim);
                let k = job.k.as_ptr().add(cache);
                weights.clear();
                weights.extend((0..seen).map(|i| {
                    // Scores stand side by side whatever columns they come from, so that the sums below do not depend
                    // on where in the cache a token's ancestors lie.
                    job.scale * dot::<I>(q, k.add(job.visible.get(row, i) * job.dim), job.dim)
                }));
                softmax(&mut weights);
                let v = job.v.as_ptr().add(cache);
                let y = job.y.add((row * job.heads + head) * job.dim);
                weighted_sum::<I>(job, row, &weights, v, y);
            }
        }
    }
}

/// # Safety
/// The machine has `I`; `a` and `b` are valid for `n` values.
#[inline(always)]
unsafe fn dot<I: Isa>(a: *const f32, b: *const f32, n: usize) -> f32 {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = I::splat(0.0);
        let whole = n / I::LANES * I::LANES;
        for i in (0..whole).step_by(I::LANES) {
            sums = I::mul_add(I::load(a.add(i)), I::load(b.add(i)), sums);
        }
        (whole..n).fold(I::sum(sums), |sum, i| sum + *a.add(i) * *b.add(i))
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

/// # Safety
/// The machine has `I`; `v` is valid for the visible rows, `y` for `job.dim` values.
#[inline(always)]
unsafe fn weighted_sum<I: Isa>(job: &Job<'_>, row: usize, weights: &[f32], v: *const f32, y: *mut f32) {
    /// Accumulators per pass over the values: enough to hide the latency of a multiply-add.
    const BLOCK: usize = 4;
    // SAFETY: the caller's contract.
    unsafe {
        let mut at = 0;
        while at + BLOCK * I::LANES <= job.dim {
            let mut sums = [I::splat(0.0); BLOCK];
            for (i, &w) in weights.iter().enumerate() {
                let v = v.add(job.visible.get(row, i) * job.dim + at);
                let w = I::splat(w);
                for (b, sum) in sums.iter_mut().enumerate() {
                    *sum = I::mul_add(w, I::load(v.add(b * I::LANES)), *sum);
                }
            }
            for (b, &sum) in sums.iter().enumerate() {
                I::store(y.add(at + b * I::LANES), sum);
            }
            at += BLOCK * I::LANES;
        }
        while at + I::LANES <= job.dim {
            let mut sum = I::splat(0.0);
            for (i, &w) in weights.iter().enumerate() {
                sum = I::mul_add(I::splat(w), I::load(v.add(job.visible.get(row, i) * job.dim + at)), sum);
            }
            I::store(y.add(at), sum);
            at += I::LANES;
        }
        for at in at..job.dim {
            let sum = weights
                .iter()
                .enumerate()
                .fold(0.0, |sum, (i, &w)| sum + w * *v.add(job.visible.get(row, i) * job.dim + at));
            *y.add(at) = sum;
        }
    }
}
