//! Loading a model: its source, its configuration, its tokenizer and its tensors.

mod checkpoint;
mod config;
mod device;
mod end_texts;
mod error;
mod gguf;
mod gguf_tokenizer;
mod hub;
mod json_file;
mod matrix;
mod options;
mod pages;
mod source;
mod tokenizer;
mod weights;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use config::Heads;
pub use config::{MlpKind, ModelConfig, NormKind, Positions, RopeScaling};
pub use device::{DeviceChoice, Kernels, WeightDtype};
pub use error::LoadError;
pub(crate) use matrix::Matrix;
pub use options::{LoadOptions, Progress};
pub(crate) use pages::release_freed;
pub use source::{ModelFiles, ModelSource};
pub use tokenizer::Vocabulary;
pub(crate) use weights::Weights;
