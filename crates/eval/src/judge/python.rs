//! pass@1: a program in Python is right if it runs to its end.
//!
//! It runs in a process of its own, which may compute and read files, and little else (see `sandbox`). That limits the
//! damage of accidents and of clumsy malice. It is no prison: the kernel is shared, files can be read, and a program
//! that looks for the judge's own variables can claim to be right. Run code from somebody hostile in a virtual machine.

use std::time::Duration;

/// For a program, its tests included.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `program`, which raises an error if it is wrong.
#[cfg(not(target_os = "linux"))]
pub fn judge(_program: &str, _timeout: Duration) -> super::Verdict {
    super::Verdict::not_judged(
        "no sandbox",
        "there is no sandbox on this system: judge answers in Python on Linux",
    )
}

#[cfg(target_os = "linux")]
pub use linux::judge;

#[cfg(target_os = "linux")]
mod linux {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::io::{self, Read, Write};
    use std::path::{Path, PathBuf};
    use std::process::{Command, ExitStatus, Stdio};
    use std::sync::OnceLock;
    use std::sync::mpsc::sync_channel;
    use std::thread::{Builder, scope};
    use std::time::Duration;

    use super::super::{Verdict, sandbox};

    /// Reads a nonce and the program, runs it, and reports behind the nonce what became of it. The program's own output
    /// goes nowhere.
    const HARNESS: &str = r#"
def main():
    import os, sys
    sys.path = [path for path in sys.path if path]
    report = os.dup(1)
    os.dup2(2, 1)
    nonce, program = sys.stdin.buffer.read().split(b"\n", 1)
    text = ""
    try:
        exec(compile(program, "answer.py", "exec"), {})
        kind = "right"
    except AssertionError:
        kind = "wrong"
    except BaseException as error:
        kind = "raised"
        if isinstance(error, MemoryError):
            kind = "memory"
        if isinstance(error, PermissionError):
            kind = "refused"
        try:
            text = (type(error).__name__ + ": " + str(error))[:500]
        except BaseException:
            pass
    os.write(report, nonce + (kind + " " + text).encode("utf-8", "replace"))
    os._exit(0)
main()
"#;

    /// Bytes of a report.
    const LONGEST_REPORT: u64 = 64 << 10;

    /// Runs `program`, which raises an error if it is wrong.
    pub fn judge(program: &str, timeout: Duration) -> Verdict {
        static PYTHON: OnceLock<Result<PathBuf, Verdict>> = OnceLock::new();
        let python = match PYTHON.get_or_init(|| find().and_then(check)) {
            Ok(python) => python,
            Err(verdict) => return verdict.clone(),
        };
        run(python, program, timeout).unwrap_or_else(|e| no_sandbox(&e.to_string()))
    }

    fn no_sandbox(why: &str) -> Verdict {
        Verdict::not_judged("no sandbox", format!("python3 does not run in the sandbox: {why}"))
    }

    /// The interpreter itself: what is first on the path can be a script, which the sandbox would not let start it.
    fn find() -> Result<PathBuf, Verdict> {
        let asked = Command::new("python3").args(["-I", "-c", "import sys; print(sys.executable)"]).output();
        let path = asked.ok().filter(|asked| asked.status.success()).map(|asked| asked.stdout);
        let path = path.and_then(|path| String::from_utf8(path).ok()).unwrap_or_default();
        if path.trim().is_empty() {
            let message = "there is no python3 on the PATH that runs: install it to judge answers in Python";
            return Err(Verdict::not_judged("no python3", message));
        }
        Ok(PathBuf::from(path.trim()))
    }

    /// Lest every answer fails, or passes, because of this machine.
    fn check(python: PathBuf) -> Result<PathBuf, Verdict> {
        match run(&python, "import os\nos.mkdir('/')", super::TIMEOUT) {
            Ok(Verdict::Failed { name, .. }) if name == "refused by the sandbox" => {}
            Ok(verdict) => return Err(no_sandbox(&format!("a forbidden call was not refused: {verdict:?}"))),
            Err(e) => return Err(no_sandbox(&e.to_string())),
        }
        match run(&python, "import collections, itertools, math, re, typing", super::TIMEOUT) {
            Ok(Verdict::Right) => Ok(python),
            Ok(verdict) => Err(no_sandbox(&format!("the standard library does not load: {verdict:?}"))),
            Err(e) => Err(no_sandbox(&e.to_string())),
        }
    }

    /// Fails if the program could not be started.
    fn run(python: &Path, program: &str, timeout: Duration) -> io::Result<Verdict> {
        let nonce = format!("{:016x}", RandomState::new().build_hasher().finish());
        let mut command = Command::new(python);
        // No packages, no files for bytecode, and sets in the same order every time.
        command.args(["-s", "-S", "-B", "-c", HARNESS]).env_clear().env("PYTHONHASHSEED", "0");
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        sandbox::confine(&mut command, timeout)?;
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (report, status) = scope(|scope| {
            let (send, received) = sync_channel(1);
            let input = format!("{nonce}\n{program}");
            let writer = Builder::new().spawn_scoped(scope, move || {
                // A program that ends early does not read to the end.
                let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
            });
            let reader = Builder::new().spawn_scoped(scope, move || {
                let mut report = Vec::new();
                let _ = stdout.map(|stdout| stdout.take(LONGEST_REPORT).read_to_end(&mut report));
                let _ = send.send(report);
            });
            let report = received.recv_timeout(timeout);
            // It has ended, or it shall; without the ability to fork it is alone.
            child.kill()?;
            let status = child.wait()?;
            writer.and(reader).map(|_| (report.ok(), status))
        })?;
        Ok(verdict(report, &nonce, status))
    }

    fn verdict(report: Option<Vec<u8>>, nonce: &str, status: ExitStatus) -> Verdict {
        let Some(report) = report else {
            return Verdict::failed("ran too long", "it did not end in time");
        };
        let Some(report) = report.strip_prefix(nonce.as_bytes()) else {
            return Verdict::failed("ended early", format!("it ended before its tests had, with {status}"));
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
}
