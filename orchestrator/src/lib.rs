//! The orchestrator: finds the workers, admits requests, generates with `tandem-generation`, and serves two public APIs.
//!
//! [`Pair::connect`] finds the workers, [`serving()`] makes a server of them. What clients see is in `api`: gRPC, OpenAI's API, and a
//! page; both share one service. Pools of workers implement the ports of the generation loop.

mod admission;
mod api;
pub mod args;
mod chat;
mod config;
mod connect_error;
mod error;
mod metrics;
mod network;
mod observer;
mod pair;
mod prepare;
mod retry;
mod sequence;
mod serve;
mod service;
mod vocabulary;
mod workers;

pub use chat::ChatTemplate;
pub use config::{AccessConfig, OrchestratorConfig};
pub use connect_error::ConnectError;
pub use network::{Boxed, Network, Tcp, WorkerTlsError};
pub use pair::Pair;
pub use serve::serving;
pub use vocabulary::{
    ModelVocabulary, TokenTable, VocabularyDifferences, VocabularyMismatch, compare_vocabularies,
};
pub use workers::{DraftPool, TargetPool, WorkerName, WorkerNames, WorkerTimeouts};
