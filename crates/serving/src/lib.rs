//! What every Tandem service needs besides its job: arguments, logging, sessions under leases, serving and shutdown.
//!
//! Imports no other crate of this project.

mod args;
mod server;
mod sessions;
mod steps;
mod telemetry;

pub use args::{LogArgs, LogFormat, ServeArgs};
pub use server::{ServeError, Serving, bind, until_signal};
pub use sessions::{Admission, SessionError, SessionTable};
pub use steps::{OutOfOrder, StepLog, Turn};
pub use telemetry::init_logging;
