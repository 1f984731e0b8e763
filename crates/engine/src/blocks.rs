//! Quantised weights as GGUF files store them: in blocks.

mod block_type;
mod unpacked;

use half::f16;

pub(crate) use block_type::{BlockType, CHUNK, Format, IQ4_VALUES, Scales};
pub(crate) use unpacked::Unpacked;

/// A quantised matrix, `[rows, columns]`, as a file stores it: row by row, each in whole blocks.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) kind: BlockType,
    pub(crate) shape: [usize; 2],
    pub(crate) bytes: Vec<u8>,
}

impl Blocks {
    /// Bytes of a row of `columns` weights; `None` if it is not a number of whole blocks.
    pub(crate) fn row_bytes(kind: BlockType, columns: usize) -> Option<usize> {
        let whole = columns.is_multiple_of(kind.weights());
        whole.then(|| columns / kind.weights() * kind.bytes())
    }

    /// The weights as f32, row by row.
    pub(crate) fn widened(&self) -> Vec<f32> {
        let (kind, format) = (self.kind, self.kind.format());
        let [rows, columns] = self.shape;
        let mut weights = Vec::with_capacity(rows * columns);
        let mut unpacked = Unpacked::new();
        let blocks = CHUNK / kind.weights();
        for row in self.bytes.chunks_exact((columns / kind.weights() * kind.bytes()).max(1)) {
            for chunk in row.chunks(blocks * kind.bytes()) {
                unpacked.read(kind, chunk);
                let count = chunk.len() / kind.bytes() * kind.weights();
                for (i, &code) in unpacked.codes[..count].iter().enumerate() {
                    let (scale, minimum) = unpacked.scale_and_minimum(format, i / format.group);
                    let code = if format.indices { IQ4_VALUES[usize::from(code)] } else { code };
                    weights.push((i32::from(code) - format.zero) as f32 * scale + minimum);
                }
            }
        }
        weights
    }
}

impl Unpacked {
    /// Scale and minimum of a group.
    fn scale_and_minimum(&self, format: Format, group: usize) -> (f32, f32) {
        let half = |bits: u16| f16::from_bits(bits).to_f32();
        if format.scales == Scales::Half {
            let block = group * format.group / 32;
            return (half(self.scale[block]), half(self.minimum[block]));
        }
        let scale = half(self.scale[0]) * f32::from(self.group_scales[group]);
        (scale, -(half(self.minimum[0]) * f32::from(self.group_minimums[group])))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn weights_are_those_that_candle_reads() {
        for kind in BlockType::ALL {
            let Some(dtype) = kind.candle() else { continue };
            assert_eq!((kind.weights(), kind.bytes()), (dtype.block_size(), dtype.type_size()));
            let shape = [7, 768];
            let weight = Tensor::randn(0f32, 0.1, (7, 768), &Device::Cpu).unwrap();
            let quantised = QTensor::quantize(&weight, dtype).unwrap();
            let theirs = quantised.dequantize(&Device::Cpu).unwrap();
            let blocks = Blocks { kind, shape, bytes: quantised.data().unwrap().into_owned() };
            let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
            for (ours, theirs) in blocks.widened().iter().zip(&theirs) {
                assert!((ours - theirs).abs() <= 1e-7, "{kind:?}: {ours}, not {theirs}");
            }
        }
    }

    /// Written by `tests/blocks/make.py`.
    #[test]
    fn weights_are_those_that_llama_cpp_reads() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blocks/expected.json");
        let cases: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for kind in BlockType::ALL {
            let case = &cases[format!("{kind:?}")];
            let hex = case["blocks"].as_str().unwrap();
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let bytes = (0..hex.len()).step_by(2).map(byte).collect();
            let ours = Blocks { kind, shape: [1, CHUNK], bytes }.widened();
            let theirs = case["weights"].as_array().unwrap();
            assert_eq!(ours.len(), theirs.len());
            for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                let off = (f64::from(*ours) - theirs.as_f64().unwrap()).abs();
                assert!(off < 1e-6, "{kind:?}, weight {i}: {ours}, not {theirs}");
            }
        }
    }
}
