//! What workers are called, what they are for, and how long they may take.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerKind {
    /// Proposes.
    Draft,
    /// Scores.
    Target,
}

impl fmt::Display for WorkerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draft => "draft",
            Self::Target => "target",
        })
    }
}

impl WorkerKind {
    /// By which its health is asked.
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::Draft => "tandem.v1.Draft",
            Self::Target => "tandem.v1.Target",
        }
    }
}

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
        let no_url = || format!("{url:?} is no URL of a worker: write it like http://host:7701");
        let uri: tonic::transport::Uri = url.parse().map_err(|_| no_url())?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let (tls, default_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(no_url()),
        };
        match (uri.host(), uri.port_u16()) {
            (Some(host), port) if plain && !host.is_empty() => {
                // An IPv6 address stands in brackets in a URL, and without them everywhere else.
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Self { tls, host, port: port.unwrap_or(default_port) })
            }
            _ => Err(no_url()),
        }
    }
}

impl WorkerName {
    /// If it is to be reached over TLS: what its certificate must be for.
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

/// How long things with workers may take.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLimits {
    /// One request, the prefill of a prompt included.
    pub step: Duration,
    /// The same for a draft, without which a text goes on.
    pub draft: Duration,
    /// A worker that gives no sign of life for this long is lost.
    pub silence: Duration,
    /// How long a text waits for a target when none is there.
    pub patience: Duration,
    /// Between two looks at what the names resolve to.
    pub resolve: Duration,
}
