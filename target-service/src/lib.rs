//! The target service: scores token trees in one tree-masked forward pass.

mod score;
mod service;

pub use service::{TargetService, serving};
