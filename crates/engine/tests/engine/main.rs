//! The engine through its public API. One binary, so that the engine and candle are linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod common;
mod counter;
mod families;
mod folders;
mod gguf;
mod golden;
mod loading;
mod model_thread;
mod published;
mod split_gguf;
mod tree_cache;
