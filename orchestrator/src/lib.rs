//! The orchestrator: proposes on the draft, scores on the target, accepts by joint likelihood, streams the text.
//!
//! The loop is [`generate()`]; it knows its two workers only as a [`Drafter`] and a [`Scorer`], which the gRPC clients
//! implement, and toy models in tests.

mod accept;
mod args;
mod client;
mod error;
mod generate;
mod models;
mod peers;
mod service;
mod stats;
mod text;

pub use args::OrchestratorArgs;
pub use client::{GrpcDrafter, GrpcScorer};
pub use error::{ConnectError, GenerateError};
pub use generate::{Emission, Job, Trace, Update, generate};
pub use models::Pair;
pub use peers::{DraftSession, Drafter, Proposal, Scorer, TargetSession};
pub use service::{GenerationService, run};
pub use stats::{Finish, FinishReason, Statistics};
pub use text::{Piece, StopMatch, TextStream};
