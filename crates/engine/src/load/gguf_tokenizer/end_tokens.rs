//! The tokens at which a model ends its text.
//!
//! A GGUF file names one end-of-sequence token, and rarely the end of a turn. llama.cpp therefore ends a
//! generation at tokens of certain texts too, and so do we. The lists are those of `llama-vocab.cpp`, without
//! what only architectures have that are not supported.

use std::collections::HashSet;

use tandem_decoding::TokenId;

use crate::load::end_texts::END_TEXTS;
use crate::load::gguf::{Gguf, Value};

/// Keys of tokens that end a text.
const KEYS: [&str; 6] = [
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
];

/// A key, and the texts of which a vocabulary has one if its file does not have the key: padding, the name of
/// a repository and the end of a file, in models that fill in the middle of code.
const END_OF_CODE: [(&str, &[&str]); 3] = [
    ("fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep_token_id", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep_token_id", &["<|file_sep|>"]),
];

/// Texts of the tokens around the code to fill in.
const CODE: [&str; 24] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// The tokens of `file` that end a text, in ascending order: those that it names, and those of well-known
/// texts. A file whose tokenizer comes from elsewhere need not have any tokens.
pub(in crate::load) fn end_tokens(file: &Gguf) -> Vec<TokenId> {
    let named = KEYS.iter().filter_map(|key| id(file, key));
    let texts = match file.metadata("tokenizer.ggml.tokens") {
        Some(Value::Array(texts)) => texts.as_slice(),
        _ => &[],
    };
    let mut ends = HashSet::from(END_TEXTS);
    for (key, texts) in END_OF_CODE {
        if id(file, key).is_none() {
            ends.extend(texts);
        }
    }
    let ends = |text: &Value| text.as_str().is_some_and(|text| ends.contains(text));
    let known = (0u32..).zip(texts).filter(|(_, text)| ends(text)).map(|(id, _)| id);
    let mut tokens: Vec<TokenId> = named.chain(known).map(TokenId).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// Whether a token of this text is a control token, whatever type the file has for it.
pub(super) fn is_control(text: &str) -> bool {
    END_TEXTS.contains(&text)
        || CODE.contains(&text)
        || END_OF_CODE.iter().any(|(_, texts)| texts.contains(&text))
}

fn id(file: &Gguf, key: &str) -> Option<u32> {
    file.metadata(&format!("tokenizer.ggml.{key}"))?.as_integer()?.try_into().ok()
}
