//! The user's own prompts.

use std::path::Path;

use serde::Deserialize;

use super::jsonl;
use super::kind::DatasetKind;
use super::types::{Dataset, DatasetError, Item};
use crate::judge::Judge;

#[derive(Deserialize)]
struct Prompt {
    prompt: String,
    id: Option<String>,
}

/// Reads a JSONL file with a `prompt` and optionally an `id` per line.
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
