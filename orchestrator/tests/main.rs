//! Tests of the orchestrator from outside, in one program so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod connect;
mod http;
mod security;
