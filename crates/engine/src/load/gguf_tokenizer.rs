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
mod scores;
mod sentence_piece;
mod special;
mod tokens;

pub(super) use self::end_tokens::end_tokens;
use self::json::TokenizerJson;
use self::metadata::Metadata;
use self::pre_tokenizer::PreTokenizer;
use self::special::{Defaults, Special};
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
    let kind = Kind::read(&metadata)?;
    let tokens = Tokens::read(&metadata)?;
    let special = Special::read(&metadata, &tokens, &kind.defaults())?;
    let pipeline = match &kind {
        Kind::ByteLevel(pre_tokenizer) => byte_level::pipeline(&metadata, &tokens, pre_tokenizer)?,
        Kind::SentencePiece => sentence_piece::pipeline(&metadata, &tokens, special.unknown)?,
    };
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

/// The kinds of tokenizers.
enum Kind {
    /// `gpt2`, with the way it splits texts.
    ByteLevel(PreTokenizer),
    /// `llama`.
    SentencePiece,
}

impl Kind {
    fn read(metadata: &Metadata<'_>) -> Result<Self, LoadError> {
        let model = metadata.text("ggml.model")?.ok_or_else(|| metadata.missing("ggml.model"))?;
        match model {
            "gpt2" => Ok(Self::ByteLevel(byte_level::pre_tokenizer(metadata)?)),
            "llama" => Ok(Self::SentencePiece),
            other => Err(metadata.refuse(format!(
                "tokenizer.ggml.model is {other:?}, and only \"gpt2\" and \"llama\" are supported"
            ))),
        }
    }

    fn defaults(&self) -> Defaults {
        match self {
            Self::ByteLevel(pre_tokenizer) => byte_level::defaults(pre_tokenizer),
            Self::SentencePiece => sentence_piece::DEFAULTS,
        }
    }
}
