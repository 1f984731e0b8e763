//! For tests: toy models whose distributions are known exactly, a simulated network, the services in this process or as
//! processes of their own, and golden data (`golden/`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod authority;
mod backend;
mod network;
pub mod processes;
mod services;
mod system;
mod toy;

pub use authority::Authority;
pub use network::{AcceptedStream, PORT, SimulatedNetwork, incoming};
pub use services::{
    Services, bundled_model, loopback_listener, orchestrator_config, orchestrator_serving, worker_config,
};
pub use system::{ANSWER, PROMPT, System, channel, generate, greedy, request, statistics};
pub use toy::{ToyModel, ToySession, toy_tokenizer, toy_tokenizer_json};
