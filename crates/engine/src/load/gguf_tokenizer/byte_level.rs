//! `gpt2`: merges of pairs of bytes, which are written as printable characters.

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{NormalizedString, Normalizer};

use super::json::{Bpe, BpeType, Pipeline};
use super::merges::listed_merges;
use super::metadata::Metadata;
use super::pre_tokenizer::{self, PreTokenizer};
use super::special::Defaults;
use super::tokens::{TokenType, Tokens};
use crate::load::error::LoadError;

/// Tokens that need an exception in the decoder, at most. Vocabularies are known that have 13.
const MAX_EXCEPTIONS: usize = 64;

/// The way to split texts that the file names.
pub(super) fn pre_tokenizer(metadata: &Metadata<'_>) -> Result<PreTokenizer, LoadError> {
    let name = metadata.text("ggml.pre")?.ok_or_else(|| {
        metadata.refuse("tokenizer.ggml.pre is missing, so how texts are split is not known")
    })?;
    pre_tokenizer::pre_tokenizer(name).ok_or_else(|| {
        metadata.refuse(format!("tokenizer.ggml.pre is {name:?}, a way to split texts that is not known"))
    })
}

/// What applies to tokenizers that split texts by `pre_tokenizer`, if a file does not state it.
pub(super) fn defaults(pre_tokenizer: &PreTokenizer) -> Defaults {
    Defaults { bos: None, eos: None, unknown: None, adds_bos: pre_tokenizer.adds_bos }
}

/// How texts are tokenized and tokens decoded.
pub(super) fn pipeline<'a>(
    metadata: &Metadata<'a>,
    tokens: &'a Tokens<'a>,
    pre_tokenizer: &PreTokenizer,
) -> Result<Pipeline<'a>, LoadError> {
    let split = |pattern: &&str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    });
    let pre_tokenizers: Vec<Value> =
        pre_tokenizer.patterns.iter().map(split).chain([bytes.clone()]).collect();
    let mut decoders = exceptions(metadata, tokens)?;
    decoders.push(bytes);
    Ok(Pipeline {
        normalizer: Value::Null,
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": pre_tokenizers }),
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        model: Bpe {
            kind: BpeType::Bpe,
            unk_token: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: pre_tokenizer.ignore_merges,
            vocab: tokens,
            merges: listed_merges(metadata, tokens)?,
        },
    })
}

/// Decoders of the user-defined tokens that stand for themselves, but look as if they were written in bytes.
/// DeepSeek has the token "ü", for instance, and ü is also how the byte FC is written.
fn exceptions(metadata: &Metadata<'_>, tokens: &Tokens<'_>) -> Result<Vec<Value>, LoadError> {
    let alphabet = ByteLevel::alphabet();
    let mut decoders = Vec::new();
    for (_, text, kind) in tokens.typed() {
        let own = kind == TokenType::UserDefined && !text.is_ascii();
        if !own || !text.chars().all(|c| alphabet.contains(&c)) {
            continue;
        }
        if decoders.len() == MAX_EXCEPTIONS {
            return Err(metadata.refuse(format!(
                "more than {MAX_EXCEPTIONS} of its tokens, {text:?} among them, may be texts or bytes"
            )));
        }
        let mut written = NormalizedString::from(text);
        let bytes = tokenizers::normalizers::byte_level::ByteLevel::new();
        bytes.normalize(&mut written).map_err(|error| metadata.refuse(error.to_string()))?;
        let whole: String = text.chars().map(|c| format!(r"\x{{{:X}}}", u32::from(c))).collect();
        decoders.push(json!({
            "type": "Replace", "pattern": { "Regex": format!(r"\A{whole}\z") }, "content": written.get()
        }));
    }
    Ok(decoders)
}
