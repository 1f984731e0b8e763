//! The types of tensors in a GGUF file.

use crate::blocks::BlockType;

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorType {
    F32,
    F16,
    BF16,
    Blocks(BlockType),
}

impl TensorType {
    /// The type with the number `id` in a file. The error names the type and lists those that are supported.
    pub(super) fn from_id(id: u32) -> Result<Self, String> {
        match id {
            0 => Ok(Self::F32),
            1 => Ok(Self::F16),
            30 => Ok(Self::BF16),
            _ => BlockType::from_id(id).map(Self::Blocks).ok_or_else(|| unsupported(id)),
        }
    }

    /// Bytes of a tensor whose rows have `columns` values; `None` if they are not whole blocks, or more than
    /// can be counted.
    pub(crate) fn bytes(self, values: usize, columns: usize) -> Option<usize> {
        match self {
            Self::F32 => values.checked_mul(4),
            Self::F16 | Self::BF16 => values.checked_mul(2),
            Self::Blocks(kind) => columns
                .is_multiple_of(kind.weights())
                .then(|| (values / kind.weights()).checked_mul(kind.bytes()))
                .flatten(),
        }
    }
}

fn unsupported(id: u32) -> String {
    let name = match ggml_name(id) {
        Some(name) => name.to_owned(),
        None => format!("number {id} of ggml"),
    };
    let blocks: Vec<_> = BlockType::ALL.iter().map(|kind| format!("{kind:?}")).collect();
    format!(
        "type {name}, which is not supported: use a file of the model whose tensors are of F32, F16, BF16, {}",
        blocks.join(", ")
    )
}

/// The names of the types that are not supported, from `ggml.h` of llama.cpp. Some of them have been removed
/// there, but old files still have them.
fn ggml_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        42 => "Q2_0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_ggml_is_supported_or_named() {
        for id in 0..43 {
            match TensorType::from_id(id) {
                Ok(_) => assert_eq!(ggml_name(id), None, "type {id} is supported, so it needs no name"),
                Err(what) => {
                    let name = ggml_name(id).unwrap_or_else(|| panic!("type {id} has no name"));
                    assert!(what.starts_with(&format!("type {name}, which is not supported")), "{what}");
                    assert!(
                        what.ends_with(
                            "BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS"
                        ),
                        "{what}"
                    );
                }
            }
        }
        let unknown = TensorType::from_id(99).unwrap_err();
        assert!(unknown.starts_with("type number 99 of ggml, which"), "{unknown}");
    }
}
