//! The services as processes of their own, to be killed, stopped and weighed.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running service.
pub struct Process {
    binary: PathBuf,
    args: Vec<String>,
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts `binary` with `args` on a port of the system's choice, and returns once it listens, which a worker does when its model
    /// is loaded.
    pub fn start(binary: &Path, args: &[String]) -> io::Result<Self> {
        let (child, address) = spawn(binary, args, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { binary: binary.to_owned(), args: args.to_vec(), child, address })
    }

    /// Another life of it, at the same address.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        (self.child, self.address) = spawn(&self.binary, &self.args, self.address)?;
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `kill -9`, unless it has ended already.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Sends a signal by name: `STOP`, `CONT`, `TERM`.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill -s {name}: {status}"))) }
    }

    /// Waits for it to end by itself, for at most `patience`: whether it did.
    pub fn ends_within(&mut self, patience: Duration) -> io::Result<bool> {
        let begun = std::time::Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > patience {
                return Ok(false);
            }
            // Nothing to await: another process ends when it ends.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Memory that it has resident, in bytes; `None` where there is no /proc.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL as well.
        let _ = self.kill();
    }
}

fn spawn(binary: &Path, args: &[String], listen: SocketAddr) -> io::Result<(Child, SocketAddr)> {
    let mut child = Command::new(binary)
        .args(args)
        .args(["--listen", &listen.to_string(), "--log", "info", "--log-format", "json"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::other(format!("cannot start {}: {e}", binary.display())))?;
    let Some(log) = child.stderr.take() else { return Err(io::Error::other("no log")) };
    let mut lines = BufReader::new(log).lines();
    let mut seen = String::new();
    while let Some(line) = lines.next().transpose()? {
        if let Some(address) = listening(&line) {
            // Read on, or it would block once the pipe is full.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok((child, address));
        }
        seen += &line;
        seen.push('\n');
    }
    let status = child.wait()?;
    Err(io::Error::other(format!("{} ended with {status}:\n{seen}", binary.display())))
}

/// The address in the log line that says so.
fn listening(line: &str) -> Option<SocketAddr> {
    let at = line.contains("\"listening\"").then(|| line.find("\"address\":\""))??;
    line[at + 11..].split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_log() {
        let line =
            r#"{"level":"INFO","fields":{"message":"listening","address":"127.0.0.1:7701"},"target":"x"}"#;
        assert_eq!(listening(line), Some(SocketAddr::from(([127, 0, 0, 1], 7701))));
        assert_eq!(listening(r#"{"fields":{"message":"serving","address":"127.0.0.1:7701"}}"#), None);
    }

    #[test]
    fn a_process_that_ends_at_once_says_why() {
        let error = Process::start(Path::new("/bin/sh"), &["-c".into(), "echo no model >&2; exit 3".into()]);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("no model") && error.contains('3'), "{error}");
    }
}
