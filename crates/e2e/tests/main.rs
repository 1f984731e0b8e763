//! Tests of the whole system, in one program so that it is linked once. A name selects a part of them:
//!
//! ```text
//! cargo test -p tandem-e2e simulation      # the protocol under faults, on simulated time: 2,000 seeds
//! cargo test -p tandem-e2e fuzz            # every wire input under structured noise
//! cargo test -p tandem-e2e distribution    # what the loop writes is distributed as it must be
//! cargo test -p tandem-e2e imports         # which crate and which file may import which
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stderr, reason = "what a test reports")]

mod configuration;
mod fuzz;
mod imports;
mod metrics;
mod processes;
mod published;
mod simulation;
mod system;
mod tokenizer;
mod vocabularies;
mod workers;
