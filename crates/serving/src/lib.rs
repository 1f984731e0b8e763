//! What every Tandem service needs in addition to its own work: configuration, servers, TLS, logs and traces, metrics, admission
//! control, shutdown.
//!
//! Imports no other crate of this project.

mod admission;
pub mod args;
mod config;
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
pub use config::{LogConfig, LogFormat, ServeConfig};
pub use connections::{Connection, Connections, Peer};
pub use http::{Http, Readiness};
pub use metrics::{Described, InvalidMetricsPrefix, Metrics, MetricsBuilder, MetricsFormat, MetricsPrefix};
pub use reload::{FileError, Reloaded, SourceFile};
pub use server::{ServeError, Serving, bind, bind_http, incoming};
pub use shutdown::Shutdown;
pub use telemetry::{Telemetry, TelemetryError, init_logging, init_telemetry};
pub use tls::{ClientStream, ClientTls, ClientTlsFiles, Protocol, ServerTls, TlsFiles};
pub use trace_context::{adopt_parent, inject_trace_context, record_list, trace_id};
