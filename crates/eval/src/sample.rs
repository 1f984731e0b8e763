//! One generation of an evaluation, and the file that keeps them all.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Verdict;

/// What one generation did. Times are milliseconds, wall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// [`crate::CellSpec::id`].
    pub cell: String,
    /// [`crate::Item::id`].
    pub item: String,
    /// Of the draws.
    pub seed: u64,
    /// One per turn.
    pub answers: Vec<String>,
    /// Of the last answer; also why there is none.
    pub verdict: Verdict,
    /// Tokens emitted.
    pub tokens: u64,
    /// Sum of their log-probabilities under the unwarped target, natural log.
    pub log_prob: f64,
    /// Propose-score-accept rounds.
    pub iterations: u64,
    /// Nodes accepted, before trimming.
    pub accepted: u64,
    /// Sum over the iterations of the depth asked for.
    pub asked: u64,
    /// Iterations that accepted at least as many nodes, by depth from 1.
    pub accepted_by_depth: Vec<u64>,
    /// Opening the sessions.
    pub prefill_ms: f64,
    /// Waiting for the draft.
    pub draft_ms: f64,
    /// Waiting for the target.
    pub target_ms: f64,
    /// All else.
    pub orchestration_ms: f64,
    /// Energy of the machine's packages or GPUs, if it can be measured, and all turns were answered.
    pub joules: Option<f64>,
}

impl Sample {
    /// Without prefill.
    pub fn decode_ms(&self) -> f64 {
        self.draft_ms + self.target_ms + self.orchestration_ms
    }
}

/// What all samples of a journal have in common: samples that differ in it must not be mixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Dataset, its file, and a digest of that.
    pub dataset: String,
    /// Target model, and what identifies its weights.
    pub target_model: String,
    /// Draft model, likewise.
    pub draft_model: String,
    /// Devices and dtype, or the endpoint; and the machine.
    pub place: String,
    /// Limit of each answer.
    pub max_new_tokens: u32,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Whether answers go on behind an end of sequence.
    pub run_on: bool,
    /// Of the program: other code, other times.
    pub build: String,
}

/// Why samples cannot be kept.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum JournalError {
    #[error("cannot keep samples in {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} holds samples of another evaluation ({there}, now {here}): choose another directory with --out, or delete it"
    )]
    Other { path: PathBuf, there: String, here: String },
    #[error("another evaluation is writing to {path}: wait for it, or choose another directory with --out")]
    Busy { path: PathBuf },
    #[error("{path}, line {line}, is no sample ({reason}): delete that line, or the file")]
    Broken { path: PathBuf, line: usize, reason: String },
}

/// A file of samples that only grows: whatever interrupts an evaluation, what was done is kept.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens or begins the journal at `path`, with the samples that it holds. A line that was not written to its end is dropped.
    pub fn open(path: &Path, header: &Header) -> Result<(Self, Vec<Sample>), JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let broken = |line: usize, e: serde_json::Error| JournalError::Broken {
            path: path.to_owned(),
            line,
            reason: e.to_string(),
        };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        // Held until the journal is dropped. A file system without locks is trusted.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(JournalError::Busy { path: path.to_owned() });
        }
        let (mut samples, mut whole) = (Vec::new(), 0u64);
        let mut reader = BufReader::new(&mut file);
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            let read = reader.read_line(&mut text).map_err(io)?;
            if read == 0 || !text.ends_with('\n') {
                break;
            }
            if line == 1 {
                let there: Header = serde_json::from_str(&text).map_err(|e| broken(line, e))?;
                check(path, &there, header)?;
            } else {
                samples.push(serde_json::from_str(&text).map_err(|e| broken(line, e))?);
            }
            whole += read as u64;
        }
        file.set_len(whole).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let mut journal = Self { file, path: path.to_owned() };
        if whole == 0 {
            journal.write(header)?;
        }
        Ok((journal, samples))
    }

    /// Keeps `sample`.
    pub fn add(&mut self, sample: &Sample) -> Result<(), JournalError> {
        self.write(sample)
    }

    fn write(&mut self, value: &impl Serialize) -> Result<(), JournalError> {
        let io = |source| JournalError::Io { path: self.path.clone(), source };
        let mut line = serde_json::to_string(value).map_err(|e| io(e.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(io)
    }
}

/// Names the first field that differs.
fn check(path: &Path, there: &Header, here: &Header) -> Result<(), JournalError> {
    let fields = |h: &Header| {
        [
            format!("dataset {}", h.dataset),
            format!("target {}", h.target_model),
            format!("draft {}", h.draft_model),
            format!("on {}", h.place),
            format!("{} new tokens", h.max_new_tokens),
            format!("stops {:?}", h.stop),
            format!("running on: {}", h.run_on),
            format!("by build {}", h.build),
        ]
    };
    match fields(there).into_iter().zip(fields(here)).find(|(a, b)| a != b) {
        Some((there, here)) => Err(JournalError::Other { path: path.to_owned(), there, here }),
        None => Ok(()),
    }
}
