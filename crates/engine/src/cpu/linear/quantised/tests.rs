//! What tests of quantised layers share.

use crate::blocks::{BlockType, Blocks};

/// Blocks of random codes, with scales of a size that weights have.
pub(in crate::cpu::linear) fn random_blocks(kind: BlockType, shape: [usize; 2]) -> Blocks {
    let count = shape[0] * shape[1] / kind.weights();
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let mut bytes: Vec<u8> = (0..count * kind.bytes()).map(|_| next()).collect();
    for block in bytes.chunks_exact_mut(kind.bytes()) {
        for at in halves(kind) {
            // An f16 of up to 0.004 with either sign: exponents of up to 6.
            block[at + 1] = block[at + 1] & 0x80 | (block[at + 1] % 28);
        }
    }
    Blocks { kind, shape, bytes }
}

/// Where a block has an f16.
fn halves(kind: BlockType) -> &'static [usize] {
    match kind {
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4_K | BlockType::Q5_K => &[0, 2],
        BlockType::Q2_K => &[80, 82],
        BlockType::Q3_K => &[108],
        BlockType::Q6_K => &[208],
        _ => &[0],
    }
}
