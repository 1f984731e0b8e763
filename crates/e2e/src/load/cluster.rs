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

use crate::args::Setup;

/// Between two questions whether all is freed.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Files of a pair.
pub(crate) struct Models {
    draft: PathBuf,
    target: PathBuf,
    /// Of files that were made for it.
    _directory: Option<TempDir>,
}

impl Models {
    /// The pair in a directory.
    pub(crate) fn pair(directory: &Path) -> Self {
        Self { draft: directory.join("draft"), target: directory.join("target"), _directory: None }
    }

    /// Random weights in the shapes of the pair in `directory`, with another context.
    pub(crate) fn random(directory: &Path, context_tokens: u32) -> anyhow::Result<Self> {
        let made = tempfile::tempdir().context("no directory for configurations can be made")?;
        let configuration = |role: &str| -> anyhow::Result<PathBuf> {
            let (from, to) = (directory.join(role), made.path().join(role));
            let read = |name: &str| {
                let path = from.join(name);
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
            };
            let mut config: serde_json::Value = serde_json::from_slice(&read("config.json")?)?;
            config["max_position_embeddings"] = context_tokens.into();
            std::fs::create_dir(&to)?;
            std::fs::write(to.join("tokenizer.json"), read("tokenizer.json")?)?;
            std::fs::write(to.join("config.json"), config.to_string())?;
            Ok(to.join("config.json"))
        };
        let (draft, target) = (configuration("draft")?, configuration("target")?);
        Ok(Self { draft, target, _directory: Some(made) })
    }
}

/// Flags beyond where things are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// Of both workers.
    pub(crate) workers: Vec<String>,
    pub(crate) orchestrator: Vec<String>,
}

/// A draft, a target and an orchestrator before them.
pub(crate) struct Cluster {
    draft: Process,
    target: Process,
    orchestrator: Process,
    /// A connection for questions, which do not wait behind requests.
    client: Client,
    /// Tokens that both models have.
    pub(crate) vocab: u32,
    /// Tokens that a text may have.
    pub(crate) context: u32,
}

/// Resident memory, in MiB; nothing where the system does not tell.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) draft: f64,
    pub(crate) target: f64,
    pub(crate) orchestrator: f64,
}

/// Whether all that clients had is free again.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settled {
    /// Until it was.
    pub(crate) after_seconds: f64,
    /// What was still held when patience ended.
    pub(crate) left: Option<String>,
}

impl Cluster {
    pub(crate) async fn start(setup: &Setup, models: &Models, flags: Flags) -> anyhow::Result<Self> {
        let binaries = setup.binaries()?;
        let worker = |name: &str, model: &Path| {
            let mut args = vec!["--model".to_owned(), model.display().to_string()];
            args.extend(setup.worker_flags().into_iter().chain(flags.workers.clone()));
            Process::start(&binaries.join(name), &args)
        };
        let draft = worker("tandem-draft", &models.draft)?;
        let target = worker("tandem-target", &models.target)?;
        let mut args = vec!["--draft".to_owned(), draft.url(), "--target".to_owned(), target.url()];
        args.extend(flags.orchestrator.clone());
        let orchestrator = Process::start(&binaries.join("tandem-orchestrator"), &args)?;
        let mut client = connect(&orchestrator.url()).await?;
        let status = client.get_status(v1::GetStatusRequest {}).await?.into_inner();
        ensure!(status.vocab_size > 0, "the orchestrator names no vocabulary to draw prompts from");
        let (vocab, context) = (status.vocab_size, status.context_length);
        Ok(Self { draft, target, orchestrator, client, vocab, context })
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
        let mib = |process: &Process| process.resident_bytes().unwrap_or(0) as f64 / f64::from(1 << 20);
        Memory { draft: mib(&self.draft), target: mib(&self.target), orchestrator: mib(&self.orchestrator) }
    }

    /// Waits until nothing runs and no worker holds a session or a KV-cache row.
    pub(crate) async fn settle(&mut self, patience: Duration) -> anyhow::Result<Settled> {
        let begun = Instant::now();
        // Nothing tells when the last is freed: it is asked for.
        let mut ticks = interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let status = self.client.get_status(v1::GetStatusRequest {}).await?.into_inner();
            let left = held(&status);
            if left.is_none() || begun.elapsed() >= patience {
                return Ok(Settled { after_seconds: begun.elapsed().as_secs_f64(), left });
            }
        }
    }
}

impl Memory {
    /// By process.
    pub(crate) fn parts(&self) -> [(&'static str, f64); 3] {
        [("draft", self.draft), ("target", self.target), ("orchestrator", self.orchestrator)]
    }
}

/// What is not free; `None` if all is.
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
