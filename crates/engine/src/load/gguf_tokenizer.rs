//! The tokenizer of a GGUF file, from its metadata.
//!
//! A file has the tokens, their types, and either merges or scores. What a `tokenizer.json` says besides, how
//! text is split before merging and which tokens stand for themselves in a text, llama.cpp knows by name. This
//! module turns both into a `tokenizer.json` and a `tokenizer_config.json`, so that nothing that reads these
//! files has to know where they came from. The rules are those of `llama-vocab.cpp` and `unicode.cpp` in
//! llama.cpp.

mod added;
mod byte_level;
mod config;
mod end_tokens;
mod json;
mod merges;
mod metadata;
mod pre_tokenizer;
mod sentence_piece;
mod special;
mod tokens;

pub(super) use self::end_tokens::end_tokens;
use self::json::TokenizerJson;
use self::metadata::Metadata;
use self::special::Special;
use self::tokens::Tokens;
use super::error::LoadError;
use super::gguf::Gguf;

/// The files that describe a tokenizer.
pub(super) struct TokenizerFiles {
    /// The content of `tokenizer.json`.
    pub(super) json: Vec<u8>,
    /// The content of `tokenizer_config.json`.
    pub(super) config: Vec<u8>,
    /// The chat template, if it is not in `config`.
    pub(super) chat_template: String,
}

/// Writes the files that describe the tokenizer of `file`.
///
/// # Errors
/// If the metadata has no tokenizer, or one that is not valid or not supported.
pub(super) fn tokenizer_files(file: &Gguf) -> Result<TokenizerFiles, LoadError> {
    let metadata = Metadata::of(file);
    let model = metadata.text("ggml.model")?.ok_or_else(|| metadata.missing("ggml.model"))?;
    let (pipeline, special, tokens);
    match model {
        "gpt2" => {
            let kind = byte_level::pre_tokenizer(&metadata)?;
            tokens = Tokens::read(&metadata)?;
            special = Special::read(&metadata, &tokens, &byte_level::defaults(&kind))?;
            pipeline = byte_level::pipeline(&metadata, &tokens, &kind)?;
        }
        "llama" => {
            tokens = Tokens::read(&metadata)?;
            special = Special::read(&metadata, &tokens, &sentence_piece::DEFAULTS)?;
            pipeline = sentence_piece::pipeline(&metadata, &tokens, special.unknown)?;
        }
        other => {
            return Err(metadata.refuse(format!(
                "tokenizer.ggml.model is {other:?}, and only \"gpt2\" and \"llama\" are supported"
            )));
        }
    }
    let json = TokenizerJson {
        version: "1.0",
        added_tokens: added::added_tokens(&tokens, &metadata.model_name()),
        post_processor: special.post_processor(),
        pipeline,
    };
    Ok(TokenizerFiles {
        json: json.bytes(&metadata)?,
        config: config::config(&metadata, &special)?,
        chat_template: String::new(),
    })
}
