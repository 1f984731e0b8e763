//! What workers are called, and how long requests to them may take.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// `http://host:port`, or `https://`: one worker, or all that the name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerName {
    tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl FromStr for WorkerName {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let invalid = || format!("{url:?} is not the URL of a worker: write it like http://host:7701");
        let uri: tonic::transport::Uri = url.parse().map_err(|_| invalid())?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let (tls, default_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(invalid()),
        };
        match (uri.host(), uri.port_u16()) {
            (Some(host), port) if plain && !host.is_empty() => {
                // Only in a URL does an IPv6 address stand in brackets.
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Self { tls, host, port: port.unwrap_or(default_port) })
            }
            _ => Err(invalid()),
        }
    }
}

impl WorkerName {
    /// The name that its certificate must be valid for, if it is reached over TLS.
    pub(crate) fn tls_name(&self) -> Option<String> {
        self.tls.then(|| self.host.clone())
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, host, port } = self;
        let scheme = if *tls { "https" } else { "http" };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

/// Where the workers are.
#[derive(Clone, Debug, Default)]
pub struct WorkerNames {
    /// The names of the drafts.
    pub draft: Vec<WorkerName>,
    /// The names of the targets.
    pub target: Vec<WorkerName>,
}

/// How long requests to workers may take, and how often they are looked up.
#[derive(Clone, Copy, Debug)]
pub struct WorkerTimeouts {
    /// One request to a worker, the prefill of a prompt included.
    pub request: Duration,
    /// The same for a draft, without which a sequence goes on.
    pub draft_request: Duration,
    /// A worker that gives no sign of life for this long is lost.
    pub silence: Duration,
    /// How long a sequence waits for a target when none is available.
    pub failover: Duration,
    /// Between two resolutions of the workers' names.
    pub resolve_interval: Duration,
}

impl Default for WorkerTimeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(60),
            draft_request: Duration::from_secs(10),
            silence: Duration::from_secs(4),
            failover: Duration::from_secs(60),
            resolve_interval: Duration::from_secs(5),
        }
    }
}
