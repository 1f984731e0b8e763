//! Decoding a chunk of a panel: codes to bytes, scales to floats.

use half::f16;

use super::format::{BLOCK, CHUNK, CHUNK_BLOCKS, PANEL, VECTOR, planes};
use crate::blocks::{Format, IQ4_VALUES, Scales};
use crate::cpu::int_isa::{Floats, IntIsa};
use crate::cpu::isa::Isa;

/// Steps of four inputs in a block.
pub(super) const STEPS: usize = BLOCK / 4;
/// Groups of a chunk, at most.
const GROUPS: usize = CHUNK / 16;

/// A chunk of a panel, decoded.
#[repr(align(64))]
pub(super) struct Chunk {
    /// `[block][step][VECTOR]`
    pub(super) codes: [u8; CHUNK_BLOCKS * STEPS * VECTOR],
    /// `[group][output]`
    pub(super) scales: [f32; GROUPS * PANEL],
    /// `[group][output]`. Unused without minimums.
    pub(super) minimums: [f32; GROUPS * PANEL],
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            codes: [0; CHUNK_BLOCKS * STEPS * VECTOR],
            scales: [0.0; GROUPS * PANEL],
            minimums: [0.0; GROUPS * PANEL],
        }
    }
}

impl Chunk {
    /// Decodes `chunk`, of `blocks` blocks.
    ///
    /// # Safety
    /// The machine has `I`. `chunk` is a chunk of weights of `format`.
    #[inline(always)]
    pub(super) unsafe fn decode<I: IntIsa>(&mut self, format: Format, chunk: &[u8], blocks: usize) {
        debug_assert!(blocks <= CHUNK_BLOCKS && chunk.len() == format.chunk_bytes(blocks));
        let (scales, codes) = chunk.split_at(format.scale_bytes(blocks));
        // SAFETY: the contract of the caller.
        unsafe {
            match format.scales {
                Scales::Half => self.decode_halves::<I>(format, scales.as_ptr(), blocks),
                Scales::Super | Scales::SuperNibbles => {
                    self.decode_factors::<I>(format, scales.as_ptr(), blocks);
                }
            }
            match format.bits {
                4 if format.indices => self.decode_indices::<I>(codes.as_ptr(), blocks),
                2 => self.decode_codes::<I, 2>(codes.as_ptr(), blocks),
                3 => self.decode_codes::<I, 3>(codes.as_ptr(), blocks),
                4 => self.decode_codes::<I, 4>(codes.as_ptr(), blocks),
                5 => self.decode_codes::<I, 5>(codes.as_ptr(), blocks),
                6 => self.decode_codes::<I, 6>(codes.as_ptr(), blocks),
                _ => self.decode_codes::<I, 8>(codes.as_ptr(), blocks),
            }
        }
    }

    /// # Safety
    /// As [`Self::decode`]; `codes` are those of the chunk.
    #[inline(always)]
    unsafe fn decode_codes<I: IntIsa, const BITS: usize>(&mut self, codes: *const u8, blocks: usize) {
        let lanes = 4 * I::Float::LANES;
        for block in 0..blocks {
            // SAFETY: the contract of the caller.
            unsafe {
                let from = codes.add(block * BITS * VECTOR);
                let to = self.codes.as_mut_ptr().add(block * STEPS * VECTOR);
                for at in (0..VECTOR).step_by(lanes) {
                    for step in 0..STEPS {
                        I::store(to.add(step * VECTOR + at), codes_of::<I, BITS>(from.add(at), step));
                    }
                }
            }
        }
    }

    /// As `decode_codes` for four bits, and then the values of the codes.
    ///
    /// # Safety
    /// As [`Self::decode`]; `codes` are those of the chunk.
    #[inline(always)]
    unsafe fn decode_indices<I: IntIsa>(&mut self, codes: *const u8, blocks: usize) {
        // SAFETY: the contract of the caller; whole vectors of decoded codes.
        unsafe {
            self.decode_codes::<I, 4>(codes, blocks);
            for at in (0..blocks * STEPS * VECTOR).step_by(4 * I::Float::LANES) {
                let codes = self.codes.as_mut_ptr().add(at);
                I::store(codes, I::lookup(I::load(codes), &IQ4_VALUES));
            }
        }
    }

    /// # Safety
    /// As [`Self::decode`]; `scales` are those of the chunk.
    #[inline(always)]
    unsafe fn decode_halves<I: IntIsa>(&mut self, format: Format, scales: *const u8, blocks: usize) {
        let lanes = I::Float::LANES;
        for at in (0..blocks * PANEL).step_by(lanes) {
            // SAFETY: the contract of the caller.
            unsafe {
                let scales = scales.cast::<f16>();
                I::Float::store(self.scales.as_mut_ptr().add(at), I::Float::load_f16(scales.add(at)));
                if format.minimum {
                    let minimums = scales.add(blocks * PANEL);
                    I::Float::store(self.minimums.as_mut_ptr().add(at), I::Float::load_f16(minimums.add(at)));
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::decode`]; `scales` are those of the chunk.
    #[inline(always)]
    unsafe fn decode_factors<I: IntIsa>(&mut self, format: Format, scales: *const u8, blocks: usize) {
        let lanes = I::Float::LANES;
        let groups = blocks * BLOCK / format.group;
        for at in (0..PANEL).step_by(lanes) {
            // SAFETY: the contract of the caller.
            unsafe {
                let factors = scales.add(2 * format.kinds() * PANEL + at);
                let scale = I::Float::load_f16(scales.cast::<f16>().add(at));
                if !format.minimum {
                    for group in 0..groups {
                        let factor = I::load_i8(factors.add(group * PANEL).cast());
                        I::Float::store(
                            self.scales.as_mut_ptr().add(group * PANEL + at),
                            I::mul(scale, factor),
                        );
                    }
                    continue;
                }
                let minimum = I::Float::load_f16(scales.cast::<f16>().add(PANEL + at));
                let minimum = I::mul(minimum, I::Float::splat(-1.0));
                for group in 0..groups {
                    let (factor, least): (Floats<I>, Floats<I>) = match format.scales {
                        Scales::SuperNibbles => {
                            let both = factors.add(group * PANEL);
                            (I::load_nibble(both, 0), I::load_nibble(both, 4))
                        }
                        // Factors of Q4_K and Q5_K have six bits, so they are positive as i8 too.
                        _ => (
                            I::load_i8(factors.add(group * PANEL).cast()),
                            I::load_i8(factors.add((groups + group) * PANEL).cast()),
                        ),
                    };
                    let to = group * PANEL + at;
                    I::Float::store(self.scales.as_mut_ptr().add(to), I::mul(scale, factor));
                    I::Float::store(self.minimums.as_mut_ptr().add(to), I::mul(minimum, least));
                }
            }
        }
    }
}

/// The codes of a step, put together from their planes.
///
/// # Safety
/// The machine has `I`; `block` points to a block of codes, plus the offset of the lanes within a vector.
#[inline(always)]
unsafe fn codes_of<I: IntIsa, const BITS: usize>(block: *const u8, step: usize) -> I::Codes {
    let planes = planes(BITS);
    // SAFETY: the contract of the caller.
    unsafe {
        let first = planes[0];
        let low = I::load(block.add(first.vector(step) * VECTOR));
        if BITS == 8 {
            return low;
        }
        let low = I::field(low, first.shift(step) as i32, first.mask());
        let Some(plane) = planes.get(1) else { return low };
        let high = I::load(block.add(plane.vector(step) * VECTOR));
        let right = plane.shift(step) as i32 - plane.from as i32;
        I::or(low, I::field(high, right, plane.mask() << plane.from))
    }
}
