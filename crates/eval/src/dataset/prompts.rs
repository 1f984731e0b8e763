//! Prompts of the user's own.

use std::path::Path;

use serde::Deserialize;

use super::{Dataset, DatasetError, DatasetKind, Item, jsonl};
use crate::Judge;

#[derive(Deserialize)]
struct Prompt {
    prompt: String,
    id: Option<String>,
}

/// JSONL with `prompt` and, if wanted, `id`.
pub fn prompts(path: &Path) -> Result<Dataset, DatasetError> {
    jsonl::items(path, |number, line: Prompt| {
        if line.prompt.is_empty() {
            return Err("its prompt is empty".to_owned());
        }
        Ok(Item {
            id: line.id.unwrap_or_else(|| format!("prompt-{number:04}")),
            turns: vec![line.prompt],
            judge: Judge::None,
        })
    })?
    .into_dataset(path, DatasetKind::Prompts, &[], 128, None)
}
