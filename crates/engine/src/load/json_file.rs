//! Reading files of a checkpoint.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::error::LoadError;

/// Reads and parses the file at `path`.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let bytes = std::fs::read(path).map_err(|source| LoadError::read(path, source))?;
    serde_json::from_slice(&bytes).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

/// Whether there is a file at `path`. A link to a file that does not exist counts as one: reading it fails, which
/// is better than to load a model without it.
pub(super) fn is_present(path: &Path) -> bool {
    path.is_file() || path.is_symlink()
}
