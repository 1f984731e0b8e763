//! The orchestrator: proposes on the draft, scores on the target, accepts by joint likelihood, streams the text.
//!
//! The loop is [`generate()`]; it knows its two workers only as a [`Drafter`] and a [`Scorer`], which pools of workers over gRPC
//! implement, and toy models in tests.

mod accept;
mod args;
mod chat;
mod error;
mod events;
mod front;
mod generate;
mod http;
mod keys;
mod metrics;
mod models;
mod network;
mod observe;
mod peers;
mod retry;
mod service;
mod statistics;
mod text;
mod workers;

pub use accept::TokenDetails;
pub use args::{LimitArgs, OrchestratorArgs};
pub use chat::ChatTemplate;
pub use error::{ConnectError, GenerateError};
pub use generate::{Emission, Job, Trace, Update, generate};
pub use keys::{AccessArgs, Caller, KeyError, Keys, Ticket};
pub use models::{Pair, WorkerNames};
pub use network::{Boxed, Network, Tcp, WorkerTlsArgs, WorkerTlsError};
pub use observe::Watch;
pub use peers::{DraftSession, Drafter, Proposal, Scorer, TargetSession};
pub use service::serving;
pub use statistics::{Finish, FinishReason, Statistics};
pub use text::{Piece, StopMatch, TextStream};
pub use workers::{DraftPool, TargetPool, WorkerKind, WorkerLimits, WorkerName};
