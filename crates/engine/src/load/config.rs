//! The configuration of a model: `config.json`, or the metadata of a GGUF file.

mod family;
mod generation;
mod gguf;
mod json;
mod model_config;
mod names;
mod rope;

pub(crate) use model_config::Heads;
pub use model_config::{MlpKind, ModelConfig, NormKind, Positions, RopeScaling};
