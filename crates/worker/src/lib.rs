//! What the draft and the target service share: a model on its thread, sessions under leases, and steps that commit what the
//! step before accepted. What differs, the work of a step, is a [`StepTask`].

pub mod args;
mod config;
mod error;
mod metrics;
mod process;
mod session;
mod session_table;
mod status;
mod step_log;
mod worker;

pub use config::WorkerConfig;
pub use error::WorkerError;
pub use metrics::{Calls, worker_metrics};
pub use process::{RunError, WorkerService, run_process, serving};
pub use session::{SessionState, StepRequest, StepTask};
pub use session_table::{SessionError, TableLimits};
pub use step_log::OutOfOrder;
pub use worker::{TokenizerParts, Worker};
