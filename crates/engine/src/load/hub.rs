//! The model hub and its cache on this machine.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::error::LoadError;
use super::options::Progress;

/// Attempts to resume a download that breaks off.
const RETRIES: usize = 3;

/// One revision of a model on the hub.
pub(super) struct HubModel {
    id: String,
    revision: String,
    cache: Cache,
    /// `None` if only the cache may be used.
    remote: Option<ApiRepo>,
}

impl HubModel {
    /// The model `id`, with the settings that all programs take from the environment: `HF_HOME`,
    /// `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
    pub(super) fn from_env(id: &str, revision: &str) -> Result<Self, LoadError> {
        let cache = match setting("HF_HUB_CACHE") {
            Some(path) => Cache::new(PathBuf::from(path)),
            None => Cache::from_env(),
        };
        let model = Self { id: id.to_owned(), revision: revision.to_owned(), cache, remote: None };
        let offline = setting("HF_HUB_OFFLINE").map(|value| value.to_ascii_lowercase());
        if offline.is_some_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on")) {
            return Ok(model);
        }
        let mut builder = ApiBuilder::from_env()
            .with_cache_dir(model.cache.path().clone())
            .with_progress(false)
            .with_retries(RETRIES);
        if let Some(token) = setting("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build().map_err(|error| LoadError::HubClient(Box::new(error)))?;
        Ok(Self { remote: Some(api.repo(model.repo())), ..model })
    }

    /// The file `name`: from the cache, or fetched into it.
    pub(super) fn get(&self, name: &str, progress: Option<&Progress>) -> Result<PathBuf, LoadError> {
        if let Some(path) = self.cached(name) {
            return Ok(path);
        }
        let Some(remote) = &self.remote else {
            return Err(LoadError::NotCached {
                id: self.id.clone(),
                revision: self.revision.clone(),
                file: name.to_owned(),
                cache: self.cache.path().clone(),
            });
        };
        let download = Download { progress: progress.cloned(), done: 0, size: 0 };
        remote.download_with_progress(name, download).map_err(|error| LoadError::Hub {
            id: self.id.clone(),
            file: name.to_owned(),
            source: Box::new(error),
        })
    }

    fn cached(&self, name: &str) -> Option<PathBuf> {
        let repo = self.cache.repo(self.repo());
        repo.get(name).or_else(|| {
            // Branches and tags are looked up as references; a commit names its directory itself.
            Some(repo.pointer_path(&self.revision).join(name)).filter(|path| path.exists())
        })
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_files_are_found_by_branch_and_by_commit() {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("models--acme--small");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for dir in ["refs", &format!("snapshots/{commit}")] {
            std::fs::create_dir_all(model.join(dir)).unwrap();
        }
        std::fs::write(model.join("refs/main"), commit).unwrap();
        let config = model.join("snapshots").join(commit).join("config.json");
        std::fs::write(&config, "{}").unwrap();
        let hub = |revision: &str| HubModel {
            id: "acme/small".into(),
            revision: revision.into(),
            cache: Cache::new(home.path().into()),
            remote: None,
        };
        for revision in ["main", commit] {
            assert_eq!(hub(revision).get("config.json", None).unwrap(), config);
        }
        let missing = |revision: &str, file: &str| hub(revision).get(file, None).unwrap_err().to_string();
        let error = missing("main", "tokenizer.json");
        assert!(error.starts_with("tokenizer.json of acme/small (revision main) is not in"), "{error}");
        assert!(missing("v2", "config.json").contains("HF_HUB_OFFLINE"));
    }
}
