//! Datasets, judges, figures and reports. One binary, because linking takes longer than running the tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod datasets;
mod figures;
mod judges;
mod report;
