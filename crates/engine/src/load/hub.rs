//! The model hub and its cache on this machine.

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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A hub with the model `acme/small`, and the paths that were requested from it.
    struct Hub {
        address: String,
        requests: Arc<Mutex<Vec<String>>>,
    }

    impl Hub {
        /// Answers requests for `files` with their status; for others with 404.
        fn start(files: &[(&'static str, u16)]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let requests = Arc::<Mutex<Vec<String>>>::default();
            let seen = requests.clone();
            let files: HashMap<&str, u16> = files.iter().copied().collect();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let path = requested(&stream);
                    let name = path.rsplit_once('/').map_or("", |(_, name)| name);
                    let status = files.get(name).copied().unwrap_or(404);
                    seen.lock().unwrap().push(path);
                    answer(&mut stream, status);
                }
            });
            Self { address, requests }
        }

        fn model(&self, cache: &Path) -> HubModel {
            let builder = ApiBuilder::new().with_endpoint(self.address.clone()).with_progress(false);
            let api = builder.with_token(None).with_cache_dir(cache.into()).build().unwrap();
            HubModel::new("acme/small", "main", Cache::new(cache.into()), Some(api))
        }

        fn requests(&self) -> Vec<String> {
            std::mem::take(&mut self.requests.lock().unwrap())
        }
    }

    fn requested(stream: &TcpStream) -> String {
        let head: Vec<String> =
            BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        head[0].split(' ').nth(1).unwrap().to_owned()
    }

    /// A file of two bytes, if the status is that of a part of a file.
    fn answer(stream: &mut TcpStream, status: u16) {
        let body = if status == 206 { "{}" } else { "" };
        // Every file has an entity tag of its own on the real hub; here all have the same content.
        write!(
            stream,
            "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\nContent-Range: bytes 0-1/2\r\nETag: \"tag\"\r\n\
             X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    }

    #[test]
    fn only_files_that_do_not_exist_are_absent() {
        let cache = tempfile::tempdir().unwrap();
        let files = [("config.json", 206), ("broken.json", 500), ("private.json", 403), ("busy.json", 429)];
        let hub = Hub::start(&files);
        let model = hub.model(cache.path());
        let found = model.find("config.json", None).unwrap().unwrap();
        assert!(found.starts_with(cache.path().join("models--acme--small/snapshots").join(COMMIT)));
        assert_eq!(std::fs::read_to_string(found).unwrap(), "{}");
        assert_eq!(model.find("absent.json", None).unwrap(), None);
        for name in ["broken.json", "private.json", "busy.json"] {
            let error = model.find(name, None).unwrap_err();
            assert!(matches!(error, LoadError::Hub { .. }), "{error}");
            assert_eq!(
                error.to_string(),
                format!(
                    "cannot fetch {name} of acme/small from the model hub; without a network, use a local \
                     directory, or set HF_HUB_OFFLINE=1 if the model is in the cache"
                )
            );
        }
        let unreachable = Hub { address: "http://127.0.0.1:1".into(), ..hub };
        assert!(unreachable.model(&cache.path().join("other")).find("config.json", None).is_err());
    }

    #[test]
    fn a_file_that_does_not_exist_is_requested_once() {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::start(&[("config.json", 206)]);
        // The size of the file, the file, and the two that do not exist.
        for expected in [4, 0] {
            let model = hub.model(cache.path());
            assert!(model.find("config.json", None).unwrap().is_some());
            assert_eq!(model.find("absent.json", None).unwrap(), None);
            assert_eq!(model.find("templates/absent.jinja", None).unwrap(), None);
            let requests = hub.requests();
            assert_eq!(requests.len(), expected, "{requests:?}");
        }
        // Nothing listens at this address.
        let hub = Hub { address: "http://127.0.0.1:1".into(), ..hub };
        let model = hub.model(cache.path());
        assert!(model.find("config.json", None).unwrap().is_some());
        assert_eq!(model.find("absent.json", None).unwrap(), None);
        assert!(model.find("new.json", None).is_err());
    }

    #[test]
    fn all_files_are_of_the_commit_of_the_first() {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::start(&[("config.json", 206), ("tokenizer.json", 206)]);
        let model = hub.model(cache.path());
        for name in ["config.json", "tokenizer.json"] {
            model.find(name, None).unwrap().unwrap();
        }
        let at = |revision: &str, name: &str| format!("/acme/small/resolve/{revision}/{name}");
        let expected = [
            at("main", "config.json"),
            at("main", "config.json"),
            at(COMMIT, "tokenizer.json"),
            at(COMMIT, "tokenizer.json"),
        ];
        assert_eq!(hub.requests(), expected);
    }

    #[test]
    fn cached_files_are_found_by_branch_and_by_commit() {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("models--acme--small");
        for dir in ["refs", &format!("snapshots/{COMMIT}")] {
            std::fs::create_dir_all(model.join(dir)).unwrap();
        }
        std::fs::write(model.join("refs/main"), COMMIT).unwrap();
        let config = model.join("snapshots").join(COMMIT).join("config.json");
        std::fs::write(&config, "{}").unwrap();
        let offline =
            |revision: &str| HubModel::new("acme/small", revision, Cache::new(home.path().into()), None);
        for revision in ["main", COMMIT] {
            assert_eq!(offline(revision).find("config.json", None).unwrap(), Some(config.clone()));
        }
        assert_eq!(offline("main").find("tokenizer.json", None).unwrap(), None);
        assert_eq!(offline("v2").find("config.json", None).unwrap(), None);
        let error = offline("main").missing("tokenizer.json").to_string();
        assert!(error.starts_with("tokenizer.json of acme/small (revision main) is not in"), "{error}");
        assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    }
}
