//! Downloads from a small server that answers as the hub does.

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
