//! Workers that are not there, or not there yet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::time::Duration;

use tandem_orchestrator::{ConnectError, Pair};
use tokio::net::TcpListener;

async fn connect(draft: &str, target: &str) -> ConnectError {
    let patience = Duration::from_millis(400);
    Pair::connect(draft, target, patience, Duration::from_secs(1)).await.err().unwrap()
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_named() {
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = connect(&format!("http://{free}"), &format!("http://{free}")).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

/// A worker that loads its model listens already, but answers nothing.
#[tokio::test]
async fn a_worker_that_never_answers_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let error = connect(&url, &url).await;
    assert!(matches!(error, ConnectError::Silent { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_url_is_refused_at_once() {
    for url in ["localhost:7701", "https://127.0.0.1:7701", "", "http://", "ftp://x"] {
        let error = connect(url, url).await;
        assert!(matches!(error, ConnectError::BadUrl { .. }), "{url}: {error}");
    }
}
