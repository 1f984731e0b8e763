//! `tandem probe` against the real services.

use std::process::{Command, Output};

use tandem_testkit::System;

async fn probe(args: &[&str]) -> Output {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let run = move || Command::new(env!("CARGO_BIN_EXE_tandem")).arg("probe").args(args).output().unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_says_whether_a_service_serves() {
    let system = System::start().await;
    let urls = [
        (system.orchestrator, "tandem.v1.Generation"),
        (system.draft, "tandem.v1.Draft"),
        (system.target, "tandem.v1.Target"),
    ];
    for (address, service) in urls {
        let url = format!("http://{address}");
        for args in [&[url.as_str()][..], &[&url, "--service", service]] {
            let output = probe(args).await;
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    let url = format!("http://{}", system.draft);
    let (closed, silent) = ("http://127.0.0.1:1", std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let refused: [(&[&str], &str); 4] = [
        (&[&url, "--service", "tandem.v1.Target"], "service not registered"),
        (&[closed], "cannot reach http://127.0.0.1:1"),
        (&[&silent, "--timeout-seconds", "0.2"], "did not respond within 0.2 s"),
        (&["not a url"], "is not a valid URL"),
    ];
    for (args, expected) in refused {
        let output = probe(args).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(errors.contains(expected), "{args:?}: {expected:?} is not in {errors:?}");
    }
}
