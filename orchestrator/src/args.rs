use std::time::Duration;

use clap::Parser;
use tandem_serving::{LogArgs, ServeArgs};

/// Flags of the orchestrator.
#[derive(Clone, Debug, Parser)]
pub struct OrchestratorArgs {
    /// URL of the draft service
    #[arg(long, env = "DRAFT_URL", value_name = "URL")]
    pub draft: String,

    /// URL of the target service
    #[arg(long, env = "TARGET_URL", value_name = "URL")]
    pub target: String,

    /// Seconds to wait at start for workers that do not listen yet
    #[arg(long, env = "CONNECT_SECONDS", default_value_t = 60, value_name = "SECONDS")]
    pub connect_seconds: u64,

    /// Seconds that one request to a worker may take, the prefill of a prompt included
    #[arg(long, env = "STEP_SECONDS", default_value_t = 60, value_name = "SECONDS")]
    pub step_seconds: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub serve: ServeArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub log: LogArgs,
}

impl OrchestratorArgs {
    /// How long a start waits for a worker.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.connect_seconds)
    }

    /// How long a step may take.
    pub fn step_timeout(&self) -> Duration {
        Duration::from_secs(self.step_seconds.max(1))
    }
}
