//! A quantised weight in panels.

use half::f16;

use super::format::{BLOCK, CHUNK, PANEL, VECTOR, chunks, planes};
use crate::blocks::{BlockType, Blocks, Format, IQ4_VALUES, Scales, Unpacked};
use crate::cpu::buffer::{Buffer, DisjointChunks};
use crate::cpu::thread_pool::parallel;

/// A weight, `[outputs, inputs]`, in the layout that [`Format`] describes. The outputs of the last panel that
/// do not exist have scales of zero.
pub(crate) struct QuantisedPanels {
    pub(crate) kind: BlockType,
    pub(crate) format: Format,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    bytes: Buffer<u8>,
}

impl QuantisedPanels {
    /// Packs `blocks`.
    ///
    /// # Errors
    /// If there are more or fewer bytes than the shape requires.
    pub(crate) fn new(blocks: &Blocks) -> candle_core::Result<Self> {
        let (kind, format, rows) = (blocks.kind, blocks.kind.format(), blocks.bytes.as_slice());
        let [outputs, inputs] = blocks.shape;
        let Some(row_bytes) = Blocks::row_bytes(kind, inputs).filter(|bytes| rows.len() == outputs * bytes)
        else {
            candle_core::bail!(
                "{} bytes of {kind:?} are not a matrix of {outputs} rows of {inputs}",
                rows.len()
            );
        };
        let count = outputs.div_ceil(PANEL);
        let panel_bytes = format.panel_bytes(inputs);
        let mut bytes = Buffer::zeroed(count * panel_bytes);
        let panels = DisjointChunks::new(&mut bytes, panel_bytes);
        parallel(count, true, |range| {
            let mut unpacked = Unpacked::new();
            for panel in range {
                // SAFETY: every panel is used once.
                let bytes = unsafe { panels.chunk(panel) };
                let rows = &rows[panel * PANEL * row_bytes..outputs.min((panel + 1) * PANEL) * row_bytes];
                for (lane, row) in rows.chunks_exact(row_bytes.max(1)).enumerate() {
                    pack_row(kind, inputs, row, lane, bytes, &mut unpacked);
                }
            }
        });
        Ok(Self { kind, format, inputs, outputs, bytes })
    }

    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        let bytes = self.format.panel_bytes(self.inputs);
        &self.bytes[panel * bytes..][..bytes]
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The weights of one output.
    pub(crate) fn row(&self, output: usize) -> Vec<f32> {
        let mut weights = Vec::with_capacity(self.inputs);
        let (mut rest, lane) = (self.panel(output / PANEL), output % PANEL);
        for blocks in chunks(self.inputs) {
            let (chunk, others) = rest.split_at(self.format.chunk_bytes(blocks));
            rest = others;
            let (scales, codes) = chunk.split_at(self.format.scale_bytes(blocks));
            for input in 0..blocks * BLOCK {
                let (scale, minimum) = self.scale(scales, blocks, input / self.format.group, lane);
                let block = &codes[input / BLOCK * self.format.block_bytes()..];
                let code = code_at(self.format, block, input % BLOCK, lane);
                weights.push((i32::from(code) - self.format.zero) as f32 * scale + minimum);
            }
        }
        weights
    }

    /// Scale and minimum of a group of a chunk.
    fn scale(&self, scales: &[u8], blocks: usize, group: usize, lane: usize) -> (f32, f32) {
        let half = |at: usize| f16::from_le_bytes([scales[2 * at], scales[2 * at + 1]]).to_f32();
        if self.format.scales == Scales::Half {
            let block = group * self.format.group / BLOCK;
            let minimum = if self.format.minimum { half((blocks + block) * PANEL + lane) } else { 0.0 };
            return (half(block * PANEL + lane), minimum);
        }
        let factors = &scales[2 * self.format.kinds() * PANEL..];
        let groups = blocks * BLOCK / self.format.group;
        let factor = factors[group * PANEL + lane];
        let (factor, minimum) = match self.format.scales {
            Scales::SuperNibbles => (factor & 15, factor >> 4),
            _ if self.format.minimum => (factor, factors[(groups + group) * PANEL + lane]),
            _ => (factor, 0),
        };
        let scale = half(lane) * f32::from(factor as i8);
        let minimum = if self.format.minimum { -(half(PANEL + lane) * f32::from(minimum)) } else { 0.0 };
        (scale, minimum)
    }
}

/// Writes a row of the file into lane `lane` of a panel.
fn pack_row(
    kind: BlockType,
    inputs: usize,
    mut row: &[u8],
    lane: usize,
    mut panel: &mut [u8],
    unpacked: &mut Unpacked,
) {
    let format = kind.format();
    for blocks in chunks(inputs) {
        let (chunk, others) = panel.split_at_mut(format.chunk_bytes(blocks));
        panel = others;
        let bytes = blocks * BLOCK / kind.weights() * kind.bytes();
        unpacked.read(kind, &row[..bytes]);
        row = &row[bytes..];
        let (scales, codes) = chunk.split_at_mut(format.scale_bytes(blocks));
        pack_scales(format, unpacked, blocks, lane, scales);
        for (block, codes) in codes.chunks_exact_mut(format.block_bytes()).enumerate() {
            pack_codes(format, &unpacked.codes[block * BLOCK..][..BLOCK], lane, codes);
        }
    }
}

fn pack_scales(format: Format, unpacked: &Unpacked, blocks: usize, lane: usize, scales: &mut [u8]) {
    let kinds = [Some(&unpacked.scale), format.minimum.then_some(&unpacked.minimum)];
    let halves = if format.scales == Scales::Half { blocks } else { 1 };
    let all = kinds.into_iter().flatten().flat_map(|kind| &kind[..halves]);
    for (scales, half) in scales.chunks_exact_mut(2 * PANEL).zip(all) {
        scales[2 * lane..][..2].copy_from_slice(&half.to_le_bytes());
    }
    if format.scales == Scales::Half {
        return;
    }
    let groups = CHUNK / format.group;
    let mut rows = scales[2 * format.kinds() * PANEL..].chunks_exact_mut(PANEL);
    for (group, row) in rows.by_ref().take(groups).enumerate() {
        row[lane] = unpacked.group_scales[group] as u8;
        if format.scales == Scales::SuperNibbles {
            row[lane] |= unpacked.group_minimums[group] << 4;
        }
    }
    if format.scales == Scales::Super && format.minimum {
        for (row, &minimum) in rows.zip(&unpacked.group_minimums[..groups]) {
            row[lane] = minimum;
        }
    }
}

/// The codes of a block of one output. Four of them, for a step, are four bytes of a vector.
fn pack_codes(format: Format, codes: &[u8], lane: usize, panel: &mut [u8]) {
    let mut or = |vector: usize, bytes: u32| {
        let place = &mut panel[vector * VECTOR + 4 * lane..][..4];
        for (place, byte) in place.iter_mut().zip(bytes.to_le_bytes()) {
            *place |= byte;
        }
    };
    for (step, codes) in codes.chunks_exact(4).enumerate() {
        let code = u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]);
        for plane in planes(format.bits) {
            let bits = code >> plane.from & plane.mask();
            or(plane.vector(step), bits << plane.shift(step));
        }
    }
}

/// The code of an input within a block.
fn code_at(format: Format, block: &[u8], input: usize, lane: usize) -> u8 {
    let (step, byte) = (input / 4, 4 * lane + input % 4);
    let bits = planes(format.bits).iter().map(|plane| {
        let vector = block[plane.vector(step) * VECTOR + byte];
        (vector >> plane.shift(step) & plane.mask() as u8) << plane.from
    });
    let code = bits.fold(0, |code, bits| code | bits);
    if format.indices { IQ4_VALUES[usize::from(code)] } else { code }
}

#[cfg(test)]
mod tests {
    use super::super::tests::random_blocks;
    use super::*;

    /// Also checks that panels take no more memory than the file, but for padding.
    #[test]
    fn the_rows_of_panels_are_the_weights_of_the_file() {
        for kind in BlockType::ALL {
            for shape in [[16, 256], [37, 768], [3, 512]] {
                let blocks = random_blocks(kind, shape);
                let panels = QuantisedPanels::new(&blocks).unwrap();
                let weights = blocks.widened();
                for (output, weights) in weights.chunks_exact(shape[1]).enumerate() {
                    assert_eq!(panels.row(output), weights, "{kind:?}, output {output}");
                }
                if shape[0] % PANEL == 0 {
                    let limit = blocks.bytes.len() * 107 / 100;
                    assert!(panels.bytes() <= limit, "{kind:?}: {} > {limit}", panels.bytes());
                }
            }
        }
    }

    #[test]
    fn a_wrong_size_is_an_error() {
        let refused = |shape, bytes| {
            let blocks = Blocks { kind: BlockType::Q8_0, shape, bytes: vec![0; bytes] };
            QuantisedPanels::new(&blocks).is_err()
        };
        assert!(refused([1, 32], 33) && refused([1, 33], 34) && !refused([1, 32], 34));
    }
}
