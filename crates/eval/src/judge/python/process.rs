//! Runs a program in a sandboxed Python process and turns its end into a verdict.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, scope};
use std::time::Duration;

use super::sandbox;
use crate::judge::verdict::Verdict;

/// Reads a nonce and the program on standard input. The report on standard output starts with the nonce, so
/// that a program cannot easily forge it.
const HARNESS: &str = include_str!("harness.py");

/// Maximum size of a report, in bytes.
const MAX_REPORT_BYTES: u64 = 64 << 10;

const SELF_TEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `program`, which raises an error if it is wrong.
pub fn judge(program: &str, timeout: Duration) -> Verdict {
    static PYTHON: OnceLock<Result<PathBuf, Verdict>> = OnceLock::new();
    let python = match PYTHON.get_or_init(|| find().and_then(self_test)) {
        Ok(python) => python,
        Err(verdict) => return verdict.clone(),
    };
    run(python, program, timeout).unwrap_or_else(|e| no_sandbox(&e.to_string()))
}

fn no_sandbox(reason: &str) -> Verdict {
    Verdict::not_judged("no sandbox", format!("python3 does not run in the sandbox: {reason}"))
}

/// The path of the interpreter itself. The first python3 on the PATH may be a script, and the sandbox would
/// not let a script start the interpreter.
fn find() -> Result<PathBuf, Verdict> {
    let output = Command::new("python3").args(["-I", "-c", "import sys; print(sys.executable)"]).output();
    let path = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let path = path.and_then(|path| String::from_utf8(path).ok()).unwrap_or_default();
    if path.trim().is_empty() {
        let message = "there is no working python3 on the PATH: install it to judge answers in Python";
        return Err(Verdict::not_judged("no python3", message));
    }
    Ok(PathBuf::from(path.trim()))
}

/// Checks that the sandbox works on this machine. Without it every answer might fail, or pass.
fn self_test(python: PathBuf) -> Result<PathBuf, Verdict> {
    match run(&python, "import os\nos.mkdir('/')", SELF_TEST_TIMEOUT) {
        Ok(Verdict::Failed { name, .. }) if name == "refused by the sandbox" => {}
        Ok(verdict) => return Err(no_sandbox(&format!("a forbidden call was not refused: {verdict:?}"))),
        Err(e) => return Err(no_sandbox(&e.to_string())),
    }
    match run(&python, "import collections, itertools, math, re, typing", SELF_TEST_TIMEOUT) {
        Ok(Verdict::Right) => Ok(python),
        Ok(verdict) => Err(no_sandbox(&format!("the standard library does not load: {verdict:?}"))),
        Err(e) => Err(no_sandbox(&e.to_string())),
    }
}

/// Runs `program` to its end or until `timeout`. An error means that the process could not be started.
fn run(python: &Path, program: &str, timeout: Duration) -> io::Result<Verdict> {
    let nonce = format!("{:016x}", RandomState::new().build_hasher().finish());
    let mut command = Command::new(python);
    // No site packages, no bytecode files, and the same iteration order of sets in every run.
    command.args(["-s", "-S", "-B", "-c", HARNESS]).env_clear().env("PYTHONHASHSEED", "0");
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    sandbox::confine(&mut command, timeout)?;
    let input = format!("{nonce}\n{program}");
    let (report, status) = communicate(command.spawn()?, &input, timeout)?;
    Ok(verdict(report, &nonce, status))
}

/// Writes `input` to the process and reads its report, which is `None` after `timeout`. Ends the process.
fn communicate(
    mut child: Child,
    input: &str,
    timeout: Duration,
) -> io::Result<(Option<Vec<u8>>, ExitStatus)> {
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    scope(|scope| {
        let (send, received) = sync_channel(1);
        let writer = Builder::new().spawn_scoped(scope, move || {
            // Fails for a program that ends before it has read everything.
            let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
        });
        let reader = Builder::new().spawn_scoped(scope, move || {
            let mut report = Vec::new();
            let _ = stdout.map(|stdout| stdout.take(MAX_REPORT_BYTES).read_to_end(&mut report));
            let _ = send.send(report);
        });
        let report = received.recv_timeout(timeout);
        // Killing one process is enough: the sandbox does not let it fork.
        child.kill()?;
        let status = child.wait()?;
        writer.and(reader).map(|_| (report.ok(), status))
    })
}

fn verdict(report: Option<Vec<u8>>, nonce: &str, status: ExitStatus) -> Verdict {
    let Some(report) = report else {
        return Verdict::failed("ran too long", "the program did not end before its timeout");
    };
    let Some(report) = report.strip_prefix(nonce.as_bytes()) else {
        return Verdict::failed(
            "ended early",
            format!("the program ended before its tests did, with {status}"),
        );
    };
    let report = String::from_utf8_lossy(report);
    match report.split_once(' ').unwrap_or_default() {
        ("right", _) => Verdict::Right,
        ("wrong", _) => Verdict::Wrong,
        ("memory", message) => Verdict::failed("out of memory", message),
        ("refused", message) => Verdict::failed("refused by the sandbox", message),
        (_, message) => Verdict::failed("raised an error", message),
    }
}
