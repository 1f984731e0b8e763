//! The workers: who they are, how they are, and sessions on them that outlive them.

mod endpoint;
mod peers;
mod pool;
mod role;
mod session;

pub use peers::{DraftPool, TargetPool};
pub(crate) use pool::Pool;
pub use pool::{WorkerKind, WorkerLimits, WorkerName};
