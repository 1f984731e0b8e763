//! Tree attention: each row attends to the prefix, its ancestors and itself, straight in the KV cache.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, Storage, Tensor};

use super::isa::{Isa, for_each_isa};
use super::level::level;
use super::mask::{MaskRow, SparseMask};
use super::rows::{contiguous, contiguous_mut, exp};
use super::thread_pool::parallel;

/// Multiply-adds from which a second thread is worthwhile.
const PARALLEL_WORK: usize = 20_000;
/// Partial sums of a product, whatever the width of a vector, so that AVX2 and AVX-512 give equal bits.
const WIDTH: usize = 16;

/// Copies heads out of `[rows, width]`, from column `from` on, into a cache `[kv_heads, capacity, head_dim]`
/// after its first `at` rows.
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
        let cache = contiguous_mut(cache, cl, self.name())?;
        let x = contiguous(x, xl, self.name())?;
        for (row, x) in x.chunks_exact(width).enumerate() {
            for (head, x) in x[self.from..].chunks_exact(dim).take(heads).enumerate() {
                cache[(head * capacity + self.at + row) * dim..][..dim].copy_from_slice(x);
            }
        }
        Ok(())
    }
}

/// Scaled dot-product attention of the queries in the first columns of `qkv: [rows, width]`, session by
/// session, each over its own cache, to `[rows, heads * head_dim]`. Query heads share key heads in groups,
/// without copies of the keys.
pub(crate) struct TreeAttention<'a> {
    pub(crate) heads: usize,
    /// In the order of their rows.
    pub(crate) sessions: Vec<SessionKv<'a>>,
}

/// The cache of one session, and the mask of its rows.
pub(crate) struct SessionKv<'a> {
    /// `[kv_heads, capacity, head_dim]`
    pub(crate) keys: &'a Tensor,
    /// `[kv_heads, capacity, head_dim]`
    pub(crate) values: &'a Tensor,
    pub(crate) mask: &'a SparseMask,
}

impl CustomOp1 for TreeAttention<'_> {
    fn name(&self) -> &'static str {
        "tree-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, ql: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = ql.shape().dims2()?;
        let qkv = contiguous(qkv, ql, self.name())?;
        let caches: Vec<_> = self
            .sessions
            .iter()
            .map(|session| (session.keys.storage_and_layout(), session.values.storage_and_layout()))
            .collect();
        let mut tasks = Vec::with_capacity(self.sessions.len());
        let mut first = 0;
        let mut out_width = 0;
        for (session, ((keys, kl), (values, vl))) in self.sessions.iter().zip(&caches) {
            let (Storage::Cpu(keys), Storage::Cpu(values)) = (&**keys, &**values) else {
                candle_core::bail!("tree-attention: the cache is not on the CPU");
            };
            let last = first + session.mask.rows();
            self.check(session.mask, kl, vl, rows.saturating_sub(first), width)?;
            let (kv_heads, capacity, dim) = kl.shape().dims3()?;
            out_width = self.heads * dim;
            tasks.push(Task {
                q: &qkv[first * width..last * width],
                k: contiguous(keys, kl, self.name())?,
                v: contiguous(values, vl, self.name())?,
                width,
                rows: session.mask.rows(),
                heads: self.heads,
                group: self.heads / kv_heads,
                capacity,
                dim,
                scale: 1.0 / (dim as f32).sqrt(),
                mask: session.mask,
                y: std::ptr::null_mut(),
            });
            first = last;
        }
        if first != rows {
            candle_core::bail!("tree-attention: the sessions have {first} rows, but the input has {rows}");
        }
        let mut y = vec![0f32; rows * out_width];
        let mut at = 0;
        for task in &mut tasks {
            // SAFETY: the rows of all sessions together are those of `y`.
            task.y = unsafe { y.as_mut_ptr().add(at * out_width) };
            at += task.rows;
        }
        run(&tasks);
        Ok((CpuStorage::F32(y), Shape::from((rows, out_width))))
    }
}

impl TreeAttention<'_> {
    /// Checks a session's mask and cache against the `rows` rows of `width` columns that are left of the
    /// input.
    fn check(&self, mask: &SparseMask, kl: &Layout, vl: &Layout, rows: usize, width: usize) -> Result<()> {
        let (kv_heads, capacity, dim) = kl.shape().dims3()?;
        let needed = mask.cache_rows();
        if needed > capacity {
            candle_core::bail!("tree-attention: the mask refers to {needed} rows of a cache of {capacity}");
        }
        let own = mask.rows();
        if own > rows
            || self.heads * dim > width
            || !self.heads.is_multiple_of(kv_heads)
            || vl.dims() != kl.dims()
        {
            candle_core::bail!(
                "tree-attention: {own} of {rows} rows of {} heads do not fit a cache of {:?}",
                self.heads,
                kl.dims()
            );
        }
        Ok(())
    }
}

/// Runs all tasks in one parallel loop, because a single session seldom has enough work to share.
fn run(tasks: &[Task<'_>]) {
    let level = level();
    let work: usize = tasks.iter().map(|task| task.mask.pairs() * task.heads * task.dim * 2).sum();
    let units = tasks.iter().map(Task::units).sum();
    parallel(units, work > PARALLEL_WORK, |range| {
        let mut first = 0;
        for task in tasks {
            let end = first + task.units();
            let own = range.start.max(first)..range.end.min(end);
            if !own.is_empty() {
                attend(level, task, own.start - first..own.end - first);
            }
            first = end;
        }
    });
}

/// The attention of one session.
struct Task<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    width: usize,
    rows: usize,
    heads: usize,
    /// Query heads per key head.
    group: usize,
    capacity: usize,
    dim: usize,
    scale: f32,
    mask: &'a SparseMask,
    y: *mut f32,
}

impl Task<'_> {
    /// The number of (key head, row) pairs. A unit of work is one pair, ordered by heads, so that the keys of
    /// a head stay in the cache of one core.
    fn units(&self) -> usize {
        self.rows * (self.heads / self.group)
    }
}

// SAFETY: threads write disjoint (row, key head) blocks of `y` and only read the rest.
unsafe impl Sync for Task<'_> {}

for_each_isa! { fn attend(task: &Task<'_>, units: Range<usize>) = attend_units }

/// # Safety
/// The machine has `I`; no other thread writes these units of `y`; the mask refers to rows within the caches.
#[inline(always)]
unsafe fn attend_units<I: Isa>(task: &Task<'_>, units: Range<usize>) {
    let mut weights = Vec::new();
    for unit in units {
        let kv_head = unit / task.rows;
        let row = unit % task.rows;
        let attended = task.mask.row(row, task.dim);
        let cache = kv_head * task.capacity * task.dim;
        for head in kv_head * task.group..(kv_head + 1) * task.group {
            // SAFETY: shapes were checked by the op; rows and heads are in range.
            unsafe {
                let q = task.q.as_ptr().add(row * task.width + head * task.dim);
                weights.resize(attended.len(), 0f32);
                scores::<I>(task, q, task.k.as_ptr().add(cache), &attended, &mut weights);
                softmax(&mut weights);
                let y = task.y.add((row * task.heads + head) * task.dim);
                weighted_sum::<I>(&attended, &weights, task.v.as_ptr().add(cache), y);
            }
        }
    }
}

/// Scaled products of `q` with the keys. They are stored side by side, whatever rows the keys are in, so that
/// results do not depend on where in the cache the ancestors of a token are.
///
/// The loops here and below use no iterators with closures: a closure would be compiled without the
/// instruction set.
///
/// # Safety
/// The machine has `I`; `q` is valid for a head, `k` for the rows of the mask.
#[inline(always)]
unsafe fn scores<I: Isa>(
    task: &Task<'_>,
    q: *const f32,
    k: *const f32,
    mask: &MaskRow<'_>,
    scores: &mut [f32],
) {
    let fours = scores.len() / 4 * 4;
    // SAFETY: the contract of the caller.
    unsafe {
        for i in (0..fours).step_by(4) {
            let keys =
                [k.add(mask.at(i)), k.add(mask.at(i + 1)), k.add(mask.at(i + 2)), k.add(mask.at(i + 3))];
            let products = dots::<I, 4>(q, keys, task.dim);
            for (score, product) in scores[i..i + 4].iter_mut().zip(products) {
                *score = product * task.scale;
            }
        }
        for (i, score) in scores.iter_mut().enumerate().skip(fours) {
            *score = dots::<I, 1>(q, [k.add(mask.at(i))], task.dim)[0] * task.scale;
        }
    }
}

/// `N` products at once, so that each hides the latency of the others.
///
/// # Safety
/// The machine has `I`; `a` and all of `b` are valid for `n` values.
#[inline(always)]
unsafe fn dots<I: Isa, const N: usize>(a: *const f32, b: [*const f32; N], n: usize) -> [f32; N] {
    // SAFETY: the contract of the caller.
    unsafe {
        // One vector of sixteen lanes, or two of eight.
        let vectors = WIDTH / I::LANES;
        let mut sums = [[I::splat(0.0); 2]; N];
        let whole = n / WIDTH * WIDTH;
        for i in (0..whole).step_by(WIDTH) {
            for v in 0..vectors {
                let a = I::load(a.add(i + v * I::LANES));
                for (sums, b) in sums.iter_mut().zip(b) {
                    sums[v] = I::mul_add(a, I::load(b.add(i + v * I::LANES)), sums[v]);
                }
            }
        }
        let mut products = [0f32; N];
        for ((product, sums), b) in products.iter_mut().zip(sums).zip(b) {
            *product = if vectors == 2 { I::sum(I::add(sums[0], sums[1])) } else { I::sum(sums[0]) };
            for i in whole..n {
                *product += *a.add(i) * *b.add(i);
            }
        }
        products
    }
}

/// Softmax in place. The values must be finite.
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

/// The weighted sum of the values in the rows of the mask.
///
/// # Safety
/// The machine has `I`; `v` is valid for the rows of the mask, `y` for a head.
#[inline(always)]
unsafe fn weighted_sum<I: Isa>(mask: &MaskRow<'_>, weights: &[f32], v: *const f32, y: *mut f32) {
    let mut at = 0;
    // SAFETY: the contract of the caller.
    unsafe {
        let whole = mask.dim / WIDTH * WIDTH;
        while at + 4 * I::LANES <= whole {
            weighted_columns::<I, 4>(mask, weights, v.add(at), y.add(at));
            at += 4 * I::LANES;
        }
        while at < whole {
            weighted_columns::<I, 1>(mask, weights, v.add(at), y.add(at));
            at += I::LANES;
        }
        for at in at..mask.dim {
            let mut sum = 0.0;
            for (i, &weight) in weights.iter().enumerate() {
                sum += weight * *v.add(mask.at(i) + at);
            }
            *y.add(at) = sum;
        }
    }
}

/// The same for `N` vectors of columns.
///
/// # Safety
/// As [`weighted_sum`].
#[inline(always)]
unsafe fn weighted_columns<I: Isa, const N: usize>(
    mask: &MaskRow<'_>,
    weights: &[f32],
    v: *const f32,
    y: *mut f32,
) {
    // SAFETY: the contract of the caller.
    unsafe {
        let mut sums = [I::splat(0.0); N];
        for (i, &weight) in weights.iter().enumerate() {
            let weight = I::splat(weight);
            let v = v.add(mask.at(i));
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = I::mul_add(weight, I::load(v.add(n * I::LANES)), *sum);
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            I::store(y.add(n * I::LANES), sum);
        }
    }
}
