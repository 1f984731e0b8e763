//! What this machine can do at most, measured: the limits that passes are compared with.

use std::hint::black_box;
use std::time::Instant;

use super::buffer::Buffer;
use super::int_isa::{IntIsa, for_each_int_isa};
use super::isa::{Isa, for_each_isa};
use super::level::level;
use super::thread_pool::{parallel, with_awake};

/// Values of the buffer that is read: more than the caches of most processors hold.
const VALUES: usize = 64 << 20;
/// Repetitions of each measurement. The best one counts.
const REPEATS: usize = 5;
/// Sums in flight, enough to hide the latency of an instruction.
const SUMS: usize = 12;
/// Instructions per sum and item.
const ROUNDS: usize = 10_000;
/// Items of a loop, which the threads share.
const ITEMS: usize = 64;

/// Limits of the processors that this thread uses, see `Decoder::use_threads`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Bytes read from memory per second.
    pub bytes_per_second: f64,
    /// Multiply-adds of f32 per second, of the vector unit.
    pub f32_per_second: f64,
    /// Multiply-adds of 8-bit integers per second, of the vector unit: tiles can do more.
    pub int8_per_second: f64,
}

/// Measures them on the instruction set of this thread. Takes about a second, and 256 MB of memory.
pub fn measure_peaks() -> Peaks {
    let level = level();
    let mut values = Buffer::<f32>::zeroed(VALUES);
    // Pages that were never written would all be the same page of zeros.
    values.fill(1.0);
    let (values, size) = (&values[..], VALUES / ITEMS);
    let bytes = best(|item| {
        black_box(read(level, &values[item * size..][..size]));
    });
    let floats = best(|_| {
        black_box(multiply_floats(level, black_box(1e-9)));
    });
    let lanes = float_lanes(level);
    let ints = best(|_| {
        black_box(multiply_ints(level, black_box(&[1; 64])));
    });
    let int_lanes = int_lanes(level);
    let operations = (SUMS * ROUNDS * ITEMS) as f64;
    Peaks {
        bytes_per_second: (VALUES * size_of::<f32>()) as f64 / bytes,
        f32_per_second: operations * lanes as f64 / floats,
        // Eight products per lane and call.
        int8_per_second: operations * 8.0 * int_lanes as f64 / ints,
    }
}

/// Seconds of the fastest run of all items on all threads.
fn best(item: impl Fn(usize) + Sync) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        with_awake(|| {
            let start = Instant::now();
            parallel(ITEMS, true, |range| range.for_each(&item));
            best = best.min(start.elapsed().as_secs_f64());
        });
    }
    best
}

for_each_isa! { fn float_lanes() -> usize = float_lanes_of }
for_each_int_isa! { fn int_lanes() -> usize = int_lanes_of }
for_each_isa! { fn read(values: &[f32]) -> f32 = read_all }
for_each_isa! { fn multiply_floats(x: f32) -> f32 = multiply_floats_by }
for_each_int_isa! { fn multiply_ints(x: &[i8; 64]) -> f32 = multiply_ints_by }

/// # Safety
/// None: it is marked as the kernels are, for the macro.
#[inline(always)]
unsafe fn float_lanes_of<I: Isa>() -> usize {
    I::LANES
}

/// # Safety
/// None: as above.
#[inline(always)]
unsafe fn int_lanes_of<I: IntIsa>() -> usize {
    I::Float::LANES
}

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn read_all<I: Isa>(values: &[f32]) -> f32 {
    // SAFETY: whole vectors within the slice; the contract of the caller.
    unsafe {
        let one = I::splat(1.0);
        let mut sums = [I::splat(0.0); 4];
        for chunk in values.chunks_exact(4 * I::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = I::mul_add(one, I::load(chunk.as_ptr().add(i * I::LANES)), *sum);
            }
        }
        sums.into_iter().fold(0.0, |total, sum| total + I::sum(sum))
    }
}

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn multiply_floats_by<I: Isa>(x: f32) -> f32 {
    // SAFETY: the contract of the caller.
    unsafe {
        let x = I::splat(x);
        let mut sums = [x; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = I::mul_add(x, x, *sum);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += I::sum(sum);
        }
        total
    }
}

/// # Safety
/// The machine has `I`.
#[inline(always)]
unsafe fn multiply_ints_by<I: IntIsa>(x: &[i8; 64]) -> f32 {
    // SAFETY: a vector of codes has at most 64 bytes; the contract of the caller.
    unsafe {
        let mut sums = [I::splat(0); SUMS];
        for _ in 0..ROUNDS {
            // Otherwise products that are the same in every round would be computed once.
            let codes = I::load(black_box(x).as_ptr().cast());
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = I::dot::<true>(*sum, [codes; 2], x.as_ptr().add(i));
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += I::Float::sum(I::to_floats(sum));
        }
        total
    }
}
