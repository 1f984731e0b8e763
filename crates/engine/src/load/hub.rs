//! The model hub and its cache on this machine.

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::error::LoadError;
use super::options::Progress;

/// Attempts to resume a download that breaks off.
const RETRIES: usize = 3;

/// One revision of a model on the hub.
pub(super) struct HubModel {
    id: String,
    /// Branch, tag or commit.
    revision: String,
    /// The commit of the first file that was found. All other files are those of the same commit, even if the
    /// branch moves on meanwhile or the cache has files of several commits.
    commit: OnceCell<String>,
    cache: Cache,
    /// `None` if only the cache may be used.
    remote: Option<Api>,
}

impl HubModel {
    /// The model `id`, with the settings that all programs take from the environment: `HF_HOME`,
    /// `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
    pub(super) fn from_env(id: &str, revision: &str) -> Result<Self, LoadError> {
        let cache = match setting("HF_HUB_CACHE") {
            Some(path) => Cache::new(PathBuf::from(path)),
            None => Cache::from_env(),
        };
        let offline = setting("HF_HUB_OFFLINE").map(|value| value.to_ascii_lowercase());
        if offline.is_some_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on")) {
            return Ok(Self::new(id, revision, cache, None));
        }
        let mut builder = ApiBuilder::from_env()
            .with_cache_dir(cache.path().clone())
            .with_progress(false)
            .with_retries(RETRIES);
        if let Some(token) = setting("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build().map_err(|error| LoadError::HubClient(Box::new(error)))?;
        Ok(Self::new(id, revision, cache, Some(api)))
    }

    fn new(id: &str, revision: &str, cache: Cache, remote: Option<Api>) -> Self {
        let commit = OnceCell::new();
        Self { id: id.to_owned(), revision: revision.to_owned(), commit, cache, remote }
    }

    /// The file `name`: from the cache, or fetched into it. `None` if the model has no such file.
    ///
    /// If only the cache may be used, a file that is not in it counts as one that the model does not have:
    /// optional files are fetched before the weights, so a cache with the weights has all that there are.
    ///
    /// # Errors
    /// If it cannot be fetched for any other reason than that it does not exist.
    pub(super) fn find(&self, name: &str, progress: Option<&Progress>) -> Result<Option<PathBuf>, LoadError> {
        if let Some(path) = self.cached(name) {
            self.pin(&path);
            return Ok(Some(path));
        }
        let Some(api) = &self.remote else { return Ok(None) };
        if self.absence(name).is_some_and(|mark| mark.exists()) {
            return Ok(None);
        }
        let download = Download { progress: progress.cloned(), done: 0, size: 0 };
        match api.repo(self.repo()).download_with_progress(name, download) {
            Ok(path) => {
                self.pin(&path);
                Ok(Some(path))
            }
            Err(error) if is_not_found(&error) => {
                self.mark_absent(name);
                Ok(None)
            }
            Err(error) => {
                Err(LoadError::Hub { id: self.id.clone(), file: name.to_owned(), source: Box::new(error) })
            }
        }
    }

    /// The error for a file that was not found but is needed.
    pub(super) fn missing(&self, name: &str) -> LoadError {
        let id = self.id.clone();
        let revision = self.revision.clone();
        let file = name.to_owned();
        match self.remote {
            Some(_) => LoadError::NotOnHub { id, revision, file },
            None => LoadError::NotCached { id, revision, file, cache: self.cache.path().clone() },
        }
    }

    fn cached(&self, name: &str) -> Option<PathBuf> {
        let repo = self.cache.repo(self.repo());
        repo.get(name).or_else(|| {
            // Branches and tags are looked up as references; a commit names its directory itself.
            Some(repo.pointer_path(self.revision()).join(name)).filter(|path| path.exists())
        })
    }

    /// Remembers the commit of the file at `path`, which is in the directory of its commit.
    fn pin(&self, path: &Path) {
        let snapshots = self.cache.repo(self.repo()).pointer_path("");
        let commit = path.strip_prefix(snapshots).ok().and_then(|path| path.components().next());
        if let Some(commit) = commit.and_then(|commit| commit.as_os_str().to_str()) {
            self.commit.get_or_init(|| commit.to_owned());
        }
    }

    /// Where the cache has an empty file if the model has no file `name`. The Python client does the same, so
    /// that a complete cache needs no network.
    fn absence(&self, name: &str) -> Option<PathBuf> {
        let model = self.cache.path().join(self.repo().folder_name());
        Some(model.join(".no_exist").join(self.commit.get()?).join(name))
    }

    fn mark_absent(&self, name: &str) {
        let Some(mark) = self.absence(name) else { return };
        let written = match mark.parent() {
            Some(dir) => std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&mark, "")),
            None => Ok(()),
        };
        if let Err(error) = written {
            // It is requested again the next time.
            tracing::debug!(%error, file = name, "the cache cannot store that a file does not exist");
        }
    }

    fn revision(&self) -> &str {
        self.commit.get().unwrap_or(&self.revision)
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, self.revision().to_owned())
    }
}

/// Whether the hub says that there is no such file. Failures while a file is being read are of other kinds.
fn is_not_found(error: &ApiError) -> bool {
    matches!(error, ApiError::RequestError(error) if matches!(**error, ureq::Error::StatusCode(404)))
}

/// An environment variable that is set and not empty.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reports the progress of a download.
struct Download {
    progress: Option<Progress>,
    done: u64,
    size: u64,
}

impl hf_hub::api::Progress for Download {
    /// Called at the start of every attempt.
    fn init(&mut self, size: usize, filename: &str) {
        self.size = size as u64;
        self.done = 0;
        tracing::info!(file = filename, mebibytes = size >> 20, "fetching from the model hub");
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if let Some(progress) = &self.progress {
            progress(self.done, self.size);
        }
    }

    fn finish(&mut self) {}
}
