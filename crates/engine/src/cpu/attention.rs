//! Tree attention: each row over the prefix, its ancestors and itself, straight from the KV cache.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, Storage, Tensor};
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

    /// Whether a cache of `capacity` rows has all of them.
    fn check(&self, capacity: usize) -> Result<()> {
        // Ascending, so the last is the largest.
        let last = self.tail.iter().filter_map(|tail| tail.last()).max();
        let needed = self.prefix + last.map_or(0, |l| l + 1);
        if needed > capacity {
            candle_core::bail!("tree-attention: {needed} visible rows in a cache of {capacity}");
        }
        Ok(())
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

/// Scaled dot-product attention of the queries in the first columns of `qkv: [rows, width]`, session by session, each over its own
/// cache, to `[rows, heads * head_dim]`. Query heads share key heads in groups; nothing is repeated for that.
pub(crate) struct Attend<'a> {
    pub(crate) heads: usize,
    /// In the order of their rows.
    pub(crate) sessions: Vec<Attended<'a>>,
}

/// What the rows of one session attend to.
pub(crate) struct Attended<'a> {
    /// `[kv_heads, capacity, head_dim]`
    pub(crate) k: &'a Tensor,
    pub(crate) v: &'a Tensor,
    pub(crate) visible: &'a Visible,
}

impl CustomOp1 for Attend<'_> {
    fn name(&self) -> &'static str {
        "tree-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, ql: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = ql.shape().dims2()?;
        let qkv = contiguous(qkv, ql, self.name())?;
        let caches: Vec<_> =
            self.sessions.iter().map(|s| (s.k.storage_and_layout(), s.v.storage_and_layout())).collect();
        let mut jobs = Vec::with_capacity(self.sessions.len());
        let (mut first, mut work, mut out_width) = (0, 0, 0);
        for (session, ((k, kl), (v, vl))) in self.sessions.iter().zip(&caches) {
            let (Storage::Cpu(k), Storage::Cpu(v)) = (&**k, &**v) else {
                candle_core::bail!("tree-attention: a cache that is not on the CPU");
            };
            let (kv_heads, capacity, dim) = kl.shape().dims3()?;
            let own = session.visible.tail.len();
            session.visible.check(capacity)?;
            if first + own > rows
                || self.heads * dim > width
                || !self.heads.is_multiple_of(kv_heads)
                || vl.dims() != kl.dims()
            {
                candle_core::bail!(
                    "tree-attention: {own} of {rows} rows of {} heads over a cache of {:?}",
                    self.heads,
                    kl.dims()
                );
            }
            out_width = self.heads * dim;
            work += (0..own).map(|r| session.visible.len(r)).sum::<usize>() * out_width * 2;
            jobs.push(Job {
                q: &qkv[first * width..(first + own) * width],
                k: contiguous(k, kl, self.name())?,
                v: contiguous(v, vl, self.name())?,
                width,
                rows: own,
                heads: self.heads,
                group: self.heads / kv_heads,
                capacity,
                dim,
                scale: 1.0 / (dim as f32).sqrt(),
                visible: session.visible,
                y: std::ptr::null_mut(),
            });
            first += own;
        }
        if first != rows {
            candle_core::bail!("tree-attention: sessions of {first} rows, but {rows} came");
        }
        let mut y = vec![0f32; rows * out_width];
        let mut at = 0;
        for job in &mut jobs {
            // SAFETY: the rows of all sessions together are those of `y`.
            job.y = unsafe { y.as_mut_ptr().add(at * out_width) };
            at += job.rows;
        }
        run(&jobs, work > PARALLEL_WORK);
        Ok((CpuStorage::F32(y), Shape::from((rows, out_width))))
    }
}

/// All jobs in one parallel loop: one session alone has seldom enough to share. Units are (key head, row) pairs of a job, head by
/// head, so that a head's keys stay in the cache of one core.
fn run(jobs: &[Job<'_>], worthwhile: bool) {
    let units = |job: &Job<'_>| job.rows * (job.heads / job.group);
    let level = level();
    team::parallel(jobs.iter().map(units).sum(), worthwhile, |range| {
        let mut first = 0;
        for job in jobs {
            let end = first + units(job);
            let own = range.start.max(first)..range.end.min(end);
            if !own.is_empty() {
                attend(level, job, own.start - first..own.end - first);
            }
            first = end;
        }
    });
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
