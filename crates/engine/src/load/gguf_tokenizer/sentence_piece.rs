//! `llama`: the pairs of SentencePiece, of which the one with the highest score is merged first.

use serde_json::{Value, json};

use super::json::{Bpe, BpeType, Pipeline};
use super::metadata::Metadata;
use super::scores::{Scored, merges_by_score};
use super::special::Defaults;
use super::tokens::{TokenType, Tokens};
use crate::load::error::LoadError;

/// What applies if a file does not state it.
pub(super) const DEFAULTS: Defaults =
    Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), adds_bos: true };

/// How a space is written in a token.
const SPACE: &str = "\u{2581}";

/// How texts are tokenized and tokens decoded.
pub(super) fn pipeline<'a>(
    metadata: &Metadata<'_>,
    tokens: &'a Tokens<'a>,
    unknown: Option<&'a str>,
) -> Result<Pipeline<'a>, LoadError> {
    let scores = metadata.scores("ggml.scores")?.ok_or_else(|| metadata.missing("ggml.scores"))?;
    metadata.check_length("ggml.scores", scores.len(), tokens.len())?;
    let scored = tokens.typed().zip(scores).map(|((_, text, kind), score)| Scored {
        text,
        score,
        only_merged: kind == TokenType::Normal,
    });
    let prefixed = metadata.flag("ggml.add_space_prefix")?.unwrap_or(true);
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let mut normalizers = vec![spaces];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefixed {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Pipeline {
        normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
        pre_tokenizer: Value::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        model: Bpe {
            kind: BpeType::Bpe,
            unk_token: unknown,
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: tokens,
            merges: merges_by_score(scored, |text| tokens.has(text)).map_err(|what| metadata.refuse(what))?,
        },
    })
}
