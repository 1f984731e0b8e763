//! The `tandem` command.

pub mod doctor;
pub mod generate;
pub mod local;
pub mod output;
pub mod serve;
