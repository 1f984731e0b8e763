//! Running a model: the thread that owns it, what it runs next, and how much memory its caches may take.

mod batch;
mod batch_policy;
mod budget;
mod command;
mod memory;
mod model_thread;
mod observer;
mod queue;
mod scheduler;
mod steps;
mod tree_cache;
mod tree_growth;

pub use batch_policy::BatchPolicy;
pub use budget::{KvBudget, Reservation};
pub(crate) use memory::free_bytes;
pub use model_thread::{Cache, Loaded, ModelThread};
pub use observer::{PassObserver, PassReport};
pub use tree_cache::TreeCache;
pub use tree_growth::{Growth, TreeGrowth};
