//! The draft service: proposes token trees with joint log-probabilities.

mod propose;
mod service;

pub use service::{DraftService, serving};
