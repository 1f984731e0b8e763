//! HumanEval: Python functions that are completed from their signature and docstring.

use std::path::Path;

use serde::Deserialize;

use super::jsonl;
use super::kind::DatasetKind;
use super::types::{Dataset, DatasetError, Item};
use crate::judge::Judge;

/// Strings after which the requested function has ended.
const STOP: [&str; 5] = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint"];

#[derive(Deserialize)]
struct Task {
    task_id: String,
    prompt: String,
    test: String,
    entry_point: String,
}

/// Reads HumanEval's published JSONL file.
pub fn humaneval(path: &Path) -> Result<Dataset, DatasetError> {
    jsonl::items(path, |_, task: Task| {
        if !is_identifier(&task.entry_point) {
            return Err(format!("its entry_point {:?} is not a valid Python name", task.entry_point));
        }
        Ok(Item {
            id: task.task_id,
            judge: Judge::Python {
                prompt: task.prompt.clone(),
                test: task.test,
                entry_point: task.entry_point,
            },
            turns: vec![task.prompt],
        })
    })?
    .into_dataset(path, DatasetKind::HumanEval, &STOP, 512, Some("pass@1"))
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c == '_' || c.is_alphabetic())
        && name.chars().all(|c| c == '_' || c.is_alphanumeric())
}
