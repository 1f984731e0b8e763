//! What every Tandem service needs besides its job: arguments, logging, sessions under leases, serving and shutdown.
//!
//! Imports no other crate of this project.

mod admission;
mod args;
mod connections;
mod http;
mod metrics;

mod reload;
mod server;

mod shutdown;

mod telemetry;
mod tls;
mod trace_context;

pub use admission::{AdmissionControl, AdmissionError, AdmissionLimits, Permit};
pub use args::{LogArgs, LogFormat, ServeArgs, seconds};
pub use connections::{Connection, Connections, Peer};
pub use http::{Http, Readiness};
pub use metrics::{Described, Metrics, MetricsBuilder, metrics_prefix};
pub use reload::{FileError, Reloaded, SourceFile};
pub use server::{ServeError, Serving, bind, bind_http, incoming};
pub use shutdown::Shutdown;
pub use telemetry::{Telemetry, TelemetryError, init_logging, init_telemetry};
pub use tls::{ClientStream, ClientTls, ClientTlsFiles, Protocol, ServerTls, TlsArgs};
pub use trace_context::{adopt_parent, carry_on, record_list, trace_id};
