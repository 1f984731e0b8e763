use std::time::Duration;

use clap::Parser;
use tandem_serving::{LogArgs, PlaceLimits, ServeArgs};

use crate::{WorkerLimits, WorkerName, WorkerNames};

/// Flags of the orchestrator.
#[derive(Clone, Debug, Parser)]
pub struct OrchestratorArgs {
    /// URLs of draft workers, separated by commas; a name that resolves to several addresses is as many workers
    #[arg(long, env = "DRAFT_URL", value_name = "URL", value_delimiter = ',', required = true)]
    pub draft: Vec<WorkerName>,

    /// URLs of target workers, in the same way
    #[arg(long, env = "TARGET_URL", value_name = "URL", value_delimiter = ',', required = true)]
    pub target: Vec<WorkerName>,

    /// Seconds to wait at start for workers that do not listen yet
    #[arg(long, env = "CONNECT_SECONDS", default_value_t = 60, value_name = "SECONDS")]
    pub connect_seconds: u64,

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
    #[arg(long, env = "STEP_SECONDS", default_value_t = 60.0, value_name = "SECONDS")]
    pub step_seconds: f64,

    /// Seconds without a sign of life after which a worker is given up
    #[arg(long, env = "WORKER_SILENCE_SECONDS", default_value_t = 4.0, value_name = "SECONDS")]
    pub worker_silence_seconds: f64,

    /// Seconds that a text waits for a target when none is left
    #[arg(long, env = "FAILOVER_SECONDS", default_value_t = 60.0, value_name = "SECONDS")]
    pub failover_seconds: f64,

    /// Seconds between two looks at what the names of workers resolve to
    #[arg(long, env = "RESOLVE_SECONDS", default_value_t = 5.0, value_name = "SECONDS")]
    pub resolve_seconds: f64,

    /// Seconds that a generation may take at most; a client's own deadline may be shorter
    #[arg(long, env = "MAX_REQUEST_SECONDS", default_value_t = 600.0, value_name = "SECONDS")]
    pub max_request_seconds: f64,

    /// Generations that may wait for a place; more are refused with RESOURCE_EXHAUSTED
    #[arg(long, env = "MAX_WAITING", default_value_t = 64, value_name = "N")]
    pub max_waiting: usize,

    /// Seconds that they may wait
    #[arg(long, env = "MAX_WAITING_SECONDS", default_value_t = 5.0, value_name = "SECONDS")]
    pub max_waiting_seconds: f64,
}

/// `seconds` as a duration, at least a millisecond; what is no number is that, too.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default().max(Duration::from_millis(1))
}

impl OrchestratorArgs {
    /// How long a start waits for a worker.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.connect_seconds)
    }

    /// Where the workers are.
    pub fn names(&self) -> WorkerNames {
        WorkerNames { draft: self.draft.clone(), target: self.target.clone() }
    }

    /// Places of generations.
    pub fn places(&self) -> PlaceLimits {
        PlaceLimits {
            total: self.serve.max_sessions,
            per_client: self.serve.per_client(),
            waiting: self.limits.max_waiting,
            patience: duration(self.limits.max_waiting_seconds),
        }
    }
}

impl LimitArgs {
    /// What concerns workers.
    pub fn workers(&self) -> WorkerLimits {
        WorkerLimits {
            step: duration(self.step_seconds),
            silence: duration(self.worker_silence_seconds),
            patience: duration(self.failover_seconds),
            resolve: duration(self.resolve_seconds),
        }
    }

    /// How long a generation may take.
    pub fn request(&self) -> Duration {
        duration(self.max_request_seconds)
    }
}
