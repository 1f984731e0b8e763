//! Flags and environment variables that several binaries have in common. The libraries never read these structs: a binary turns
//! them into the structs of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::config::{LISTEN, LogConfig, LogFormat, MAX_SESSIONS, SHUTDOWN_GRACE, ServeConfig};
use crate::metrics::MetricsPrefix;
use crate::tls::TlsFiles;

/// Flags of [`ServeConfig`].
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Address to listen on; port 0 lets the system choose one
    #[arg(long, env = "TANDEM_LISTEN", default_value_t = LISTEN, value_name = "IP:PORT")]
    pub listen: SocketAddr,

    /// Address for HTTP: /health, /ready and /metrics, and the API of the orchestrator [default: no HTTP]
    #[arg(long, env = "TANDEM_HTTP_LISTEN", value_name = "IP:PORT")]
    pub http_listen: Option<SocketAddr>,

    /// Repeat the metrics that other servers have too under this prefix, as in vllm:
    #[arg(long, env = "TANDEM_METRICS_ALIAS", value_name = "PREFIX")]
    pub metrics_alias: Option<MetricsPrefix>,

    /// Sessions held at once; more are refused with RESOURCE_EXHAUSTED
    #[arg(long, env = "TANDEM_MAX_SESSIONS", default_value_t = MAX_SESSIONS, value_name = "N")]
    pub max_sessions: usize,

    /// Seconds that a shutdown waits for sessions to end or to be handed over; a second signal ends the wait
    #[arg(
        long,
        env = "TANDEM_SHUTDOWN_GRACE_SECONDS",
        default_value_t = SHUTDOWN_GRACE.as_secs(),
        value_name = "SECONDS"
    )]
    pub shutdown_grace_seconds: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub tls: TlsArgs,
}

impl From<ServeArgs> for ServeConfig {
    fn from(args: ServeArgs) -> Self {
        Self {
            listen: args.listen,
            http_listen: args.http_listen,
            metrics_alias: args.metrics_alias,
            max_sessions: args.max_sessions,
            shutdown_grace: Duration::from_secs(args.shutdown_grace_seconds),
            tls: args.tls.into(),
        }
    }
}

/// Flags of [`TlsFiles`].
#[derive(Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// Certificate of this service, followed by any intermediate certificates, PEM; the service then accepts TLS only; read again
    /// when it changes
    #[arg(long, env = "TANDEM_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM
    #[arg(long, env = "TANDEM_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// CA certificates, PEM; clients must then present a certificate that one of them signed (mutual TLS)
    #[arg(long, env = "TANDEM_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

impl From<TlsArgs> for Option<TlsFiles> {
    fn from(args: TlsArgs) -> Self {
        let (cert, key) = args.tls_cert.zip(args.tls_key)?;
        Some(TlsFiles { cert, key, client_ca: args.tls_client_ca })
    }
}

/// Flags of [`LogConfig`].
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug or trace, also by module (info,tandem_engine=debug) [default: info; warn for
    /// generate]
    #[arg(long, env = "RUST_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// Format of the log
    #[arg(long, env = "TANDEM_LOG_FORMAT", default_value = "text", value_parser = log_format())]
    pub log_format: LogFormat,
}

impl From<LogArgs> for LogConfig {
    fn from(args: LogArgs) -> Self {
        Self { filter: args.log, format: args.log_format }
    }
}

fn log_format() -> impl TypedValueParser<Value = LogFormat> {
    let text = PossibleValue::new("text").help("Lines for people");
    let json = PossibleValue::new("json").help("One JSON object per line");
    PossibleValuesParser::new([text, json]).map(|name| match name.as_str() {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    })
}

/// Parses a duration in seconds, from one millisecond to eleven days.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|s| (1e-3..=1e6).contains(s));
    let seconds = seconds
        .ok_or_else(|| format!("{text:?} is not a valid time: give seconds, from 0.001 to 1000000"))?;
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        serve: ServeArgs,
        #[command(flatten)]
        log: LogArgs,
    }

    fn parse(flags: &str) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(flags.split(' '))
    }

    #[test]
    fn without_flags_a_configuration_is_the_default() {
        let flags = parse("service").unwrap();
        assert_eq!(ServeConfig::from(flags.serve), ServeConfig::default());
        assert_eq!(LogConfig::from(flags.log), LogConfig::default());
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let flags = parse(
            "service --listen 127.0.0.1:1 --http-listen 127.0.0.1:2 --metrics-alias vllm: --max-sessions 3 \
             --shutdown-grace-seconds 4 --tls-cert c --tls-key k --tls-client-ca a --log debug --log-format json",
        )
        .unwrap();
        let tls = TlsFiles { cert: "c".into(), key: "k".into(), client_ca: Some("a".into()) };
        let expected = ServeConfig {
            listen: "127.0.0.1:1".parse().unwrap(),
            http_listen: Some("127.0.0.1:2".parse().unwrap()),
            metrics_alias: Some("vllm:".parse().unwrap()),
            max_sessions: 3,
            shutdown_grace: Duration::from_secs(4),
            tls: Some(tls),
        };
        assert_eq!(ServeConfig::from(flags.serve), expected);
        let expected = LogConfig { filter: Some("debug".into()), format: LogFormat::Json };
        assert_eq!(LogConfig::from(flags.log), expected);
    }

    #[test]
    fn invalid_flags_are_refused() {
        for flags in ["--tls-cert c", "--tls-client-ca a", "--log-format xml", "--metrics-alias 1a"] {
            assert!(parse(&format!("service {flags}")).is_err(), "{flags}");
        }
    }

    #[test]
    fn seconds_are_numbers_in_a_sensible_range() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        for invalid in ["", "x", "0", "-1", "inf", "NaN", "1e7"] {
            assert!(seconds(invalid).is_err(), "{invalid}");
        }
    }
}
