//! The `tandem` command.

pub mod bench;
pub mod client;
mod command;
pub mod decoding;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod local;
pub mod output;
pub mod pair;
pub mod probe;
pub mod progress;
pub mod serve;

pub use command::Cli;
