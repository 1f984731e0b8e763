//! The inputs of quantised linear layers, rounded to 8 bits.

use super::format::{BLOCK, CHUNK};
use crate::blocks::Format;
use crate::cpu::buffer::written;
use crate::cpu::isa::{Isa, for_each_isa};
use crate::cpu::level::Level;
use crate::cpu::thread_pool::parallel;

/// Values from which a second thread is worthwhile for rounding them.
const PARALLEL_VALUES: usize = 4_000;
/// Inputs of the smallest group of weights.
const GROUP: usize = 16;

/// Rows of inputs: `x ≈ scale · code`, with one scale for 32 values.
pub(crate) struct QuantisedRows {
    pub(super) rows: usize,
    /// `[chunk][row][CHUNK]`, from -127 to 127; zeros after the last input.
    pub(super) codes: Vec<i8>,
    /// `[block][row]`
    pub(super) scales: Vec<f32>,
    /// The sums of sixteen codes, `[group of 16][row]`.
    sums: Vec<i32>,
}

/// The sums of [`QuantisedRows`] for weights of one form.
pub(crate) struct GroupSums {
    /// `-z Σ p` of every group, `[group][row]`: what its integer sums start from.
    pub(super) start: Vec<i32>,
    /// `d · float(Σ p)` of every group, `[group][row]`. Empty without minimums.
    pub(super) scaled: Vec<f32>,
}

impl QuantisedRows {
    /// Rounds `x: [rows, inputs]`; `inputs` is a multiple of 32.
    pub(crate) fn new(level: Level, x: &[f32], inputs: usize) -> Self {
        let rows = x.len() / inputs.max(1);
        let (blocks, chunks) = (inputs / BLOCK, inputs.div_ceil(CHUNK));
        let mut scales = vec![0f32; blocks * rows];
        let mut sums = vec![0i32; 2 * blocks * rows];
        let write = |codes: *mut i8| {
            let to = Shared { codes, scales: scales.as_mut_ptr(), sums: sums.as_mut_ptr() };
            parallel(chunks * rows, x.len() > PARALLEL_VALUES, |range| {
                let to = &to;
                for unit in range {
                    let (chunk, row) = (unit / rows, unit % rows);
                    let from = row * inputs + chunk * CHUNK;
                    let x = &x[from..(from + CHUNK).min((row + 1) * inputs)];
                    let first = chunk * CHUNK / BLOCK * rows;
                    // SAFETY: units are disjoint pairs of chunk and row, within the buffers.
                    unsafe {
                        let codes = to.codes.add(unit * CHUNK);
                        codes.add(x.len()).write_bytes(0, CHUNK - x.len());
                        let (scales, sums) = (to.scales.add(first + row), to.sums.add(2 * first + row));
                        round(level, x, codes, scales, sums, rows);
                    }
                }
            });
        };
        // SAFETY: there is a unit for every chunk of every row.
        let codes = unsafe { written(chunks * rows * CHUNK, write) };
        Self { rows, codes, scales, sums }
    }

    /// The sums that weights of `format` need. `wide_zero`: what the products subtract from wide codes
    /// themselves.
    pub(crate) fn sums(&self, format: Format, wide_zero: i32) -> GroupSums {
        let zero = if format.is_narrow() { format.zero } else { format.zero - wide_zero };
        let rows = self.rows;
        let sums: Vec<i32> = if format.group == GROUP {
            self.sums.clone()
        } else {
            let pairs = self.sums.chunks_exact((2 * rows).max(1)).map(|pair| pair.split_at(rows));
            pairs.flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b)).collect()
        };
        let scaled = if format.minimum {
            let per_block = BLOCK / format.group * rows;
            let blocks = sums.chunks_exact(per_block.max(1)).zip(self.scales.chunks_exact(rows.max(1)));
            blocks
                .flat_map(|(sums, scales)| sums.iter().zip(scales.iter().cycle()).map(|(&s, d)| d * s as f32))
                .collect()
        } else {
            Vec::new()
        };
        GroupSums { start: sums.into_iter().map(|sum| -zero * sum).collect(), scaled }
    }
}

struct Shared {
    codes: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
}

// SAFETY: threads write disjoint parts.
unsafe impl Sync for Shared {}

for_each_isa! {
    /// Rounds a chunk of a row. Scales and sums of consecutive blocks and groups are `rows` apart.
    fn round(x: &[f32], codes: *mut i8, scales: *mut f32, sums: *mut i32, rows: usize) = round_chunk
}

/// # Safety
/// The machine has `I`; `codes` is valid for as many values as `x`, `scales` for a value per block and `sums`
/// for two, at distances of `rows`.
#[inline(always)]
unsafe fn round_chunk<I: Isa>(x: &[f32], codes: *mut i8, scales: *mut f32, sums: *mut i32, rows: usize) {
    for (block, x) in x.chunks_exact(BLOCK).enumerate() {
        let mut rounded = [0i8; BLOCK];
        let scale = round_block(x, &mut rounded);
        // SAFETY: the contract of the caller.
        unsafe {
            codes.add(block * BLOCK).cast::<[i8; BLOCK]>().write_unaligned(rounded);
            *scales.add(block * rows) = scale;
            for (half, codes) in rounded.chunks_exact(GROUP).enumerate() {
                *sums.add((2 * block + half) * rows) = codes.iter().map(|&code| i32::from(code)).sum();
            }
        }
    }
}

/// Rounds a block to the nearest multiples of its scale, ties to even, and returns the scale: the largest
/// magnitude divided by 127. The operations are elementwise, so they have equal results on every instruction
/// set.
#[inline(always)]
fn round_block(x: &[f32], codes: &mut [i8]) -> f32 {
    /// Adding this rounds to an integer and leaves the integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// Below it, the reciprocal of the scale overflows.
    const SMALLEST: f32 = 1e-30;
    let mut largest = [0f32; 16];
    for x in x.chunks_exact(16) {
        for (largest, x) in largest.iter_mut().zip(x) {
            let size = x.abs();
            *largest = if size > *largest { size } else { *largest };
        }
    }
    let largest = largest.iter().fold(0f32, |a, &b| if b > a { b } else { a });
    if largest < SMALLEST {
        codes.fill(0);
        return 0.0;
    }
    let inverse = 127.0 / largest;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) as i8;
    }
    largest / 127.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_to_the_nearest_code() {
        let x: Vec<f32> = (0..96).map(|i| ((i * 37 % 91) as f32 - 45.0) / 7.0).collect();
        let rounded = QuantisedRows::new(Level::Portable, &x, 96);
        for (i, &x) in x.iter().enumerate() {
            let scale = rounded.scales[i / BLOCK];
            let off = (x - scale * f32::from(rounded.codes[i])).abs();
            assert!(off <= scale * 0.5001, "value {i}: {off} of {scale}");
        }
        assert!(rounded.scales.iter().all(|&scale| scale > 0.0));
    }

    #[test]
    fn zeros_infinities_and_nan_do_not_panic() {
        for value in [0.0, 1e-38, f32::INFINITY, f32::NAN] {
            let mut x = [1.0; 32];
            x[5] = value;
            let rounded = QuantisedRows::new(Level::Portable, &x, 32);
            assert_eq!(rounded.rows, 1);
        }
        let zeros = QuantisedRows::new(Level::Portable, &[0.0; 32], 32);
        assert!(zeros.codes.iter().all(|&code| code == 0) && zeros.scales == [0.0]);
    }
}
