//! The types of blocks, and what their codes mean.

use candle_core::quantized::GgmlDType;

/// Weights of the largest block.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_number_of_its_own() {
        for kind in BlockType::ALL {
            assert_eq!(BlockType::from_id(kind.id()), Some(kind));
        }
        assert_eq!(BlockType::from_id(0), None);
    }
}
