//! Reading the blocks of GGUF files. The layouts are those of `ggml-common.h` in llama.cpp.

use super::block_type::{BlockType, CHUNK};

/// Weights of a small block.
const BLOCK: usize = 32;
const CHUNK_BLOCKS: usize = CHUNK / BLOCK;

/// Up to [`CHUNK`] weights, unpacked.
pub(crate) struct Unpacked {
    /// One code per weight.
    pub(crate) codes: [u8; CHUNK],
    /// Bits of an f16, one per block of 32; in formats with super blocks only the first.
    pub(crate) scale: [u16; CHUNK_BLOCKS],
    /// As `scale`.
    pub(crate) minimum: [u16; CHUNK_BLOCKS],
    /// Factors of the scale, one per group. Only with super blocks.
    pub(crate) group_scales: [i8; 16],
    /// Factors of the minimum, one per group. Only with super blocks.
    pub(crate) group_minimums: [u8; 16],
}

impl Unpacked {
    pub(crate) fn new() -> Self {
        Self {
            codes: [0; CHUNK],
            scale: [0; CHUNK_BLOCKS],
            minimum: [0; CHUNK_BLOCKS],
            group_scales: [0; 16],
            group_minimums: [0; 16],
        }
    }

    /// Reads whole blocks: up to eight of 32 weights, or one of 256. Factors and minimums that the type does not
    /// have stay zero.
    pub(crate) fn read(&mut self, kind: BlockType, blocks: &[u8]) {
        match kind {
            BlockType::Q2_K => self.q2k(blocks),
            BlockType::Q3_K => self.q3k(blocks),
            BlockType::Q4_K => self.q4k(blocks),
            BlockType::Q5_K => self.q5k(blocks),
            BlockType::Q6_K => self.q6k(blocks),
            BlockType::IQ4_XS => self.iq4_xs(blocks),
            _ => {
                for (index, block) in blocks.chunks_exact(kind.bytes()).enumerate() {
                    self.small(kind, index, block);
                }
            }
        }
    }

    /// A block of 32: scale, minimum if there is one, fifth bits if there are any, codes.
    fn small(&mut self, kind: BlockType, index: usize, block: &[u8]) {
        use BlockType::{Q4_1, Q5_0, Q5_1, Q8_0};
        self.scale[index] = u16_at(block, 0);
        let mut at = 2;
        if matches!(kind, Q4_1 | Q5_1) {
            self.minimum[index] = u16_at(block, at);
            at += 2;
        }
        let codes = &mut self.codes[index * BLOCK..][..BLOCK];
        if kind == Q8_0 {
            for (code, &byte) in codes.iter_mut().zip(&block[at..]) {
                // Codes are unsigned: -128..127 becomes 0..255.
                *code = byte ^ 0x80;
            }
            return;
        }
        let fifth = if matches!(kind, Q5_0 | Q5_1) {
            let bits = u32::from(u16_at(block, at)) | u32::from(u16_at(block, at + 2)) << 16;
            at += 4;
            bits
        } else {
            0
        };
        let (low, high) = codes.split_at_mut(BLOCK / 2);
        nibbles(&block[at..], low, high);
        for (i, code) in codes.iter_mut().enumerate() {
            *code |= ((fifth >> i & 1) as u8) << 4;
        }
    }

    fn q2k(&mut self, block: &[u8]) {
        let (scales, rest) = block.split_at(16);
        let (quants, d) = rest.split_at(64);
        self.scale[0] = u16_at(d, 0);
        self.minimum[0] = u16_at(d, 2);
        for (group, &byte) in scales.iter().enumerate() {
            self.group_scales[group] = (byte & 15) as i8;
            self.group_minimums[group] = byte >> 4;
        }
        for (input, code) in self.codes.iter_mut().enumerate() {
            *code = pair(quants, input);
        }
    }

    fn q3k(&mut self, block: &[u8]) {
        let (high, rest) = block.split_at(32);
        let (quants, rest) = rest.split_at(64);
        let (scales, d) = rest.split_at(12);
        self.scale[0] = u16_at(d, 0);
        for (group, scale) in self.group_scales.iter_mut().enumerate() {
            let low = scales[group % 8] >> (4 * (group / 8)) & 15;
            let top = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
            *scale = (low | top << 4) as i8 - 32;
        }
        for (input, code) in self.codes.iter_mut().enumerate() {
            *code = pair(quants, input) | (high[input % 32] >> (input / 32) & 1) << 2;
        }
    }

    fn q4k(&mut self, block: &[u8]) {
        self.super_scales(block);
        self.super_nibbles(&block[16..]);
    }

    fn q5k(&mut self, block: &[u8]) {
        self.super_scales(block);
        let (fifth, quants) = block[16..].split_at(32);
        self.super_nibbles(quants);
        for (input, code) in self.codes.iter_mut().enumerate() {
            *code |= (fifth[input % 32] >> (input / 32) & 1) << 4;
        }
    }

    fn q6k(&mut self, block: &[u8]) {
        let (low, rest) = block.split_at(128);
        let (high, rest) = rest.split_at(64);
        let (scales, d) = rest.split_at(16);
        self.scale[0] = u16_at(d, 0);
        for (scale, &byte) in self.group_scales.iter_mut().zip(scales) {
            *scale = byte as i8;
        }
        for (input, code) in self.codes.iter_mut().enumerate() {
            let (half, within) = (input / 128, input % 128);
            let nibble = low[64 * half + within % 64] >> (4 * (within / 64)) & 15;
            *code = nibble | pair(high, input) << 4;
        }
    }

    fn iq4_xs(&mut self, block: &[u8]) {
        self.scale[0] = u16_at(block, 0);
        let high = u16_at(block, 2);
        let (low, quants) = block[4..].split_at(4);
        for (group, scale) in self.group_scales.iter_mut().take(8).enumerate() {
            let nibble = low[group / 2] >> (4 * (group % 2)) & 15;
            *scale = (nibble | ((high >> (2 * group) & 3) as u8) << 4) as i8 - 32;
        }
        for (codes, quants) in self.codes.chunks_exact_mut(32).zip(quants.chunks_exact(16)) {
            let (low, high) = codes.split_at_mut(16);
            nibbles(quants, low, high);
        }
    }

    /// Scales and minimums of Q4_K and Q5_K: eight of 6 bits each, in twelve bytes.
    fn super_scales(&mut self, block: &[u8]) {
        self.scale[0] = u16_at(block, 0);
        self.minimum[0] = u16_at(block, 2);
        let s = &block[4..16];
        for group in 0..8 {
            let (scale, minimum) = if group < 4 {
                (s[group] & 63, s[group + 4] & 63)
            } else {
                let (low, high) = (s[group + 4], [s[group - 4], s[group]]);
                (low & 15 | high[0] >> 6 << 4, low >> 4 | high[1] >> 6 << 4)
            };
            self.group_scales[group] = scale as i8;
            self.group_minimums[group] = minimum;
        }
    }

    /// 64 codes in 32 bytes, four times: first the low halves, then the high ones.
    fn super_nibbles(&mut self, quants: &[u8]) {
        for (codes, quants) in self.codes.chunks_exact_mut(64).zip(quants.chunks_exact(32)) {
            let (low, high) = codes.split_at_mut(32);
            nibbles(quants, low, high);
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn nibbles(bytes: &[u8], low: &mut [u8], high: &mut [u8]) {
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// The two bits of an input: 128 inputs are in 32 bytes, 32 of them in each pair of bits.
fn pair(bytes: &[u8], input: usize) -> u8 {
    bytes[32 * (input / 128) + input % 32] >> (2 * (input % 128 / 32)) & 3
}
