//! Flags and environment variables of a worker. Only its binaries read them: they turn them into a [`WorkerConfig`].

mod model;

use std::time::Duration;

use clap::Parser;
use tandem_serving::args::{LogArgs, ServeArgs};

pub use self::model::ModelArgs;
use crate::config::{SESSION_LEASE, WorkerConfig};

/// Flags of [`WorkerConfig`], and of the log.
#[derive(Clone, Debug, Parser)]
pub struct WorkerArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub serve: ServeArgs,

    /// Sessions that one orchestrator, by its IP address, may hold at once [default: any number]
    #[arg(long, env = "TANDEM_MAX_SESSIONS_PER_ORCHESTRATOR", value_name = "N")]
    pub max_sessions_per_orchestrator: Option<usize>,

    /// Seconds without a step after which a session is removed; must be longer than an orchestrator waits for a slow client or worker
    #[arg(
        long,
        env = "TANDEM_SESSION_LEASE_SECONDS",
        default_value_t = SESSION_LEASE.as_secs(),
        value_name = "SECONDS"
    )]
    pub session_lease_seconds: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub log: LogArgs,
}

impl From<WorkerArgs> for WorkerConfig {
    fn from(args: WorkerArgs) -> Self {
        Self {
            serve: args.serve.into(),
            max_sessions_per_orchestrator: args.max_sessions_per_orchestrator,
            session_lease: Duration::from_secs(args.session_lease_seconds.max(1)),
            ..Self::new(args.model.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &str) -> WorkerConfig {
        WorkerArgs::try_parse_from(flags.split(' ')).unwrap().into()
    }

    #[test]
    fn without_flags_a_configuration_is_the_default() {
        let config = config("worker --model m");
        let default = WorkerConfig::default();
        assert_eq!(config.engine.model_id, "m");
        assert_eq!(config.serve, default.serve);
        assert_eq!(config.table_limits(), default.table_limits());
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let config = config(
            "worker --model m --max-sessions 7 --max-sessions-per-orchestrator 3 --session-lease-seconds 20",
        );
        let limits = config.table_limits();
        assert_eq!((limits.sessions, limits.per_client), (7, 3));
        assert_eq!(limits.lease, Duration::from_secs(20));
    }

    #[test]
    fn every_start_is_another_incarnation() {
        assert_ne!(config("worker --model m").incarnation, config("worker --model m").incarnation);
    }
}
