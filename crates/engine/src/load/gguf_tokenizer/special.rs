//! The tokens that have a role: those that begin and end a text, pad it, and stand for what is unknown.

use serde_json::{Value, json};

use super::metadata::Metadata;
use super::tokens::Tokens;
use crate::load::error::LoadError;

/// What applies if a file does not state it.
pub(super) struct Defaults {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) adds_bos: bool,
}

/// The tokens of a vocabulary that have a role.
pub(super) struct Special<'a> {
    pub(super) bos: Option<&'a str>,
    pub(super) eos: Option<&'a str>,
    pub(super) unknown: Option<&'a str>,
    pub(super) padding: Option<&'a str>,
    /// Set if texts begin with it.
    before: Option<Added<'a>>,
    /// Set if texts end with it.
    after: Option<Added<'a>>,
}

/// A token that is added to every text.
struct Added<'a> {
    id: u32,
    text: &'a str,
}

impl<'a> Special<'a> {
    pub(super) fn read(
        metadata: &Metadata<'_>,
        tokens: &'a Tokens<'_>,
        defaults: &Defaults,
    ) -> Result<Self, LoadError> {
        let id = |key: &str, default: Option<u32>| {
            let default = default.filter(|&id| (id as usize) < tokens.len());
            metadata.id(key, tokens.len()).map(|id| id.or(default))
        };
        let text = |id: Option<u32>| id.and_then(|id| tokens.text(id));
        let bos = id("ggml.bos_token_id", defaults.bos)?;
        let eos = id("ggml.eos_token_id", defaults.eos)?;
        for other in ["ggml.eot_token_id", "ggml.eom_token_id"] {
            id(other, None)?;
        }
        let added = |key: &str, default: bool, id: Option<u32>, id_key: &str| {
            if !metadata.flag(key)?.unwrap_or(default) {
                return Ok(None);
            }
            let (id, text) = id.zip(text(id)).ok_or_else(|| metadata.missing(id_key))?;
            Ok::<_, LoadError>(Some(Added { id, text }))
        };
        Ok(Self {
            before: added("ggml.add_bos_token", defaults.adds_bos, bos, "ggml.bos_token_id")?,
            after: added("ggml.add_eos_token", false, eos, "ggml.eos_token_id")?,
            bos: text(bos),
            eos: text(eos),
            unknown: text(id("ggml.unknown_token_id", defaults.unknown)?),
            padding: text(id("ggml.padding_token_id", None)?),
        })
    }

    /// Whether texts begin with the beginning-of-sequence token.
    pub(super) fn adds_bos(&self) -> bool {
        self.before.is_some()
    }

    /// Whether texts end with the end-of-sequence token.
    pub(super) fn adds_eos(&self) -> bool {
        self.after.is_some()
    }

    /// What `tokenizer.json` says of the tokens that are added to a text.
    pub(super) fn post_processor(&self) -> Value {
        if self.before.is_none() && self.after.is_none() {
            return Value::Null;
        }
        let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let part = |added: &Added<'_>| json!({ "SpecialToken": { "id": added.text, "type_id": 0 } });
        let around = |sequences: Vec<Value>| {
            let before = self.before.iter().map(part);
            before.chain(sequences).chain(self.after.iter().map(part)).collect::<Vec<_>>()
        };
        let used = self.before.iter().chain(&self.after).map(|added| {
            let token = json!({ "id": added.text, "ids": [added.id], "tokens": [added.text] });
            (added.text.to_owned(), token)
        });
        json!({
            "type": "TemplateProcessing",
            "single": around(vec![sequence("A")]),
            "pair": around(vec![sequence("A"), sequence("B")]),
            "special_tokens": Value::Object(used.collect()),
        })
    }
}
