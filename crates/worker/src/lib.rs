//! What the draft and the target service share: a model on its thread, sessions under leases, and steps that commit the
//! step before. What differs, the work of a step, is a [`Job`].

pub mod args;
mod config;
mod fault;
mod metrics;
mod process;
mod session;
mod session_table;
mod step_log;
mod worker;

pub use config::WorkerConfig;
pub use fault::engine_fault;
pub use metrics::{Calls, worker_metrics};
pub use process::{RunError, WorkerService, run_process, serving};
pub use session::{Job, SessionState, StepRequest};
pub use session_table::TableLimits;
pub use worker::Worker;
