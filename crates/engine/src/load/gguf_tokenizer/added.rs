//! The tokens that are found in a text before the rest of it is split.

use serde::Serialize;

use super::tokens::{TokenType, Tokens};

/// An entry of `added_tokens` in `tokenizer.json`.
#[derive(Serialize)]
pub(super) struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    /// Whether white space after the token belongs to it.
    rstrip: bool,
    normalized: bool,
    /// Whether the token is left out of decoded texts.
    special: bool,
}

/// Texts of the special tokens of Phi-3 after which white space remains.
const PHI3_KEEPS_SPACE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// The control tokens, the unknown one, and the user-defined ones. `model` is the name of the model in lower
/// case: a file does not state after which tokens white space is removed, and llama.cpp knows that by name.
pub(super) fn added_tokens<'a>(tokens: &'a Tokens<'_>, model: &str) -> Vec<AddedToken<'a>> {
    let phi3 = model.contains("phi-3") || model.contains("phi3");
    let added = tokens.typed().filter_map(|(id, content, kind)| {
        let special = match kind {
            TokenType::Control | TokenType::Unknown => true,
            TokenType::UserDefined => false,
            TokenType::Normal | TokenType::Byte => return None,
        };
        let rstrip = phi3 && !PHI3_KEEPS_SPACE.contains(&content);
        Some(AddedToken {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip,
            normalized: false,
            special,
        })
    });
    added.collect()
}
