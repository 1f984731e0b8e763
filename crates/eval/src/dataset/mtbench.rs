//! MT-Bench: questions in, and answers in the form that FastChat's judge reads.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dataset, DatasetError, DatasetKind, Item, jsonl};
use crate::Judge;

#[derive(Deserialize)]
struct Question {
    question_id: u64,
    turns: Vec<String>,
}

/// MT-Bench's own JSONL file of questions.
///
/// A conversation is plain text, for models without a chat template as well: turn `n` is "User:
/// {question}\nAssistant:", with a line break before it if an answer precedes, and an answer ends before "\nUser:".
pub fn mt_bench(path: &Path) -> Result<Dataset, DatasetError> {
    jsonl::items(path, |_, question: Question| {
        if question.turns.is_empty() {
            return Err("it has no turns".to_owned());
        }
        let turns = (0..).zip(&question.turns);
        Ok(Item {
            id: format!("mt-{}", question.question_id),
            turns: turns
                .map(|(n, turn)| format!("{}User: {turn}\nAssistant:", if n > 0 { "\n" } else { "" }))
                .collect(),
            judge: Judge::None,
        })
    })?
    .into_dataset(path, DatasetKind::MtBench, &["\nUser:"], 512, None)
}

/// The number in an item's id.
pub fn question_id(item_id: &str) -> Option<u64> {
    item_id.strip_prefix("mt-")?.parse().ok()
}

/// A line of FastChat's `model_answer/{model_id}.jsonl`; `tstamp` is in seconds since 1970.
pub fn answer_line(
    question_id: u64,
    model_id: &str,
    answers: &[String],
    tstamp: f64,
    answer_id: &str,
) -> Value {
    json!({
        "question_id": question_id,
        "answer_id": answer_id,
        "model_id": model_id,
        "choices": [{ "index": 0, "turns": answers }],
        "tstamp": tstamp,
    })
}
