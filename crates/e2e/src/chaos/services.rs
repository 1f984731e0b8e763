//! The processes under test.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use tandem_cli::client::{Client, connect};
use tandem_proto::v1::WorkerRole;
use tandem_testkit::processes::Process;
use tokio::time::Instant;

use super::args::Args;

/// How long a worker may drain: its grace period, and the lease of sessions that are never closed, on a busy machine.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a run checks for an interrupt while it waits for a process.
const EXIT_POLL: Duration = Duration::from_millis(200);

/// All processes.
pub(crate) struct System {
    orchestrator: Process,
    workers: Vec<Worker>,
}

/// A draft or a target process. Its owner may kill and restart it.
pub(crate) struct Worker {
    pub(crate) role: WorkerRole,
    number: u32,
    process: Process,
    /// Resident memory of this incarnation right after its model was loaded.
    pub(crate) loaded_bytes: Option<u64>,
    /// What it did that it must not do.
    pub(crate) complaints: Vec<String>,
}

impl System {
    /// Starts the workers, then the orchestrator. Returns once all listen.
    pub(crate) async fn start(args: &Args) -> anyhow::Result<Self> {
        let mut workers = Vec::new();
        for (role, count) in [(WorkerRole::Draft, args.drafts), (WorkerRole::Target, args.targets)] {
            for number in 1..=count {
                workers.push(Worker::start(role, number, args).await?);
            }
        }
        let flags = format!(
            "--draft {} --target {} --worker-silence-seconds 1 --step-seconds 10 --failover-seconds 60",
            urls(&workers, WorkerRole::Draft),
            urls(&workers, WorkerRole::Target)
        );
        let flags: Vec<String> = flags.split(' ').map(str::to_owned).collect();
        let binary = args.programs.binary("tandem-orchestrator")?;
        let orchestrator = blocking(move || Process::start(&binary, &flags)).await?;
        Ok(Self { orchestrator, workers })
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        connect(&self.orchestrator.url()).await
    }

    /// Moves the workers to the caller.
    pub(crate) fn take_workers(&mut self) -> Vec<Worker> {
        std::mem::take(&mut self.workers)
    }

    /// Resident memory of the orchestrator.
    pub(crate) fn orchestrator_bytes(&self) -> Option<u64> {
        self.orchestrator.resident_bytes()
    }

    /// The exit status of the orchestrator, which must not end.
    pub(crate) fn orchestrator_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.orchestrator.exit_status()
    }
}

impl Worker {
    async fn start(role: WorkerRole, number: u32, args: &Args) -> anyhow::Result<Self> {
        let model = args.programs.models.join(role_name(role)).display().to_string();
        let lease = args.lease().as_secs().to_string();
        let flags = ["--model", &model, "--session-lease-seconds", &lease, "--threads", "1"];
        let flags = flags.map(str::to_owned);
        let binary = args.programs.binary(&format!("tandem-{}", role_name(role)))?;
        let process = blocking(move || Process::start(&binary, &flags)).await?;
        let loaded_bytes = process.resident_bytes();
        Ok(Self { role, number, process, loaded_bytes, complaints: Vec::new() })
    }

    /// Calls `act` with its process, on a thread that may block.
    async fn with<T: Send + 'static>(
        mut self,
        act: impl FnOnce(&mut Process) -> io::Result<T> + Send + 'static,
    ) -> anyhow::Result<(Self, T)> {
        let name = self.to_string();
        let acted = blocking(move || act(&mut self.process).map(|done| (self, done))).await;
        acted.with_context(|| format!("cannot control {name}"))
    }

    /// `kill -9`.
    pub(crate) async fn kill(self) -> anyhow::Result<Self> {
        Ok(self.with(Process::kill).await?.0)
    }

    /// Sends a signal by name.
    pub(crate) async fn signal(self, name: &'static str) -> anyhow::Result<Self> {
        Ok(self.with(move |process| process.signal(name)).await?.0)
    }

    /// Restarts it, and returns once its model is loaded.
    pub(crate) async fn restart(self) -> anyhow::Result<Self> {
        let (mut worker, ()) = self.with(Process::restart).await?;
        worker.loaded_bytes = worker.resident_bytes();
        Ok(worker)
    }

    /// SIGTERM, after which it must end by itself.
    pub(crate) async fn drain(self) -> anyhow::Result<Self> {
        let mut worker = self.signal("TERM").await?;
        let begun = Instant::now();
        loop {
            let ended;
            (worker, ended) = worker.with(|process| process.ends_within(EXIT_POLL)).await?;
            if ended {
                break;
            }
            if begun.elapsed() > DRAIN_TIMEOUT {
                let complaint = format!("{worker} still ran {} s after SIGTERM", DRAIN_TIMEOUT.as_secs());
                worker.complaints.push(complaint);
                return Ok(worker);
            }
        }
        match worker.process.exit_status()? {
            Some(status) if !status.success() => {
                worker.complaints.push(format!("{worker} was drained and ended with {status}"));
            }
            _ => {}
        }
        Ok(worker)
    }

    /// Adds a complaint if it has ended by itself.
    pub(crate) fn check_alive(&mut self) -> io::Result<()> {
        if let Some(status) = self.process.exit_status()? {
            let complaint = format!("{self} ended by itself with {status}");
            self.complaints.push(complaint);
        }
        Ok(())
    }

    /// Resident memory.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        self.process.resident_bytes()
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}", role_name(self.role), self.number, self.process.address())
    }
}

/// The URLs of the workers of a role, separated by commas.
fn urls(workers: &[Worker], role: WorkerRole) -> String {
    let urls: Vec<String> =
        workers.iter().filter(|worker| worker.role == role).map(|worker| worker.process.url()).collect();
    urls.join(",")
}

/// The name of a role in directories, programs and sentences.
pub(crate) fn role_name(role: WorkerRole) -> &'static str {
    match role {
        WorkerRole::Draft => "draft",
        WorkerRole::Target => "target",
        WorkerRole::Unspecified => "worker",
    }
}

/// Runs `act` on a thread that may block.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(act).await??)
}
