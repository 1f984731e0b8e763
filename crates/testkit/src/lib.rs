//! For tests: toy models whose distributions are known exactly, and the whole system in a simulated network.

mod backend;
pub mod fuzz;
pub mod processes;
pub mod sim;
mod toy;

pub use toy::{ToyModel, toy_tokenizer};
