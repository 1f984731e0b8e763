use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::metrics_prefix;

/// Where and for how many a service serves.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Address to listen on; port 0 lets the system choose one
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0", value_name = "IP:PORT")]
    pub listen: SocketAddr,

    /// Address for HTTP: /health, /ready and /metrics, and of the orchestrator its API [default: no HTTP]
    #[arg(long, env = "HTTP_LISTEN", value_name = "IP:PORT")]
    pub http_listen: Option<SocketAddr>,

    /// Repeats the metrics that other servers have too with this in front of their names, as in vllm:
    #[arg(long, env = "METRICS_ALIAS", value_name = "PREFIX", value_parser = metrics_prefix)]
    pub metrics_alias: Option<String>,

    /// Sessions held at once; more are refused with RESOURCE_EXHAUSTED
    #[arg(long, env = "MAX_SESSIONS", default_value_t = 64, value_name = "N")]
    pub max_sessions: usize,

    /// Seconds that a shutdown waits for sessions to end or to be handed over; a second signal ends the wait
    #[arg(long, env = "SHUTDOWN_GRACE_SECONDS", default_value_t = 20, value_name = "SECONDS")]
    pub shutdown_grace_seconds: u64,
}

impl ServeArgs {
    /// The grace as a duration.
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_grace_seconds)
    }
}

/// What is logged, and how.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug or trace, also by module (info,tandem_engine=debug) [default: info; warn for
    /// generate]
    #[arg(long, env = "RUST_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// How to log
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// A flag in seconds, from a millisecond to eleven days.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|s| (1e-3..=1e6).contains(s));
    let seconds = seconds.ok_or_else(|| format!("{text:?} is no time: give seconds, 0.001 to 1000000"))?;
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_numbers_within_reason() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        for nonsense in ["", "x", "0", "-1", "inf", "NaN", "1e7"] {
            assert!(seconds(nonsense).is_err(), "{nonsense}");
        }
    }
}
