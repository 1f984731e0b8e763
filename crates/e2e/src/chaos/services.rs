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

use crate::args::Args;

/// How long a worker may drain: its grace and the lease of sessions that nobody closes, with time to spare on a busy machine.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
/// Within which a run that is interrupted notices.
const SLICE: Duration = Duration::from_millis(200);

/// All processes.
pub(crate) struct System {
    orchestrator: Process,
    workers: Vec<Worker>,
}

/// A draft or a target process. Whoever has it decides about its life.
pub(crate) struct Worker {
    pub(crate) role: WorkerRole,
    number: u32,
    process: Process,
    /// Of this life, behind the loading of the model.
    pub(crate) loaded_bytes: Option<u64>,
    /// What it did that it should not.
    pub(crate) complaints: Vec<String>,
}

impl System {
    /// Starts the workers, then the orchestrator. Returns once all listen.
    pub(crate) async fn start(args: &Args) -> anyhow::Result<Self> {
        let of_role = |role, count| (1..=count).map(move |number| (role, number));
        let mut workers = Vec::new();
        for (role, number) in
            of_role(WorkerRole::Draft, args.drafts).chain(of_role(WorkerRole::Target, args.targets))
        {
            workers.push(Worker::start(role, number, args).await?);
        }
        let urls = |role| {
            let urls = workers.iter().filter(|w| w.role == role).map(|w: &Worker| w.process.url());
            urls.collect::<Vec<String>>().join(",")
        };
        let mut flags = vec![
            "--draft".to_owned(),
            urls(WorkerRole::Draft),
            "--target".to_owned(),
            urls(WorkerRole::Target),
        ];
        flags.extend(
            "--worker-silence-seconds 1 --step-seconds 10 --failover-seconds 60"
                .split(' ')
                .map(str::to_owned),
        );
        let binary = args.binary("tandem-orchestrator")?;
        let orchestrator = blocking(move || Process::start(&binary, &flags)).await?;
        Ok(Self { orchestrator, workers })
    }

    /// A connection of its own.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        connect(&self.orchestrator.url()).await
    }

    /// From now on they belong to the caller.
    pub(crate) fn take_workers(&mut self) -> Vec<Worker> {
        std::mem::take(&mut self.workers)
    }

    /// Resident memory of the orchestrator.
    pub(crate) fn orchestrator_bytes(&self) -> Option<u64> {
        self.orchestrator.resident_bytes()
    }

    /// How it ended, which nobody asked for.
    pub(crate) fn orchestrator_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.orchestrator.exit_status()
    }
}

impl Worker {
    async fn start(role: WorkerRole, number: u32, args: &Args) -> anyhow::Result<Self> {
        let model = args.models.join(name(role)).display().to_string();
        let lease = args.lease().as_secs().to_string();
        let flags = ["--model", &model, "--session-lease-seconds", &lease, "--threads", "1"];
        let flags = flags.map(str::to_owned);
        let binary = args.binary(&format!("tandem-{}", name(role)))?;
        let process = blocking(move || Process::start(&binary, &flags)).await?;
        let loaded_bytes = process.resident_bytes();
        Ok(Self { role, number, process, loaded_bytes, complaints: Vec::new() })
    }

    /// Lets `act` have its process, on a thread that may block.
    async fn with<T: Send + 'static>(
        mut self,
        act: impl FnOnce(&mut Process) -> io::Result<T> + Send + 'static,
    ) -> anyhow::Result<(Self, T)> {
        let name = self.to_string();
        let acted = blocking(move || act(&mut self.process).map(|done| (self, done))).await;
        acted.with_context(|| format!("{name} does not do as it is told"))
    }

    /// `kill -9`.
    pub(crate) async fn kill(self) -> anyhow::Result<Self> {
        Ok(self.with(Process::kill).await?.0)
    }

    /// Sends a signal by name.
    pub(crate) async fn signal(self, name: &'static str) -> anyhow::Result<Self> {
        Ok(self.with(move |process| process.signal(name)).await?.0)
    }

    /// Another life, with its model loaded.
    pub(crate) async fn restart(self) -> anyhow::Result<Self> {
        let (mut worker, ()) = self.with(Process::restart).await?;
        worker.loaded_bytes = worker.resident_bytes();
        Ok(worker)
    }

    /// SIGTERM, and the end that must follow by itself.
    pub(crate) async fn drain(self) -> anyhow::Result<Self> {
        let mut worker = self.signal("TERM").await?;
        let begun = Instant::now();
        loop {
            let ended;
            (worker, ended) = worker.with(|process| process.ends_within(SLICE)).await?;
            if ended {
                break;
            }
            if begun.elapsed() > DRAIN_PATIENCE {
                let complaint = format!("{worker} still ran {} s after SIGTERM", DRAIN_PATIENCE.as_secs());
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

    /// Complains if it has ended by itself.
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
        write!(f, "{} {} at {}", name(self.role), self.number, self.process.address())
    }
}

/// What a role is called: in directories, in binaries, and in sentences.
pub(crate) fn name(role: WorkerRole) -> &'static str {
    match role {
        WorkerRole::Draft => "draft",
        WorkerRole::Target => "target",
        WorkerRole::Unspecified => "worker",
    }
}

/// Processes are waited for on threads that may block.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(act).await??)
}
