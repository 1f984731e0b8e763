//! The format of `tokenizer.json`.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::added::AddedToken;
use super::metadata::Metadata;
use super::tokens::Tokens;
use crate::load::error::LoadError;

/// A `tokenizer.json`.
#[derive(Serialize)]
pub(super) struct TokenizerJson<'a> {
    pub(super) version: &'static str,
    pub(super) added_tokens: Vec<AddedToken<'a>>,
    pub(super) post_processor: Value,
    #[serde(flatten)]
    pub(super) pipeline: Pipeline<'a>,
}

/// How a text becomes tokens and tokens become a text.
#[derive(Serialize)]
pub(super) struct Pipeline<'a> {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) decoder: Value,
    pub(super) model: Bpe<'a>,
}

/// A model that merges pairs of neighbours, the first pair in the list first.
#[derive(Serialize)]
pub(super) struct Bpe<'a> {
    #[serde(rename = "type")]
    pub(super) kind: BpeType,
    pub(super) unk_token: Option<&'a str>,
    /// Whether several unknown characters in sequence are one unknown token.
    pub(super) fuse_unk: bool,
    /// Whether the bytes of a character that is no token are tokens.
    pub(super) byte_fallback: bool,
    /// Whether a piece of text that is a token needs no merges.
    pub(super) ignore_merges: bool,
    #[serde(serialize_with = "ids_by_text")]
    pub(super) vocab: &'a Tokens<'a>,
    pub(super) merges: Vec<(&'a str, &'a str)>,
}

/// The only value of a tag.
#[derive(Serialize)]
pub(super) enum BpeType {
    #[serde(rename = "BPE")]
    Bpe,
}

impl TokenizerJson<'_> {
    pub(super) fn bytes(&self, metadata: &Metadata<'_>) -> Result<Vec<u8>, LoadError> {
        serde_json::to_vec(self).map_err(|error| metadata.refuse(error.to_string()))
    }
}

fn ids_by_text<S: Serializer>(tokens: &Tokens<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().map(|(id, text)| (text, id)))
}
