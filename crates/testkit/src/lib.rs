//! For tests: toy models whose distributions are known exactly.

mod toy;

pub use toy::{ToyModel, toy_tokenizer};
