//! `llama`: the pairs of SentencePiece, of which the one with the highest score is merged first.

use serde_json::{Value, json};

use super::json::{Bpe, BpeType, Pipeline};
use super::metadata::Metadata;
use super::special::Defaults;
use super::tokens::Tokens;
use crate::load::error::LoadError;

/// What applies if a file does not state it.
pub(super) const DEFAULTS: Defaults =
    Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), adds_bos: true };

/// How a space is written in a token.
const SPACE: &str = "\u{2581}";
/// Bytes of a token, at most: a token of n characters may have n - 1 merges.
const MAX_TOKEN_BYTES: usize = 1024;
/// Bytes of all merges, at most. The known vocabularies have a tenth.
const MAX_MERGE_BYTES: usize = 64 << 20;

/// How texts are tokenized and tokens decoded.
pub(super) fn pipeline<'a>(
    metadata: &Metadata<'_>,
    tokens: &'a Tokens<'a>,
    unknown: Option<&'a str>,
) -> Result<Pipeline<'a>, LoadError> {
    let scores = metadata.scores("ggml.scores")?.ok_or_else(|| metadata.missing("ggml.scores"))?;
    metadata.check_length("ggml.scores", scores.len(), tokens.len())?;
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
            merges: merges(metadata, tokens, &scores)?,
        },
    })
}

/// Two tokens that together are a third one.
struct Merge<'a> {
    score: f32,
    left: &'a str,
    right: &'a str,
}

/// Every pair of tokens that together are a token, the one with the highest score first.
///
/// llama.cpp merges the leftmost of the pairs with the highest score. Pairs in a list cannot be equal, so among
/// those of one score the one with the longest left side is first: it is the leftmost one where a run of one
/// character is merged from the left, and runs are what has equal scores in the known vocabularies.
fn merges<'a>(
    metadata: &Metadata<'_>,
    tokens: &'a Tokens<'_>,
    scores: &[f32],
) -> Result<Vec<(&'a str, &'a str)>, LoadError> {
    let mut merges = Vec::new();
    let mut bytes = 0;
    for ((id, token), &score) in tokens.iter().zip(scores) {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(metadata.refuse(format!(
                "token {id} has {} bytes, and {MAX_TOKEN_BYTES} are supported",
                token.len()
            )));
        }
        for (left, right) in splits(token).filter(|(left, right)| tokens.has(left) && tokens.has(right)) {
            bytes += token.len();
            merges.push(Merge { score, left, right });
        }
        if bytes > MAX_MERGE_BYTES {
            return Err(metadata
                .refuse(format!("its tokens can be merged from others in more than {} ways", merges.len())));
        }
    }
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.left.len().cmp(&a.left.len())));
    Ok(merges.into_iter().map(|merge| (merge.left, merge.right)).collect())
}

/// A text in two parts, in every way.
fn splits(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).filter_map(|(at, _)| text.split_at_checked(at))
}
