//! Services as processes of their own, which tests kill, stop and measure.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a process is checked for its end.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// A running service.
pub struct Process {
    binary: PathBuf,
    args: Vec<String>,
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts `binary` with `args` on a free loopback port, and returns once it listens. A worker listens after its model is
    /// loaded.
    pub fn start(binary: &Path, args: &[String]) -> io::Result<Self> {
        let (child, address) = spawn(binary, args, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { binary: binary.to_owned(), args: args.to_vec(), child, address })
    }

    /// Kills it and starts it again, at the same address.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        (self.child, self.address) = spawn(&self.binary, &self.args, self.address)?;
        Ok(())
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// That address as a URL.
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

    /// Waits until it ends by itself, for at most `timeout`, and returns whether it did.
    pub fn ends_within(&mut self, timeout: Duration) -> io::Result<bool> {
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > timeout {
                return Ok(false);
            }
            #[allow(clippy::disallowed_methods, reason = "std cannot wait for a process with a timeout")]
            std::thread::sleep(EXIT_POLL);
        }
        Ok(true)
    }

    /// Its exit status, if it has ended.
    pub fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Its resident memory in bytes; `None` where there is no /proc.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too.
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
    let Some(log) = child.stderr.take() else { return Err(io::Error::other("stderr is not piped")) };
    let mut lines = BufReader::new(log).lines();
    let mut seen = String::new();
    while let Some(line) = lines.next().transpose()? {
        if let Some(address) = listening(&line) {
            // Keep reading: a process whose pipe is full would block.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok((child, address));
        }
        seen += &line;
        seen.push('\n');
    }
    let status = child.wait()?;
    Err(io::Error::other(format!("{} ended with {status}:\n{seen}", binary.display())))
}

/// The address in the log line of a service that has begun to listen.
fn listening(line: &str) -> Option<SocketAddr> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = &event["fields"];
    if fields["message"] != "listening" {
        return None;
    }
    fields["address"].as_str()?.parse().ok()
}
