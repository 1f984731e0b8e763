//! Workers that do not exist, or do not answer yet.

use std::time::Duration;

use tandem_orchestrator::{ConnectError, Pair, Tcp, WorkerName, WorkerNames, WorkerTimeouts};
use tokio::net::TcpListener;

async fn connect(url: &str) -> ConnectError {
    let name: WorkerName = url.parse().unwrap();
    let names = WorkerNames { draft: vec![name.clone()], target: vec![name] };
    let timeouts = WorkerTimeouts {
        request: Duration::from_secs(1),
        draft_request: Duration::from_secs(1),
        silence: Duration::from_millis(200),
        failover: Duration::from_secs(1),
        resolve_interval: Duration::from_secs(1),
    };
    Pair::connect(names, Duration::from_millis(600), timeouts, Tcp::default().shared()).await.err().unwrap()
}

#[tokio::test]
async fn a_worker_that_does_not_exist_is_named() {
    // A port that was free a moment ago, so that nothing listens there.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = connect(&format!("http://{free}")).await.to_string();
    assert!(error.starts_with("no target service answered within 0 s"), "{error}");
    assert!(error.contains(&free.to_string()) && error.contains("refused"), "{error}");
}

/// A worker that is still loading its model listens already, but does not answer.
#[tokio::test]
async fn a_worker_that_never_answers_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = connect(&format!("http://{}", silent.local_addr().unwrap())).await.to_string();
    assert!(error.contains("is it still loading?"), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_named() {
    let error = connect("http://no-such-host.invalid:7701").await.to_string();
    assert!(error.contains("http://no-such-host.invalid:7701 cannot be resolved"), "{error}");
}

#[test]
fn invalid_urls_are_refused() {
    for url in ["localhost:7701", "https://a/b", "", "http://", "ftp://x", "http://a/b", "http://:1"] {
        assert!(url.parse::<WorkerName>().is_err(), "{url}");
    }
    for (url, full) in [
        ("http://a:1", "http://a:1"),
        ("http://a", "http://a:80"),
        ("https://a", "https://a:443"),
        ("http://[::1]:7/", "http://[::1]:7"),
    ] {
        assert_eq!(url.parse::<WorkerName>().unwrap().to_string(), full);
    }
}
