//! The three processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tandem_cli::client::{Client, connect};
use tandem_proto::v1;
use tandem_testkit::processes::Process;
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::args::Setup;

/// How often the status is polled.
const STATUS_POLL: Duration = Duration::from_millis(20);

/// The files of a pair.
pub(crate) struct Models {
    draft: PathBuf,
    target: PathBuf,
    /// Deletes files that were made for it.
    _directory: Option<TempDir>,
}

impl Models {
    /// The pair in a directory.
    pub(crate) fn pair(directory: &Path) -> Self {
        Self { draft: directory.join("draft"), target: directory.join("target"), _directory: None }
    }

    /// A pair with random weights in the shapes of the pair in `directory`, with another context.
    pub(crate) fn random(directory: &Path, context_tokens: u32) -> anyhow::Result<Self> {
        let made = tempfile::tempdir().context("cannot make a directory for configurations")?;
        let draft = configuration(&directory.join("draft"), &made.path().join("draft"), context_tokens)?;
        let target = configuration(&directory.join("target"), &made.path().join("target"), context_tokens)?;
        Ok(Self { draft, target, _directory: Some(made) })
    }
}

/// Copies the configuration and the tokenizer of the model in `from` to `to`, and returns the new configuration.
fn configuration(from: &Path, to: &Path, context_tokens: u32) -> anyhow::Result<PathBuf> {
    let mut config: serde_json::Value = serde_json::from_slice(&read(&from.join("config.json"))?)?;
    config["max_position_embeddings"] = context_tokens.into();
    std::fs::create_dir(to)?;
    std::fs::write(to.join("tokenizer.json"), read(&from.join("tokenizer.json"))?)?;
    let path = to.join("config.json");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// More flags of the services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// Flags of both workers.
    pub(crate) workers: Vec<String>,
    pub(crate) orchestrator: Vec<String>,
}

/// A draft, a target and their orchestrator.
pub(crate) struct Cluster {
    draft: Process,
    target: Process,
    orchestrator: Process,
    /// A connection for status requests, which must not wait for others.
    client: Client,
    /// Size of the common vocabulary.
    pub(crate) vocab: u32,
    /// Tokens that a sequence may have.
    pub(crate) context: u32,
}

/// Resident memory, in MiB; 0 where there is no /proc.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) draft: f64,
    pub(crate) target: f64,
    pub(crate) orchestrator: f64,
}

/// Whether everything that clients held is free again.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settled {
    /// How long that took.
    pub(crate) after_seconds: f64,
    /// What was still held when the timeout passed.
    pub(crate) left: Option<String>,
}

impl Cluster {
    pub(crate) async fn start(setup: &Setup, models: &Models, flags: Flags) -> anyhow::Result<Self> {
        let draft = start_worker(setup, "tandem-draft", &models.draft, &flags.workers)?;
        let target = start_worker(setup, "tandem-target", &models.target, &flags.workers)?;
        let mut args = vec!["--draft".to_owned(), draft.url(), "--target".to_owned(), target.url()];
        args.extend(flags.orchestrator.clone());
        let orchestrator = Process::start(&setup.programs.binary("tandem-orchestrator")?, &args)?;
        let mut client = connect(&orchestrator.url()).await?;
        let status = client.get_status(v1::GetStatusRequest {}).await?.into_inner();
        ensure!(status.vocab_size > 0, "the orchestrator does not report the size of its vocabulary");
        Ok(Self {
            draft,
            target,
            orchestrator,
            client,
            vocab: status.vocab_size,
            context: status.context_length,
        })
    }

    /// Connections to the orchestrator.
    pub(crate) async fn connect(&self, connections: usize) -> anyhow::Result<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(connect(&self.orchestrator.url()).await?);
        }
        Ok(clients)
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory {
            draft: mebibytes(&self.draft),
            target: mebibytes(&self.target),
            orchestrator: mebibytes(&self.orchestrator),
        }
    }

    /// Waits until nothing runs and no worker holds a session or a KV-cache row.
    pub(crate) async fn settle(&mut self, timeout: Duration) -> anyhow::Result<Settled> {
        let begun = Instant::now();
        // That the last session was freed is not an event here, so this polls.
        let mut ticks = interval(STATUS_POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let status = self.client.get_status(v1::GetStatusRequest {}).await?.into_inner();
            let left = held(&status);
            if left.is_none() || begun.elapsed() >= timeout {
                return Ok(Settled { after_seconds: begun.elapsed().as_secs_f64(), left });
            }
        }
    }
}

fn start_worker(setup: &Setup, program: &str, model: &Path, flags: &[String]) -> anyhow::Result<Process> {
    let mut args = vec!["--model".to_owned(), model.display().to_string()];
    args.extend(setup.worker_flags());
    args.extend_from_slice(flags);
    Ok(Process::start(&setup.programs.binary(program)?, &args)?)
}

fn mebibytes(process: &Process) -> f64 {
    process.resident_bytes().unwrap_or(0) as f64 / f64::from(1 << 20)
}

impl Memory {
    /// By process.
    pub(crate) fn parts(&self) -> [(&'static str, f64); 3] {
        [("draft", self.draft), ("target", self.target), ("orchestrator", self.orchestrator)]
    }
}

/// What is still held, or `None`.
fn held(status: &v1::GetStatusResponse) -> Option<String> {
    let mut held = Vec::new();
    if status.running + status.waiting > 0 {
        held.push(format!("{} generations run and {} wait", status.running, status.waiting));
    }
    for worker in &status.workers {
        let role = worker.role().as_str_name().trim_start_matches("WORKER_ROLE_").to_lowercase();
        match worker.load {
            None => held.push(format!("the {role} does not answer")),
            Some(load) if load.sessions > 0 || load.kv_cache_tokens_used > 0 => held.push(format!(
                "the {role} holds {} sessions and {} KV-cache tokens",
                load.sessions, load.kv_cache_tokens_used
            )),
            Some(_) if worker.sessions > 0 => {
                held.push(format!("the orchestrator counts {} sessions on the {role}", worker.sessions));
            }
            Some(_) => {}
        }
    }
    (!held.is_empty()).then(|| held.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_named() {
        let worker = |sessions, kv_cache_tokens_used| v1::WorkerStatus {
            role: v1::WorkerRole::Draft.into(),
            load: Some(v1::Load { sessions, kv_cache_tokens_used }),
            ..v1::WorkerStatus::default()
        };
        let status = |running, workers| v1::GetStatusResponse { running, workers, ..Default::default() };
        assert_eq!(held(&status(0, vec![worker(0, 0)])), None);
        let left = held(&status(2, vec![worker(0, 0), worker(1, 70)])).unwrap();
        assert_eq!(left, "2 generations run and 0 wait, the draft holds 1 sessions and 70 KV-cache tokens");
        let silent = v1::WorkerStatus::default();
        assert!(held(&status(0, vec![silent])).unwrap().contains("does not answer"));
    }
}
