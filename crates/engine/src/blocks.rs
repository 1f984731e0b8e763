//! Quantised weights as GGUF files store them: in blocks.

mod unpacked;

use candle_core::quantized::GgmlDType;
use half::f16;

pub(crate) use unpacked::Unpacked;

/// Weights that [`Unpacked`] holds at most: the largest block.
pub(crate) const CHUNK: usize = 256;

/// The values of the codes of IQ4_NL and IQ4_XS, plus 128: they are not evenly spaced. From `kvalues_iq4nl` in
/// llama.cpp's `ggml-common.h`.
pub(crate) const IQ4_VALUES: [u8; 16] =
    [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// A type of blocks, named as in llama.cpp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(non_camel_case_types, missing_docs, reason = "the names of llama.cpp")]
pub(crate) enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

/// How the scales of groups are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// An f16 for every block of 32, and another one if there are minimums.
    Half,
    /// An f16 for every 256 weights, times an i8 for every group. Minimums: another f16, times a u8, negated.
    Super,
    /// As `Super`, but the two factors of a group share a byte: the scale has the low four bits.
    SuperNibbles,
}

/// What the codes of a type mean: `weight = scale · (code - zero)`, or `scale · code + minimum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub(crate) bits: usize,
    /// Weights that share a scale: 16 or 32.
    pub(crate) group: usize,
    pub(crate) scales: Scales,
    /// Subtracted from every code. 0 if there are minimums.
    pub(crate) zero: i32,
    /// Whether groups have a minimum.
    pub(crate) minimum: bool,
    /// Whether codes are indices of [`IQ4_VALUES`].
    pub(crate) indices: bool,
}

impl BlockType {
    pub(crate) const ALL: [Self; 12] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    /// The type with the number `id` in a file.
    pub(crate) fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    fn id(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::IQ4_NL => 20,
            Self::IQ4_XS => 23,
        }
    }

    /// Its name in lower case, such as `q4_k`.
    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Weights of a block.
    pub(crate) fn weights(self) -> usize {
        match self.format().scales {
            Scales::Half => 32,
            Scales::Super | Scales::SuperNibbles => CHUNK,
        }
    }

    /// Bytes of a block.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_XS => 136,
        }
    }

    /// The same type of candle, which has fewer.
    pub(crate) fn candle(self) -> Option<GgmlDType> {
        Some(match self {
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q2_K => GgmlDType::Q2K,
            Self::Q3_K => GgmlDType::Q3K,
            Self::Q4_K => GgmlDType::Q4K,
            Self::Q5_K => GgmlDType::Q5K,
            Self::Q6_K => GgmlDType::Q6K,
            Self::IQ4_NL | Self::IQ4_XS => return None,
        })
    }

    pub(crate) fn format(self) -> Format {
        use Scales::{Half, Super, SuperNibbles};
        let (bits, group, scales, zero, minimum) = match self {
            Self::Q8_0 => (8, 32, Half, 128, false),
            Self::Q4_0 => (4, 32, Half, 8, false),
            Self::Q4_1 => (4, 32, Half, 0, true),
            Self::Q5_0 => (5, 32, Half, 16, false),
            Self::Q5_1 => (5, 32, Half, 0, true),
            Self::Q2_K => (2, 16, SuperNibbles, 0, true),
            Self::Q3_K => (3, 16, Super, 4, false),
            Self::Q4_K => (4, 32, Super, 0, true),
            Self::Q5_K => (5, 32, Super, 0, true),
            Self::Q6_K => (6, 16, Super, 32, false),
            Self::IQ4_NL => (4, 32, Half, 128, false),
            Self::IQ4_XS => (4, 32, Super, 128, false),
        };
        let indices = matches!(self, Self::IQ4_NL | Self::IQ4_XS);
        Format { bits, group, scales, zero, minimum, indices }
    }
}

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

    #[test]
    fn every_type_has_a_number_of_its_own() {
        for kind in BlockType::ALL {
            assert_eq!(BlockType::from_id(kind.id()), Some(kind));
        }
        assert_eq!(BlockType::from_id(0), None);
    }
}
