//! The rules, compared with numbers computed by the authors' implementation (the reference).
//! `crates/testkit/golden/README.md` describes the files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod acceptance;
mod cases;
mod rejection;
