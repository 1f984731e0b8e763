//! What every Tandem service needs besides its job: arguments, logging, sessions under leases, serving and shutdown.
//!
//! Imports no other crate of this project.

mod args;
mod connections;
mod http;
mod places;
mod reload;
mod server;
mod sessions;
mod shutdown;
mod steps;
mod telemetry;
mod tls;

pub use args::{LogArgs, LogFormat, ServeArgs, seconds};
pub use connections::{Connection, Connections, Peer};
pub use http::{Http, Readiness};
pub use places::{NoPlace, Place, PlaceLimits, Places};
pub use reload::{FileError, Reloaded, SourceFile};
pub use server::{ServeError, Serving, bind, bind_http, incoming};
pub use sessions::{Admission, SessionError, SessionTable, TableLimits};
pub use shutdown::Shutdown;
pub use steps::{OutOfOrder, StepLog, Turn};
pub use telemetry::init_logging;
pub use tls::{ClientStream, ClientTls, ClientTlsFiles, Face, ServerTls, TlsArgs};
