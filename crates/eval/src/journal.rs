//! The file that keeps the samples of an evaluation.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sample::Sample;

/// What all samples of a journal have in common. Samples that differ in any of it must not be mixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name of the dataset, its file, and a digest of the file.
    pub dataset: String,
    /// Target model, and what identifies its weights.
    pub target_model: String,
    /// Draft model, and what identifies its weights.
    pub draft_model: String,
    /// Devices and dtype, or the endpoint; and the machine.
    pub place: String,
    /// Maximum number of tokens per answer.
    pub max_new_tokens: u32,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Whether answers continue after an end-of-sequence token.
    pub run_on: bool,
    /// Build of the program: another build may be faster or slower.
    pub build: String,
}

/// Why samples cannot be kept.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum JournalError {
    #[error("cannot keep samples in {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} has the samples of another evaluation ({there}, now {here}): choose another directory with --out, \
         or delete the file"
    )]
    Other { path: PathBuf, there: String, here: String },
    #[error("another evaluation is writing to {path}: wait for it, or choose another directory with --out")]
    Busy { path: PathBuf },
    #[error("{path}, line {line} is not a valid sample ({reason}): delete that line, or the file")]
    Broken { path: PathBuf, line: usize, reason: String },
}

/// An append-only file of samples. Samples written before an interruption are not lost.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens or creates the journal at `path`. Returns it with the samples that it has.
    ///
    /// An incomplete last line is dropped.
    pub fn open(path: &Path, header: &Header) -> Result<(Self, Vec<Sample>), JournalError> {
        let io_error = |source| JournalError::Io { path: path.to_owned(), source };
        let mut file = open_locked(path)?;
        let mut samples = Vec::new();
        let mut complete_bytes = 0;
        let mut reader = BufReader::new(&mut file);
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            let read = reader.read_line(&mut text).map_err(io_error)?;
            if read == 0 || !text.ends_with('\n') {
                break;
            }
            if line == 1 {
                check_header(path, &parse(path, line, &text)?, header)?;
            } else {
                samples.push(parse(path, line, &text)?);
            }
            complete_bytes += read as u64;
        }
        file.set_len(complete_bytes).map_err(io_error)?;
        file.seek(SeekFrom::End(0)).map_err(io_error)?;
        let mut journal = Self { file, path: path.to_owned() };
        if complete_bytes == 0 {
            journal.write(header)?;
        }
        Ok((journal, samples))
    }

    /// Appends `sample`.
    pub fn add(&mut self, sample: &Sample) -> Result<(), JournalError> {
        self.write(sample)
    }

    fn write(&mut self, value: &impl Serialize) -> Result<(), JournalError> {
        let io_error = |source| JournalError::Io { path: self.path.clone(), source };
        let mut line = serde_json::to_string(value).map_err(|e| io_error(e.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(io_error)
    }
}

/// Opens the file under a lock that is held until the file is closed.
fn open_locked(path: &Path) -> Result<File, JournalError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(|source| JournalError::Io { path: path.to_owned(), source })?;
    // Other errors are ignored: some file systems do not support locks.
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(JournalError::Busy { path: path.to_owned() });
    }
    Ok(file)
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path, line: usize, text: &str) -> Result<T, JournalError> {
    serde_json::from_str(text).map_err(|e| JournalError::Broken {
        path: path.to_owned(),
        line,
        reason: e.to_string(),
    })
}

/// An error that names the first field that differs.
fn check_header(path: &Path, there: &Header, here: &Header) -> Result<(), JournalError> {
    let differing = describe(there).into_iter().zip(describe(here)).find(|(there, here)| there != here);
    match differing {
        Some((there, here)) => Err(JournalError::Other { path: path.to_owned(), there, here }),
        None => Ok(()),
    }
}

fn describe(header: &Header) -> [String; 8] {
    [
        format!("dataset {}", header.dataset),
        format!("target {}", header.target_model),
        format!("draft {}", header.draft_model),
        format!("on {}", header.place),
        format!("{} new tokens", header.max_new_tokens),
        format!("stop strings {:?}", header.stop),
        format!("--run-on {}", header.run_on),
        format!("build {}", header.build),
    ]
}
