//! What a service needs to know to serve and to log. Binaries fill these structs, from flags or otherwise.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::metrics::MetricsPrefix;
use crate::reload::FileError;
use crate::tls::{ServerTls, TlsFiles};

pub(crate) const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(crate) const MAX_SESSIONS: usize = 64;
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(20);

/// Where a service listens, and within which limits it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Address for gRPC; with port 0 the system chooses one.
    pub listen: SocketAddr,
    /// Address for HTTP; `None`: no HTTP.
    pub http_listen: Option<SocketAddr>,
    /// Prefix under which common metrics are repeated.
    pub metrics_alias: Option<MetricsPrefix>,
    /// Sessions held at once.
    pub max_sessions: usize,
    /// How long a shutdown waits for sessions to end.
    pub shutdown_grace: Duration,
    /// Certificates of the service; `None`: plain text.
    pub tls: Option<TlsFiles>,
}

impl Default for ServeConfig {
    /// gRPC on a free loopback port, in plain text.
    fn default() -> Self {
        Self {
            listen: LISTEN,
            http_listen: None,
            metrics_alias: None,
            max_sessions: MAX_SESSIONS,
            shutdown_grace: SHUTDOWN_GRACE,
            tls: None,
        }
    }
}

impl ServeConfig {
    /// Reads the certificates, if the service is to use TLS.
    pub fn load_tls(&self) -> Result<Option<ServerTls>, FileError> {
        self.tls.as_ref().map(TlsFiles::load).transpose()
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives in the syntax of `RUST_LOG`; `None`: the default of the program.
    pub filter: Option<String>,
    /// Format of the log.
    pub format: LogFormat,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}
