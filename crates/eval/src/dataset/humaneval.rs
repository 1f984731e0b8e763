//! HumanEval.

use std::path::Path;

use serde::Deserialize;

use super::{Dataset, DatasetError, DatasetKind, Item, jsonl};
use crate::Judge;

/// Where the function that is asked for is over.
const STOP: [&str; 5] = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint"];

#[derive(Deserialize)]
struct Task {
    task_id: String,
    prompt: String,
    test: String,
    entry_point: String,
}

/// HumanEval's own JSONL file.
pub fn humaneval(path: &Path) -> Result<Dataset, DatasetError> {
    jsonl::items(path, |_, task: Task| {
        if !is_identifier(&task.entry_point) {
            return Err(format!("its entry_point {:?} is no name in Python", task.entry_point));
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
