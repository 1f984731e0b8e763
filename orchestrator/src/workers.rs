//! The workers: who they are, how they are, and sessions on them that outlive them.

mod endpoint;
mod live;
mod name;
mod peers;
mod pool;
mod role;
mod session;
mod watch;

pub use name::{WorkerKind, WorkerLimits, WorkerName};
pub use peers::{DraftPool, TargetPool};
pub(crate) use pool::Pool;
