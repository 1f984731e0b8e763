//! The tokens at which an answer ends, according to a tokenizer.

use tandem_decoding::TokenId;
use tokenizers::Tokenizer;

/// Texts of special tokens that end a text, a turn or a message in the formats of published models. They are
/// among those that llama.cpp treats as the end of a generation (`llama-vocab.cpp`).
const END_TEXTS: [&str; 14] = [
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
];

/// The end token with the text `eos`, if there is one, and all special tokens whose text is known to end a turn,
/// in ascending order.
pub(super) fn end_tokens(tokenizer: &Tokenizer, eos: Option<&str>) -> Vec<TokenId> {
    let added = tokenizer.get_added_tokens_decoder();
    let known = added
        .iter()
        .filter(|(_, token)| token.special && END_TEXTS.contains(&token.content.as_str()))
        .map(|(id, _)| *id);
    let mut ids: Vec<u32> = known.chain(eos.and_then(|text| tokenizer.token_to_id(text))).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(TokenId).collect()
}
