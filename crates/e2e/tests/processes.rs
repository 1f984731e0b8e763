//! The helper that starts services as processes, with shell scripts in their place.

use std::path::Path;

use tandem_testkit::processes::Process;

fn start(script: &str) -> std::io::Result<Process> {
    Process::start(Path::new("/bin/sh"), &["-c".into(), script.into()])
}

#[test]
fn the_address_is_read_from_the_log_line_that_says_listening() {
    let script = r#"
        echo 'not JSON' >&2
        echo '{"level":"INFO","fields":{"message":"serving","address":"127.0.0.1:1"},"target":"x"}' >&2
        echo '{"level":"INFO","fields":{"message":"listening","address":"127.0.0.1:7701"},"target":"x"}' >&2
        exec sleep 600
    "#;
    let process = start(script).unwrap();
    assert_eq!(process.url(), "http://127.0.0.1:7701");
}

#[test]
fn a_process_that_ends_at_start_is_an_error_with_its_log_and_status() {
    let error = start("echo no model >&2; exit 3").err().unwrap().to_string();
    assert!(error.contains("no model") && error.contains('3'), "{error}");
}
