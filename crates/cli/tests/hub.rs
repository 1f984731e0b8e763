//! A model of the hub: fetched once, then found in the cache without a network. A small server stands for the hub.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn demo_draft() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/draft")
}

/// Serves the bundled draft as `acme/draft`. Returns the address and the number of requests so far.
fn hub() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::<AtomicUsize>::default();
    let counter = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
            answer(stream.unwrap());
        }
    });
    (address, requests)
}

/// Answers as the hub does: a part of a file, its size, its tag and the commit.
fn answer(mut stream: TcpStream) {
    let head: Vec<String> = BufReader::new(&stream)
        .lines()
        .map(|line| line.unwrap().to_ascii_lowercase())
        .take_while(|line| !line.is_empty())
        .collect();
    let path = head[0].split(' ').nth(1).unwrap();
    let revision = path.strip_prefix("/acme/draft/resolve/").and_then(|rest| rest.split_once('/'));
    let file = revision.filter(|(name, _)| ["main", COMMIT].contains(name)).map(|(_, file)| file);
    let Some(bytes) = file.and_then(|name| std::fs::read(demo_draft().join(name)).ok()) else {
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        return;
    };
    let range = head.iter().find_map(|line| line.strip_prefix("range: bytes=")).unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(bytes.len() - 1);
    let part = &bytes[first..=last];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        part.len(),
        bytes.len(),
        file.unwrap().replace('.', "-"),
    )
    .unwrap();
    stream.write_all(part).unwrap();
}

fn generate(draft: &str, home: &Path, endpoint: &str, offline: bool) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args([
            "generate",
            "--json",
            "--seed",
            "1",
            "--max-new-tokens",
            "8",
            "--draft",
            draft,
            "Question: How many",
        ])
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_TOKEN")
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[test]
fn a_hub_model_is_fetched_once_and_then_needs_no_network() {
    let home = tempfile::tempdir().unwrap();
    let (endpoint, requests) = hub();
    let written = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let outcomes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        outcomes[0]["token_ids"].clone()
    };
    let first = written(generate("acme/draft", home.path(), &endpoint, false));
    // For each of the five files its metadata, then the file; and a request for each of the two places of a chat template that do
    // not exist.
    let fetched = requests.load(Ordering::SeqCst);
    assert_eq!(fetched, 12);
    let cached = home.path().join("hub/models--acme--draft/snapshots").join(COMMIT);
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert!(weights(&cached) == weights(&demo_draft()));

    let again = written(generate("acme/draft", home.path(), &endpoint, false));
    assert_eq!(
        (again, requests.load(Ordering::SeqCst)),
        (first.clone(), fetched),
        "no file is fetched twice, and none that did not exist is requested again"
    );
    // Nothing listens at this address.
    let offline = written(generate("acme/draft", home.path(), "http://127.0.0.1:1", true));
    assert_eq!(offline, first);

    let refused = |output: Output, expected: &str| {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(expected), "{expected:?} is not in {error:?}");
    };
    refused(generate("acme/other", home.path(), &endpoint, true), "HF_HUB_OFFLINE forbids downloads");
    let absent = "config.json of acme/other (revision main) does not exist on the model hub";
    refused(generate("acme/other", home.path(), &endpoint, false), absent);
    refused(generate("acme/other", home.path(), "http://127.0.0.1:1", false), "cannot fetch config.json");
}
