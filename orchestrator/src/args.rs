//! Flags and environment variables of the orchestrator. Only its binaries read them: they turn them into an
//! [`OrchestratorConfig`].

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tandem_serving::ClientTlsFiles;
use tandem_serving::args::{LogArgs, ServeArgs, seconds};

use crate::config::{AccessConfig, OrchestratorConfig};
use crate::workers::{WorkerName, WorkerNames, WorkerTimeouts};

/// Flags of [`OrchestratorConfig`], and of the log.
#[derive(Clone, Debug, Parser)]
pub struct OrchestratorArgs {
    /// URLs of draft workers, separated by commas; a name that resolves to several addresses stands for as many workers
    #[arg(long, env = "TANDEM_DRAFT_URL", value_name = "URL", value_delimiter = ',', required = true)]
    pub draft: Vec<WorkerName>,

    /// URLs of target workers, in the same way
    #[arg(long, env = "TANDEM_TARGET_URL", value_name = "URL", value_delimiter = ',', required = true)]
    pub target: Vec<WorkerName>,

    /// Seconds to wait at the start for workers that do not listen yet
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

/// Flags of the public API: the model's name, timeouts and queues.
#[derive(clap::Args, Clone, Debug)]
pub struct LimitArgs {
    /// What clients call the model [default: the name that the target loaded it by]
    #[arg(long, env = "TANDEM_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Seconds that one request to a worker may take, the prefill of a prompt included
    #[arg(long, env = "TANDEM_STEP_SECONDS", default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub step_seconds: Duration,

    /// Seconds that one request to a draft may take before the generation goes on without drafts
    #[arg(long, env = "TANDEM_DRAFT_SECONDS", default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub draft_seconds: Duration,

    /// Seconds without a sign of life after which a worker is considered lost
    #[arg(
        long, env = "TANDEM_WORKER_SILENCE_SECONDS", default_value = "4", value_name = "SECONDS",
        value_parser = seconds
    )]
    pub worker_silence_seconds: Duration,

    /// Seconds that a generation waits for a target when none is available
    #[arg(
        long, env = "TANDEM_FAILOVER_SECONDS", default_value = "60", value_name = "SECONDS",
        value_parser = seconds
    )]
    pub failover_seconds: Duration,

    /// Seconds between two resolutions of the workers' names
    #[arg(
        long, env = "TANDEM_RESOLVE_SECONDS", default_value = "5", value_name = "SECONDS", value_parser = seconds
    )]
    pub resolve_seconds: Duration,

    /// Seconds that a generation may take; a client's own deadline may be shorter
    #[arg(
        long, env = "TANDEM_MAX_REQUEST_SECONDS", default_value = "600", value_name = "SECONDS",
        value_parser = seconds
    )]
    pub max_request_seconds: Duration,

    /// Generations that one client, by its IP address, may run or have queued at once [default: any number]
    #[arg(long, env = "TANDEM_MAX_SESSIONS_PER_CLIENT", value_name = "N")]
    pub max_sessions_per_client: Option<usize>,

    /// Generations that may be queued; more are refused with RESOURCE_EXHAUSTED
    #[arg(long, env = "TANDEM_MAX_WAITING", default_value_t = 64, value_name = "N")]
    pub max_waiting: usize,

    /// Seconds that a generation may be queued
    #[arg(
        long, env = "TANDEM_MAX_WAITING_SECONDS", default_value = "5", value_name = "SECONDS",
        value_parser = seconds
    )]
    pub max_waiting_seconds: Duration,
}

/// Flags of the certificates for workers.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct WorkerTlsArgs {
    /// CA certificates for https:// workers, PEM; read again when the file changes [default: those of the system]
    #[arg(long, env = "TANDEM_WORKER_CA", value_name = "FILE")]
    pub worker_ca: Option<PathBuf>,

    /// Certificate to present to workers that require one (mutual TLS), PEM
    #[arg(long, env = "TANDEM_WORKER_CERT", value_name = "FILE", requires = "worker_key")]
    pub worker_cert: Option<PathBuf>,

    /// Private key of that certificate, PEM
    #[arg(long, env = "TANDEM_WORKER_KEY", value_name = "FILE", requires = "worker_cert")]
    pub worker_key: Option<PathBuf>,
}

/// Flags of [`AccessConfig`].
#[derive(clap::Args, Clone, Debug, Default)]
pub struct AccessArgs {
    /// File of API keys, one per line: NAME KEY [concurrent=N] [tokens_per_minute=N]; read again when it changes [default: no keys,
    /// every client is admitted]
    #[arg(long, env = "TANDEM_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,

    /// Log the prompts of all requests, with the names of their keys
    #[arg(long, env = "TANDEM_LOG_PROMPTS")]
    pub log_prompts: bool,
}

impl From<OrchestratorArgs> for OrchestratorConfig {
    fn from(args: OrchestratorArgs) -> Self {
        let workers = WorkerNames { draft: args.draft, target: args.target };
        let mut config = Self {
            worker_tls: args.worker_tls.into(),
            connect_timeout: Duration::from_secs(args.connect_seconds),
            access: args.access.into(),
            serve: args.serve.into(),
            ..Self::new(workers)
        };
        args.limits.apply(&mut config);
        config
    }
}

impl LimitArgs {
    /// Writes the flags into a configuration.
    pub fn apply(self, config: &mut OrchestratorConfig) {
        config.served_model_name = self.served_model_name;
        config.worker_timeouts = WorkerTimeouts {
            request: self.step_seconds,
            draft_request: self.draft_seconds.min(self.step_seconds),
            silence: self.worker_silence_seconds,
            failover: self.failover_seconds,
            resolve_interval: self.resolve_seconds,
        };
        config.request_timeout = self.max_request_seconds;
        config.max_sessions_per_client = self.max_sessions_per_client;
        config.max_queued = self.max_waiting;
        config.queue_timeout = self.max_waiting_seconds;
    }
}

impl From<WorkerTlsArgs> for ClientTlsFiles {
    fn from(args: WorkerTlsArgs) -> Self {
        Self { ca: args.worker_ca, identity: args.worker_cert.zip(args.worker_key) }
    }
}

impl From<AccessArgs> for AccessConfig {
    fn from(args: AccessArgs) -> Self {
        Self { api_keys_file: args.api_keys_file, log_prompts: args.log_prompts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_flags_a_configuration_is_the_default() {
        let flags = "orchestrator --draft http://draft:1 --target http://target:1";
        let config = OrchestratorConfig::from(OrchestratorArgs::parse_from(flags.split(' ')));
        let default = OrchestratorConfig::new(config.workers.clone());
        assert_eq!(format!("{config:?}"), format!("{default:?}"));
        assert_eq!(config.workers.target[0].to_string(), "http://target:1");
    }

    #[test]
    fn a_draft_has_no_longer_than_any_worker() {
        let flags = "orchestrator --draft http://draft:1 --target http://target:1 --step-seconds 3";
        let config = OrchestratorConfig::from(OrchestratorArgs::parse_from(flags.split(' ')));
        assert_eq!(config.worker_timeouts.draft_request, Duration::from_secs(3));
    }
}
