//! The conditions that all samples of one evaluation share.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use sha2::{Digest, Sha256};
use tandem_eval::report::Machine;
use tandem_eval::{Dataset, DatasetKind, Header};

use super::args::Args;
use super::runner::Runner;

/// The first line of the journal. Samples from other data, weights, devices or code must not be mixed.
pub(super) fn header(
    args: &Args,
    data: &Path,
    dataset: &Dataset,
    machine: &Machine,
    runner: &Runner,
) -> anyhow::Result<Header> {
    let place = match &args.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => format!("{} ({:?})", machine.device, args.pair.dtype),
    };
    Ok(Header {
        dataset: format!("{} {} ({})", dataset.name, data.display(), digest(args.dataset, data)?),
        target_model: weights(&runner.models.target),
        draft_model: weights(&runner.models.draft),
        place: format!("{place}, {}", machine.cpu),
        max_new_tokens: runner.max_new_tokens,
        stop: dataset.stop.clone(),
        run_on: runner.run_on,
        build: build(),
    })
}

/// Digest of the file with the questions.
fn digest(kind: DatasetKind, data: &Path) -> anyhow::Result<String> {
    let file = if kind == DatasetKind::Spider { data.join("dev.json") } else { data.to_owned() };
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

/// The name of the model and, if it is a local directory, the sizes and times of its weight files. Hashing them would
/// take too long.
fn weights(model: &str) -> String {
    let files = fs::read_dir(model).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    let stamps = files.iter().map(|path| stamp(path)).collect::<Vec<_>>();
    if stamps.is_empty() { model.to_owned() } else { format!("{model} ({})", stamps.join(", ")) }
}

/// Identifies the build of this program: another build may be faster or slower.
fn build() -> String {
    let stamp = std::env::current_exe().map(|exe| stamp(&exe)).unwrap_or_default();
    format!("{} ({stamp})", env!("CARGO_PKG_VERSION"))
}

/// Size of a file and time of its last change.
fn stamp(file: &Path) -> String {
    let Ok(metadata) = fs::metadata(file) else { return "unknown".into() };
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{} bytes of {}", metadata.len(), since.map_or(0, |d| d.as_secs()))
}
