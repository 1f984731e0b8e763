//! What every Tandem service needs besides its job: arguments, logging, sessions under leases, serving and shutdown.
//!
//! Imports no other crate of this project.

mod args;
mod http;
mod metrics;
mod places;
mod server;
mod sessions;
mod shutdown;
mod steps;
mod telemetry;
mod trace_context;

pub use args::{LogArgs, LogFormat, ServeArgs, seconds};
pub use http::{Http, Readiness};
pub use metrics::{Described, Metrics, MetricsBuilder, metrics_prefix};
pub use places::{NoPlace, Place, PlaceLimits, Places};
pub use server::{ServeError, Serving, bind, bind_http, incoming};
pub use sessions::{Admission, SessionError, SessionTable, TableLimits};
pub use shutdown::Shutdown;
pub use steps::{OutOfOrder, StepLog, Turn};
pub use telemetry::{Telemetry, TelemetryError, init_logging, init_telemetry};
pub use trace_context::{adopt_parent, carry_on, record_list, trace_id};
