//! The configuration of an orchestrator. Binaries fill these structs, from flags or otherwise.

use std::path::PathBuf;
use std::time::Duration;

use tandem_serving::{AdmissionLimits, ClientTlsFiles, ServeConfig};

use crate::workers::{WorkerNames, WorkerTimeouts};

/// The configuration of an orchestrator.
#[derive(Clone, Debug)]
pub struct OrchestratorConfig {
    /// Where the workers are.
    pub workers: WorkerNames,
    /// The files for `https://` workers.
    pub worker_tls: ClientTlsFiles,
    /// How long requests to workers may take.
    pub worker_timeouts: WorkerTimeouts,
    /// How long the start waits for workers.
    pub connect_timeout: Duration,
    /// What clients call the model; `None` uses the target's own name.
    pub served_model_name: Option<String>,
    /// Who may use the API.
    pub access: AccessConfig,
    /// Generations that one client, by its IP address, may run or have queued at once; `None` sets no limit.
    pub max_sessions_per_client: Option<usize>,
    /// Generations that may be queued.
    pub max_queued: usize,
    /// How long a generation may be queued.
    pub queue_timeout: Duration,
    /// How long a generation may take.
    pub request_timeout: Duration,
    /// Where the orchestrator listens, and for how many generations at once.
    pub serve: ServeConfig,
}

/// Who may use the API, and what is logged of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// The file of API keys; `None` admits every client.
    pub api_keys_file: Option<PathBuf>,
    /// Whether the prompts of all requests are logged.
    pub log_prompts: bool,
}

impl OrchestratorConfig {
    /// The defaults around these workers.
    pub fn new(workers: WorkerNames) -> Self {
        Self {
            workers,
            worker_tls: ClientTlsFiles::default(),
            worker_timeouts: WorkerTimeouts::default(),
            connect_timeout: Duration::from_secs(60),
            served_model_name: None,
            access: AccessConfig::default(),
            max_sessions_per_client: None,
            max_queued: 64,
            queue_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(600),
            serve: ServeConfig::default(),
        }
    }

    /// The limits of admission control.
    pub fn admission_limits(&self) -> AdmissionLimits {
        AdmissionLimits {
            permits: self.serve.max_sessions,
            per_client: self.max_sessions_per_client.unwrap_or(usize::MAX),
            queue: self.max_queued,
            queue_timeout: self.queue_timeout,
        }
    }

    /// Warns if API keys would travel in plain text between hosts.
    pub fn warn_of_keys_in_plain_text(&self) {
        let is_local = self.serve.listen.ip().is_loopback()
            && self.serve.http_listen.is_none_or(|address| address.ip().is_loopback());
        if self.access.api_keys_file.is_some() && self.serve.tls.is_none() && !is_local {
            tracing::warn!(
                "API keys travel in plain text: give --tls-cert, unless a proxy in front of this service uses TLS"
            );
        }
    }
}
