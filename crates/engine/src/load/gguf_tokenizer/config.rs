//! `tokenizer_config.json`: the special tokens and the chat templates.

use serde_json::{Value, json};

use super::metadata::Metadata;
use super::special::Special;
use crate::load::error::LoadError;

/// The content of `tokenizer_config.json`.
pub(super) fn config(metadata: &Metadata<'_>, special: &Special<'_>) -> Result<Vec<u8>, LoadError> {
    let config = json!({
        "add_bos_token": special.adds_bos(),
        "add_eos_token": special.adds_eos(),
        "bos_token": special.bos,
        "eos_token": special.eos,
        "unk_token": special.unknown,
        "pad_token": special.padding,
        "chat_template": chat_template(metadata)?,
    });
    Ok(config.to_string().into_bytes())
}

/// The chat template, or a list of them by name if the file has several.
fn chat_template(metadata: &Metadata<'_>) -> Result<Value, LoadError> {
    let default = metadata.text("chat_template")?;
    let names = metadata.texts("chat_templates")?.unwrap_or_default();
    let mut named = Vec::new();
    for name in names {
        if let Some(template) = metadata.text(&format!("chat_template.{name}"))? {
            named.push(json!({ "name": name, "template": template }));
        }
    }
    if named.is_empty() {
        return Ok(default.into());
    }
    let default = default.map(|template| json!({ "name": "default", "template": template }));
    named.extend(default);
    Ok(named.into())
}
