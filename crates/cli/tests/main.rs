//! Tests of the `tandem` command from outside, in one program so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod bench;
mod command;
mod eval;
mod hub;
mod probe;
mod security;
