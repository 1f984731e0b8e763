//! The special tokens that `tokenizer_config.json` states.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// The part of `tokenizer_config.json` that concerns tokens.
#[derive(Default, Deserialize)]
pub(super) struct TokenizerConfig {
    /// By their ids, which are numbers as text.
    #[serde(default, deserialize_with = "or_default")]
    added_tokens_decoder: BTreeMap<u32, Stated>,
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    unk_token: Option<Named>,
    sep_token: Option<Named>,
    pad_token: Option<Named>,
    cls_token: Option<Named>,
    mask_token: Option<Named>,
    #[serde(default, deserialize_with = "or_default")]
    additional_special_tokens: Vec<Named>,
    /// What newer versions of transformers write instead of `additional_special_tokens`.
    extra_special_tokens: Option<Extra>,
}

/// A token that is recognised in a text before the text is split, as `tokenizer.json` states it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

/// The same in `tokenizer_config.json`, where all but the content may be absent.
#[derive(Clone, Deserialize)]
struct Stated {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

/// A list, or tokens by the names that a family of models gives them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Extra {
    List(Vec<Named>),
    ByName(BTreeMap<String, Named>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Token(Stated),
}

impl TokenizerConfig {
    /// The text of the token that ends a sequence.
    pub(super) fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_ref().map(Named::content)
    }

    /// The ids that `added_tokens_decoder` gives to tokens.
    pub(super) fn ids(&self) -> impl Iterator<Item = (u32, &str)> {
        self.added_tokens_decoder.iter().map(|(id, token)| (*id, token.content.as_str()))
    }

    /// Changes the added tokens of a `tokenizer.json` as transformers does when it loads the two files:
    /// `added_tokens_decoder` says how a token is recognised, and tokens with a name are special. Whether a
    /// token is new to the tokenizer's vocabulary, and which id it has then, is decided by the tokenizer.
    pub(super) fn apply(&self, tokens: &mut Vec<AddedToken>) {
        for (&id, stated) in &self.added_tokens_decoder {
            let named = self.named().any(|token| token.content() == stated.content);
            let token = stated.as_added(id, named);
            match tokens.iter_mut().find(|known| known.content == token.content) {
                // A token that was special stays special: transformers skips it in answers.
                Some(known) => {
                    *known = AddedToken { id: known.id, special: known.special || token.special, ..token }
                }
                None => tokens.push(token),
            }
        }
        for named in self.named() {
            match tokens.iter_mut().find(|known| known.content == named.content()) {
                Some(known) => known.special = true,
                None => {
                    let next = tokens.iter().map(|token| token.id.saturating_add(1)).max().unwrap_or(0);
                    tokens.push(named.as_added(next));
                }
            }
        }
        tokens.retain(|token| !token.content.is_empty());
    }

    /// The tokens with a name, in the order in which transformers adds them.
    fn named(&self) -> impl Iterator<Item = &Named> {
        let single = [
            &self.bos_token,
            &self.eos_token,
            &self.unk_token,
            &self.sep_token,
            &self.pad_token,
            &self.cls_token,
            &self.mask_token,
        ];
        let extra: Vec<&Named> = match &self.extra_special_tokens {
            None => Vec::new(),
            Some(Extra::List(tokens)) => tokens.iter().collect(),
            Some(Extra::ByName(tokens)) => tokens.values().collect(),
        };
        single.into_iter().flatten().chain(&self.additional_special_tokens).chain(extra)
    }
}

impl Stated {
    fn as_added(&self, id: u32, named: bool) -> AddedToken {
        let special = self.special || named;
        AddedToken {
            id,
            content: self.content.clone(),
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized.unwrap_or(!special),
            special,
        }
    }
}

impl Named {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Token(Stated { content, .. }) => content,
        }
    }

    fn as_added(&self, id: u32) -> AddedToken {
        match self {
            Self::Token(stated) => stated.as_added(id, true),
            Self::Text(content) => AddedToken {
                id,
                content: content.clone(),
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
                special: true,
            },
        }
    }
}

/// Null is as if the field were absent.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
