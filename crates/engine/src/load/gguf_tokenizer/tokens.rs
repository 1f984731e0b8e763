//! The tokens of a GGUF file.

use std::borrow::Cow;
use std::collections::HashMap;

use super::end_tokens::is_control;
use super::metadata::Metadata;
use crate::load::error::LoadError;

/// Tokens that a vocabulary may have: four times as many as the largest one known.
const MAX_TOKENS: usize = 1 << 20;

/// What a token is. The numbers are those of `llama_token_type` in llama.cpp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    /// 1, a piece of text. 5, an unused token, and 0, an undefined one, are tokenized alike.
    Normal,
    /// 2, the token for what no other token has.
    Unknown,
    /// 3, a token that controls the model and is no text.
    Control,
    /// 4, a text that is found before the rest is split.
    UserDefined,
    /// 6, a byte.
    Byte,
}

impl TokenType {
    fn from_number(number: i128) -> Option<Self> {
        match number {
            0 | 1 | 5 => Some(Self::Normal),
            2 => Some(Self::Unknown),
            3 => Some(Self::Control),
            4 => Some(Self::UserDefined),
            6 => Some(Self::Byte),
            _ => None,
        }
    }
}

/// A vocabulary: every token by its id and by its text.
pub(super) struct Tokens<'a> {
    texts: Vec<Cow<'a, str>>,
    types: Vec<TokenType>,
    ids: HashMap<Cow<'a, str>, u32>,
}

impl<'a> Tokens<'a> {
    pub(super) fn read(metadata: &Metadata<'a>) -> Result<Self, LoadError> {
        let texts = metadata.texts("ggml.tokens")?.ok_or_else(|| metadata.missing("ggml.tokens"))?;
        let count = texts.len();
        if count == 0 || count > MAX_TOKENS {
            return Err(
                metadata.refuse(format!("it has {count} tokens, and 1 to {MAX_TOKENS} are supported"))
            );
        }
        let texts: Vec<Cow<'a, str>> = texts.into_iter().enumerate().map(named).collect();
        let mut ids = HashMap::with_capacity(count);
        for (id, text) in (0u32..).zip(&texts) {
            if let Some(first) = ids.insert(text.clone(), id) {
                return Err(metadata.refuse(format!("tokens {first} and {id} are both {text:?}")));
            }
        }
        let types = types(metadata, &texts)?;
        Ok(Self { texts, types, ids })
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Every text with its id, in ascending order of ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0u32..).zip(self.texts.iter().map(Cow::as_ref))
    }

    /// Every token with its type, in ascending order of ids.
    pub(super) fn typed(&self) -> impl Iterator<Item = (u32, &str, TokenType)> {
        self.iter().zip(&self.types).map(|((id, text), &kind)| (id, text, kind))
    }

    pub(super) fn has(&self, text: &str) -> bool {
        self.ids.contains_key(text)
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).map(Cow::as_ref)
    }
}

/// A token needs a text, so llama.cpp gives an empty one the same name.
fn named<'a>((id, text): (usize, &'a str)) -> Cow<'a, str> {
    if text.is_empty() { Cow::Owned(format!("[EMPTY_{id}]")) } else { Cow::Borrowed(text) }
}

/// The types of all tokens; without a list of them, all are normal. Some texts belong to control tokens in
/// every vocabulary, and files are known that have another type for them.
fn types(metadata: &Metadata<'_>, texts: &[Cow<'_, str>]) -> Result<Vec<TokenType>, LoadError> {
    let numbers = match metadata.integers("ggml.token_type")? {
        Some(numbers) => numbers,
        None => vec![1; texts.len()],
    };
    metadata.check_length("ggml.token_type", numbers.len(), texts.len())?;
    let types = numbers.iter().zip(texts).enumerate().map(|(id, (&number, text))| {
        let stated = TokenType::from_number(number).ok_or_else(|| {
            metadata.refuse(format!("tokenizer.ggml.token_type[{id}] is {number}, and types are 0 to 6"))
        })?;
        Ok(if is_control(text) { TokenType::Control } else { stated })
    });
    types.collect()
}
