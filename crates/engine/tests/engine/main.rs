//! The engine through its public API. One binary, so that the engine and candle are linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod common;
mod counter;
mod families;
mod folders;
mod gguf;
mod gguf_tokenizer;
mod golden;
mod llama_cpp_vocabularies;
mod loading;
mod model_thread;
mod published;
mod split_gguf;
mod tiny_gguf;
mod tree_cache;
