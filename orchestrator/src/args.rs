use std::time::Duration;

use clap::Parser;
use tandem_serving::AdmissionLimits;
use tandem_serving::args::{LogArgs, ServeArgs, seconds};

use crate::{AccessArgs, WorkerLimits, WorkerName, WorkerNames, WorkerTlsArgs};

/// Flags of the orchestrator.
#[derive(Clone, Debug, Parser)]
pub struct OrchestratorArgs {
    /// URLs of draft workers, separated by commas; a name that resolves to several addresses is as many workers
    #[arg(long, env = "TANDEM_DRAFT_URL", value_name = "URL", value_delimiter = ',', required = true)]
    pub draft: Vec<WorkerName>,

    /// URLs of target workers, in the same way
    #[arg(long, env = "TANDEM_TARGET_URL", value_name = "URL", value_delimiter = ',', required = true)]
    pub target: Vec<WorkerName>,

    /// What clients call the model [default: the name that the target loaded it by]
    #[arg(long, env = "TANDEM_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Seconds to wait at start for workers that do not listen yet
    #[arg(long, env = "TANDEM_CONNECT_SECONDS", default_value_t = 60, value_name = "SECONDS")]
    pub connect_seconds: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub worker_tls: WorkerTlsArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub access: AccessArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub limits: LimitArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub serve: ServeArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub log: LogArgs,
}

/// How long things may take, and how much may wait.
#[derive(clap::Args, Clone, Debug)]
pub struct LimitArgs {
    /// Seconds that one request to a worker may take, the prefill of a prompt included
    #[arg(long, env = "TANDEM_STEP_SECONDS", default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub step_seconds: Duration,

    /// Seconds that one request to a draft may take before the text goes on without drafts
    #[arg(long, env = "TANDEM_DRAFT_SECONDS", default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub draft_seconds: Duration,

    /// Seconds without a sign of life after which a worker is given up
    #[arg(long, env = "TANDEM_WORKER_SILENCE_SECONDS", default_value = "4", value_name = "SECONDS", value_parser = seconds)]
    pub worker_silence_seconds: Duration,

    /// Seconds that a text waits for a target when none is left
    #[arg(long, env = "TANDEM_FAILOVER_SECONDS", default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub failover_seconds: Duration,

    /// Seconds between two looks at what the names of workers resolve to
    #[arg(long, env = "TANDEM_RESOLVE_SECONDS", default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub resolve_seconds: Duration,

    /// Seconds that a generation may take at most; a client's own deadline may be shorter
    #[arg(long, env = "TANDEM_MAX_REQUEST_SECONDS", default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub max_request_seconds: Duration,

    /// Generations that one client, by its IP address, may run or have waiting at once [default: any number]
    #[arg(long, env = "TANDEM_MAX_SESSIONS_PER_CLIENT", value_name = "N")]
    pub max_sessions_per_client: Option<usize>,

    /// Generations that may wait for a place; more are refused with RESOURCE_EXHAUSTED
    #[arg(long, env = "TANDEM_MAX_WAITING", default_value_t = 64, value_name = "N")]
    pub max_waiting: usize,

    /// Seconds that they may wait
    #[arg(long, env = "TANDEM_MAX_WAITING_SECONDS", default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub max_waiting_seconds: Duration,
}

impl OrchestratorArgs {
    /// How long a start waits for a worker.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.connect_seconds)
    }

    /// Keys that everybody on the way can read are no keys.
    pub fn warn_of_open_keys(&self) {
        let local = self.serve.listen.ip().is_loopback()
            && self.serve.http_listen.is_none_or(|a| a.ip().is_loopback());
        if self.access.api_keys_file.is_some() && self.serve.tls.tls_cert.is_none() && !local {
            tracing::warn!(
                "API keys travel in plain text: give --tls-cert, unless something in front of this service speaks TLS"
            );
        }
    }

    /// Where the workers are.
    pub fn names(&self) -> WorkerNames {
        WorkerNames { draft: self.draft.clone(), target: self.target.clone() }
    }

    /// AdmissionControl of generations.
    pub fn admission(&self) -> AdmissionLimits {
        AdmissionLimits {
            permits: self.serve.max_sessions,
            per_client: self.limits.max_sessions_per_client.unwrap_or(usize::MAX),
            queue: self.limits.max_waiting,
            queue_timeout: self.limits.max_waiting_seconds,
        }
    }
}

impl LimitArgs {
    /// What concerns workers.
    pub fn workers(&self) -> WorkerLimits {
        WorkerLimits {
            step: self.step_seconds,
            draft: self.draft_seconds.min(self.step_seconds),
            silence: self.worker_silence_seconds,
            patience: self.failover_seconds,
            resolve: self.resolve_seconds,
        }
    }
}
