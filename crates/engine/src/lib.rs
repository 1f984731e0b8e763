//! The models: loading, the tree-masked decoder, its KV cache, and the thread that owns them.
//!
//! The flow of a pass: a service sends a [`Pass`] (tokens, positions, ancestor mask, rows whose logits it wants)
//! through its [`Cache`] handle to the [`ModelThread`], which packs what waits into one forward of its [`Backend`] and replies with
//! [`Logits`]. The engine knows nothing of protobuf, sampling or acceptance.

mod args;
mod backend;
mod budget;
mod config;
mod cpu;
mod decoder;
mod device;
mod error;
mod gguf;
mod hub;
mod kv_cache;
mod linear;
mod memory;
mod model_thread;
mod norm;
mod observer;
mod ops;
mod pace;
mod scheduler;
mod source;
mod tokenizer;
mod tree_cache;
mod weights;

pub use args::ModelArgs;
pub use backend::{Backend, Keep, Logits, Pass, Segment};
pub use budget::{KvBudget, Reservation};
pub use config::{MlpKind, ModelConfig, NormKind, Positions, RopeScaling};
pub use cpu::{PackedLinear, instruction_set};
pub use decoder::Decoder;
pub use device::{DeviceChoice, Kernels, WeightDtype};
pub use error::{EngineError, LoadError};
pub use model_thread::{Cache, Loaded, ModelThread};
pub use observer::{PassObserver, PassReport};
pub use pace::Pace;
pub use source::{ModelFiles, ModelSource};
pub use tokenizer::Vocabulary;
pub use tree_cache::{InvalidCommit, TreeCache};
pub use weights::{LoadOptions, ModelSpec, Progress};
