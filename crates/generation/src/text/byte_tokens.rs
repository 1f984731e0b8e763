//! Tokens that are bytes instead of characters, and whether the bytes at the end of a text are characters yet.

use tokenizers::{DecoderWrapper, Tokenizer};

/// How the decoder of a tokenizer makes text of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteDecoding {
    /// Every token is text.
    Absent,
    /// Every token is bytes, written in the alphabet of GPT-2. Of bytes that are not UTF-8, each invalid sequence becomes one U+FFFD.
    ByteLevel,
    /// The tokens `<0x00>` to `<0xFF>` are bytes, as in SentencePiece. A run of them is the characters that it encodes, or, if it is
    /// not UTF-8 as a whole, one U+FFFD for each byte.
    Fallback,
}

impl ByteDecoding {
    /// What the decoder of `tokenizer` does.
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        tokenizer.get_decoder().map_or(Self::Absent, Self::of_decoder)
    }

    fn of_decoder(decoder: &DecoderWrapper) -> Self {
        match decoder {
            DecoderWrapper::ByteLevel(_) => Self::ByteLevel,
            DecoderWrapper::ByteFallback(_) => Self::Fallback,
            DecoderWrapper::Sequence(sequence) => {
                let parts = sequence.get_decoders().iter().map(Self::of_decoder);
                parts.into_iter().find(|part| *part != Self::Absent).unwrap_or(Self::Absent)
            }
            _ => Self::Absent,
        }
    }

    /// The bytes that `token` stands for; `None` if it stands for text.
    pub(super) fn bytes(self, token: &str) -> Option<Vec<u8>> {
        match self {
            Self::Absent => None,
            // An added token may have characters outside the alphabet, and then is not written in it.
            Self::ByteLevel => Some(
                token.chars().map(byte_level_byte).collect::<Option<_>>().unwrap_or_else(|| token.into()),
            ),
            Self::Fallback => {
                let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
                let byte = u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2)?;
                Some(vec![byte])
            }
        }
    }
}

/// The byte that `c` stands for in the alphabet of GPT-2: printable characters of Latin-1 stand for themselves, and the bytes that are
/// left over are counted from U+0100 on.
fn byte_level_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Bytes at the end that may be the beginning of a character.
pub(super) fn incomplete_bytes(mut bytes: &[u8]) -> usize {
    while let Err(error) = std::str::from_utf8(bytes) {
        let rest = &bytes[error.valid_up_to()..];
        match error.error_len() {
            Some(invalid) => bytes = &rest[invalid..],
            None => return rest.len(),
        }
    }
    0
}

/// Where the first bytes begin that no further bytes can make a character of.
pub(super) fn invalid_from(bytes: &[u8]) -> Option<usize> {
    let error = std::str::from_utf8(bytes).err()?;
    error.error_len().map(|_| error.valid_up_to())
}

/// Where the last character of `bytes` begins.
pub(super) fn last_character(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| !is_continuation(byte)).unwrap_or(0)
}

/// Whether a character of UTF-8 never begins with `byte` because it continues one.
pub(super) fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_the_library() {
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        use tokenizers::{NormalizedString, Normalizer};
        let alphabet = ByteLevel::alphabet();
        let mut bytes: Vec<u8> = alphabet.iter().filter_map(|&c| byte_level_byte(c)).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        // Every byte that occurs in UTF-8, as the library writes it.
        let text: String = (1..0x800).chain([0xFFFD, 0x1F600, 0x10FFFF]).filter_map(char::from_u32).collect();
        let mut written = NormalizedString::from(text.as_str());
        tokenizers::normalizers::byte_level::ByteLevel::new().normalize(&mut written).unwrap();
        assert_eq!(ByteDecoding::ByteLevel.bytes(written.get()).unwrap(), text.as_bytes());
    }

    #[test]
    fn only_two_hexadecimal_digits_are_a_byte() {
        let bytes = |token| ByteDecoding::Fallback.bytes(token);
        assert_eq!(bytes("<0xF0>"), Some(vec![0xF0]));
        assert_eq!(bytes("<0x0a>"), Some(vec![0x0A]));
        for token in ["<0x>", "<0xF>", "<0xF00>", "<0xFG>", "<0xé>", "0xF0", "▁<0xF0>", ""] {
            assert_eq!(bytes(token), None, "{token}");
        }
    }

    #[test]
    fn incomplete_and_invalid_bytes_are_told_apart() {
        for (bytes, incomplete, invalid) in [
            (&b""[..], 0, None),
            (b"ok", 0, None),
            (b"a\xF0\x9F\x98", 3, None),
            (b"\xF0\x9F\x98\x80\xF0", 1, None),
            (b"\x80", 0, Some(0)),
            (b"a\xC3A", 0, Some(1)),
            (b"a\xC3\xC3", 1, Some(1)),
            (b"\xF0\x9F\xFF", 0, Some(0)),
            (b"\xED\xA0", 0, Some(0)),
        ] {
            assert_eq!(incomplete_bytes(bytes), incomplete, "{bytes:x?}");
            assert_eq!(invalid_from(bytes), invalid, "{bytes:x?}");
        }
        assert_eq!(last_character("aé😀".as_bytes()), 3);
    }
}
