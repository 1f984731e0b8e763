//! The workers: where they are, how they are, and sessions on them that outlive them.

mod discovery;
mod endpoint;
mod failover;
mod name;
mod pool;
mod ports;
mod protocol;
mod registry;
mod target_vocabulary;
mod tokenizer_files;
mod unavailable;
mod worker_session;

pub(crate) use endpoint::WorkerState;
pub use name::{WorkerName, WorkerNames, WorkerTimeouts};
pub(crate) use pool::{Pool, WorkerStatus};
pub use ports::{DraftPool, TargetPool};
pub(crate) use target_vocabulary::TargetVocabulary;
pub(crate) use tokenizer_files::TokenizerFiles;
