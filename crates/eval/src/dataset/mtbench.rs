//! MT-Bench: reads the questions, and writes answers in the format of FastChat's judge.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::jsonl;
use super::kind::DatasetKind;
use super::types::{Dataset, DatasetError, Item};
use crate::judge::Judge;

#[derive(Deserialize)]
struct Question {
    question_id: u64,
    turns: Vec<String>,
}

/// Reads MT-Bench's published JSONL file of questions.
///
/// A conversation is plain text, so that models without a chat template can answer too: turn `n` is
/// "User: {question}\nAssistant:", after a line break if an answer precedes it. An answer ends before "\nUser:".
pub fn mt_bench(path: &Path) -> Result<Dataset, DatasetError> {
    jsonl::items(path, |_, question: Question| {
        if question.turns.is_empty() {
            return Err("it has no turns".to_owned());
        }
        let mut turns = Vec::new();
        for turn in question.turns {
            let line_break = if turns.is_empty() { "" } else { "\n" };
            turns.push(format!("{line_break}User: {turn}\nAssistant:"));
        }
        Ok(Item { id: format!("mt-{}", question.question_id), turns, judge: Judge::None })
    })?
    .into_dataset(path, DatasetKind::MtBench, &["\nUser:"], 512, None)
}

/// The number of the question in an item's id.
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
