//! The tokens at which an answer ends, according to a tokenizer.

use tandem_decoding::TokenId;
use tokenizers::Tokenizer;

use crate::load::end_texts::END_TEXTS;

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
