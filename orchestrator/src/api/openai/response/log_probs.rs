//! OpenAI's two forms of log-probabilities.

use std::collections::BTreeMap;

use serde::Serialize;
use tandem_generation::Token;
use utoipa::ToSchema;

/// JSON has no infinities: OpenAI writes this for a token that is impossible.
const IMPOSSIBLE: f64 = -9999.0;

/// Log-probabilities of the tokens of a completion, natural log, under the target's softmax without temperature and filters.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct CompletionLogProbs {
    /// What each token adds to the text.
    tokens: Vec<String>,
    token_logprobs: Vec<f64>,
    /// For each token, the likeliest ones at its position and itself. Null if none were requested.
    top_logprobs: Option<Vec<BTreeMap<String, f64>>>,
    /// Where each token begins in the text, in characters.
    text_offset: Vec<usize>,
}

/// Log-probabilities of the tokens of a chat completion, natural log, under the target's softmax without temperature and filters.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct ChatLogProbs {
    content: Vec<ChatTokenLogProb>,
    /// Always null.
    refusal: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct ChatTokenLogProb {
    #[serde(flatten)]
    token: TokenLogProb,
    /// The likeliest tokens at its position, best first. Empty if none were requested.
    top_logprobs: Vec<TokenLogProb>,
}

#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct TokenLogProb {
    /// What it adds to the text.
    token: String,
    logprob: f64,
    /// The same as UTF-8.
    bytes: Vec<u8>,
}

impl CompletionLogProbs {
    /// Those of `tokens`, of which the first begins at `offset` in the text. Moves the offset to the end of the last.
    pub(super) fn new(tokens: &[Token], offset: &mut usize) -> Self {
        let mut text_offset = Vec::with_capacity(tokens.len());
        for token in tokens {
            text_offset.push(*offset);
            *offset += token.text.chars().count();
        }
        let has_top = tokens.iter().any(|token| !token.top.is_empty());
        Self {
            tokens: tokens.iter().map(|token| token.text.clone()).collect(),
            token_logprobs: tokens.iter().map(chosen).collect(),
            top_logprobs: has_top.then(|| tokens.iter().map(top_of).collect()),
            text_offset,
        }
    }
}

/// The likeliest tokens at the position of `token`, and itself, whether it is one of them or not.
fn top_of(token: &Token) -> BTreeMap<String, f64> {
    let mut top = BTreeMap::new();
    for other in &token.top {
        top.insert(other.text.clone(), finite(other.log_prob));
    }
    top.insert(token.text.clone(), chosen(token));
    top
}

impl ChatLogProbs {
    /// Those of `tokens`.
    pub(super) fn new(tokens: &[Token]) -> Self {
        let mut content = Vec::with_capacity(tokens.len());
        for token in tokens {
            let top = token.top.iter().map(|top| TokenLogProb::new(&top.text, finite(top.log_prob)));
            content.push(ChatTokenLogProb {
                token: TokenLogProb::new(&token.text, chosen(token)),
                top_logprobs: top.collect(),
            });
        }
        Self { content, refusal: None }
    }
}

impl TokenLogProb {
    fn new(text: &str, logprob: f64) -> Self {
        Self { token: text.to_owned(), logprob, bytes: text.as_bytes().to_vec() }
    }
}

/// The log-probability of a committed token.
fn chosen(token: &Token) -> f64 {
    finite(token.log_prob.unwrap_or(f64::NEG_INFINITY))
}

fn finite(log_prob: f64) -> f64 {
    if log_prob.is_finite() { log_prob } else { IMPOSSIBLE }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};
    use tandem_decoding::TokenId;
    use tandem_generation::TopToken;

    use super::*;

    fn token(text: &str, log_prob: f64, top: &[(&str, f64)]) -> Token {
        let top =
            top.iter().map(|&(text, log_prob)| TopToken { id: TokenId(0), text: text.into(), log_prob });
        Token {
            id: TokenId(1),
            text: text.into(),
            drafted: false,
            log_prob: Some(log_prob),
            top: top.collect(),
        }
    }

    #[test]
    fn completions_have_parallel_lists_and_offsets_in_characters() {
        let tokens = [
            token("é", -0.5, &[("a", -0.25)]),
            token("b", f64::NEG_INFINITY, &[("b", f64::NEG_INFINITY), ("c", -1.0)]),
        ];
        let mut offset = 3;
        let log_probs = CompletionLogProbs::new(&tokens, &mut offset);
        assert_eq!(offset, 5);
        let expected = json!({
            "tokens": ["é", "b"],
            "token_logprobs": [-0.5, -9999.0],
            "top_logprobs": [{ "a": -0.25, "é": -0.5 }, { "b": -9999.0, "c": -1.0 }],
            "text_offset": [3, 4],
        });
        assert_eq!(to_value(log_probs).unwrap(), expected);
        let plain = CompletionLogProbs::new(&[token("x", -1.0, &[])], &mut offset);
        assert_eq!(to_value(plain).unwrap()["top_logprobs"], json!(null));
    }

    #[test]
    fn chats_have_an_object_per_token() {
        let log_probs = ChatLogProbs::new(&[token("é", -0.5, &[("a", f64::NEG_INFINITY)])]);
        let expected = json!({
            "content": [{
                "token": "é", "logprob": -0.5, "bytes": [195, 169],
                "top_logprobs": [{ "token": "a", "logprob": -9999.0, "bytes": [97] }],
            }],
            "refusal": null,
        });
        assert_eq!(to_value(log_probs).unwrap(), expected);
    }
}
