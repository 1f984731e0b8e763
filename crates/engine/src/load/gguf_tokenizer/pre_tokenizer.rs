//! How a text is split before its pieces are merged.
//!
//! A file names its way to split, and llama.cpp has the regular expressions to the names. Each expression splits
//! the pieces that the one before left: what it matches is a piece, and so is what lies between.

/// A way to split a text, and what llama.cpp knows besides of the tokenizers that have it.
pub(super) struct PreTokenizer {
    /// Regular expressions, the first to apply first.
    pub(super) patterns: &'static [&'static str],
    /// Whether a piece that is a token is not merged from its characters.
    pub(super) ignore_merges: bool,
    /// Whether texts begin with the beginning-of-sequence token if the file does not state it.
    pub(super) adds_bos: bool,
}

/// The pieces of GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The pieces of Llama 3: numbers of up to three digits.
const LLAMA3: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// The pieces of Qwen 2: single digits.
const QWEN2: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// The pieces of Qwen 3.5: accents belong to letters.
const QWEN35: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// The pieces of Seed-Coder: line breaks do not belong to the punctuation before them.
const SEED_CODER: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// The pieces of Tekken: a word also ends where capital letters follow small ones. This is the expression that
/// the tokenizer was trained with. llama.cpp has a simpler one, which takes every letter but a to z as a capital
/// and every letter but A to Z as a small one, and an accent of its own as no part of a word.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Words of the alphabets with capital letters that DeepSeek LLM takes as such: Latin, Greek, Cyrillic and more.
const DEEPSEEK_WORDS: &str = concat!(
    r"\s?[",
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫ",
    "ᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭ",
    "ℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟",
    "𞤀-𞥃",
    "]+",
);
/// Words in Chinese, Japanese and Korean, as the first models of DeepSeek take them.
const CJK: &str = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+";

const SINGLE_DIGITS: &[&str] = &[r"\p{N}", GPT2];
const DEEPSEEK_LLM: &[&str] = &[
    r"[\r\n]",
    DEEPSEEK_WORDS,
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
    r"\s+$",
    CJK,
    r"\p{N}+",
];
const DEEPSEEK_CODER: &[&str] = &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"];
const DEEPSEEK_V3: &[&str] = &[
    r"\p{N}{1,3}",
    r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];
const FALCON: &[&str] = &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"];
const DEFAULT: &[&str] = &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// The way to split that has the name `name` in `tokenizer.ggml.pre`.
pub(super) fn pre_tokenizer(name: &str) -> Option<PreTokenizer> {
    let patterns: &[&str] = match name {
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "dbrx" | "smaug-bpe" => &[LLAMA3],
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
        | "solar-open" | "grok-2" => &[QWEN2],
        "qwen35" => &[QWEN35],
        "seed-coder" => &[SEED_CODER],
        "tekken" => &[TEKKEN],
        "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "exaone4" | "mpt" | "olmo" | "jais"
        | "trillion" | "granite-docling" => &[GPT2],
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => SINGLE_DIGITS,
        "deepseek-llm" => DEEPSEEK_LLM,
        "deepseek-coder" => DEEPSEEK_CODER,
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => DEEPSEEK_V3,
        "falcon" => FALCON,
        "default" => DEFAULT,
        _ => return None,
    };
    let like_llama3 = patterns == [LLAMA3] && !matches!(name, "dbrx" | "smaug-bpe");
    let whole = like_llama3 || name == "tekken";
    Some(PreTokenizer { patterns, ignore_merges: whole, adds_bos: whole })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};
    use tokenizers::{PreTokenizerWrapper, pre_tokenizers::split::Split};

    use super::*;

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        for pattern in pre_tokenizer(name).unwrap().patterns {
            let split = json!({
                "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false
            });
            let split: Split = serde_json::from_value(split).unwrap();
            PreTokenizerWrapper::Split(split).pre_tokenize(&mut pieces).unwrap();
        }
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(piece, ..)| piece.to_owned()).collect()
    }

    /// What sets them apart: digits, signs, line breaks, accents and capital letters. Expected are the pieces of
    /// llama.cpp, but for the accent in Tekken.
    #[test]
    fn a_text_is_split_as_the_name_says() {
        let text = "I'LL x=12345;\n\n e\u{301}aB 中";
        let cases: [(&str, &[&str]); 11] = [
            ("llama-bpe", &["I", "'LL", " x", "=", "123", "45", ";\n\n", " e", "\u{301}aB", " 中"]),
            ("qwen2", &["I", "'LL", " x", "=", "1", "2", "3", "4", "5", ";\n\n", " e", "\u{301}aB", " 中"]),
            ("qwen35", &["I", "'LL", " x", "=", "1", "2", "3", "4", "5", ";\n\n", " e\u{301}aB", " 中"]),
            (
                "seed-coder",
                &["I", "'LL", " x", "=", "1", "2", "3", "4", "5", ";", "\n\n", " e", "\u{301}aB", " 中"],
            ),
            ("tekken", &["I", "'LL", " x", "=", "1", "2", "3", "4", "5", ";\n\n", " e\u{301}a", "B", " 中"]),
            ("gpt-2", &["I", "'", "LL", " x", "=", "12345", ";", "\n\n", " e", "\u{301}", "aB", " 中"]),
            (
                "smollm",
                &[
                    "I", "'", "LL", " x", "=", "1", "2", "3", "4", "5", ";", "\n\n", " e", "\u{301}", "aB",
                    " 中",
                ],
            ),
            (
                "deepseek-llm",
                &["I", "'", "LL", " x", "=", "12345", ";", "\n", "\n", " e", "\u{301}", "aB", " ", "中"],
            ),
            (
                "deepseek-coder",
                &[
                    "I", "'", "LL", " x", "=", "1", "2", "3", "4", "5", ";", "\n", "\n", " e", "\u{301}",
                    "aB", " ", "中",
                ],
            ),
            ("deepseek-v3", &["I", "'LL", " x", "=", "123", "45", ";\n\n", " e\u{301}aB", " ", "中"]),
            ("falcon", &["I", "'", "LL", " x", "=", "123", "45", ";", "\n\n", " e", "\u{301}", "aB", " 中"]),
        ];
        for (name, expected) in cases {
            assert_eq!(pieces(name, text), expected, "{name}");
        }
    }
}
