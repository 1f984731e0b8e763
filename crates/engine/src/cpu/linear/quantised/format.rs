//! The layout of quantised weights in memory.
//!
//! A panel is a sequence of chunks. A chunk holds its scales, padded to whole vectors, and then the codes of
//! its blocks. A vector of codes holds, at byte `4 o + i`, input `4 j + i` of output `o` in step `j`: what an
//! instruction multiplies by four inputs of a row. The eight steps of a block share vectors where codes are
//! smaller than a byte: 4 bits in four vectors (steps `j` and `j + 4`), 2 bits in two, 1 bit in one; codes of
//! 5 and 6 bits are 4 bits, followed by the others.

use crate::blocks::{CHUNK as LARGEST_BLOCK, Format, Scales};

/// Outputs of a panel: the 32-bit lanes of an AVX-512 vector.
pub(crate) const PANEL: usize = 16;
/// Inputs that share a scale of the activations.
pub(crate) const BLOCK: usize = 32;
/// Inputs of a chunk: what a pass decodes at once.
pub(crate) const CHUNK: usize = LARGEST_BLOCK;
/// Blocks of a chunk.
pub(crate) const CHUNK_BLOCKS: usize = CHUNK / BLOCK;
/// Bytes of a vector of codes: four inputs of every output of a panel.
pub(crate) const VECTOR: usize = 4 * PANEL;

impl Format {
    /// Whether the bytes that are multiplied have at most 6 bits.
    pub(crate) fn is_narrow(self) -> bool {
        self.bits <= 6 && !self.indices
    }

    /// Bytes of the scales of a chunk of `blocks` blocks.
    pub(crate) fn scale_bytes(self, blocks: usize) -> usize {
        let groups = blocks * BLOCK / self.group;
        let bytes = match self.scales {
            Scales::Half => self.kinds() * 2 * blocks,
            Scales::Super => self.kinds() * (2 + groups),
            Scales::SuperNibbles => self.kinds() * 2 + groups,
        };
        (bytes * PANEL).next_multiple_of(VECTOR)
    }

    /// 2 if there are scales and minimums, otherwise 1.
    pub(crate) fn kinds(self) -> usize {
        1 + usize::from(self.minimum)
    }

    /// Bytes of the codes of a block.
    pub(crate) fn block_bytes(self) -> usize {
        self.bits * VECTOR
    }

    /// Bytes of a chunk of `blocks` blocks.
    pub(crate) fn chunk_bytes(self, blocks: usize) -> usize {
        self.scale_bytes(blocks) + blocks * self.block_bytes()
    }

    /// Bytes of a panel over `inputs` inputs.
    pub(crate) fn panel_bytes(self, inputs: usize) -> usize {
        chunks(inputs).map(|blocks| self.chunk_bytes(blocks)).sum()
    }
}

/// The numbers of blocks in the chunks of `inputs` inputs: all have eight but perhaps the last one.
pub(crate) fn chunks(inputs: usize) -> impl Iterator<Item = usize> {
    let blocks = inputs / BLOCK;
    (0..blocks.div_ceil(CHUNK_BLOCKS)).map(move |c| CHUNK_BLOCKS.min(blocks - c * CHUNK_BLOCKS))
}

/// Consecutive bits of the codes of a block, in vectors of their own.
#[derive(Clone, Copy)]
pub(crate) struct Plane {
    /// The first of the bits.
    pub(crate) from: usize,
    /// Number of bits: 1, 2, 4 or 8.
    width: usize,
    /// The first of the vectors.
    first: usize,
}

impl Plane {
    /// The vectors that eight steps need.
    const fn vectors(self) -> usize {
        self.width
    }

    /// The vector of a step, from the start of the block.
    pub(crate) const fn vector(self, step: usize) -> usize {
        self.first + step % self.vectors()
    }

    /// The place of the bits of a step in the bytes of its vector.
    pub(crate) const fn shift(self, step: usize) -> usize {
        step / self.vectors() * self.width
    }

    /// The bits at place 0, in every byte.
    pub(crate) const fn mask(self) -> u32 {
        ((1u32 << self.width) - 1) * 0x0101_0101
    }
}

/// The planes of codes of `bits` bits.
pub(crate) const fn planes(bits: usize) -> &'static [Plane] {
    const fn plane(from: usize, width: usize) -> Plane {
        // Those of the lower bits come first, in as many vectors as they have bits.
        Plane { from, width, first: from }
    }
    match bits {
        2 => const { &[plane(0, 2)] },
        3 => const { &[plane(0, 2), plane(2, 1)] },
        4 => const { &[plane(0, 4)] },
        5 => const { &[plane(0, 4), plane(4, 1)] },
        6 => const { &[plane(0, 4), plane(4, 2)] },
        _ => const { &[plane(0, 8)] },
    }
}
