//! The engine: loads a model, runs it with tree masks and KV caches, and owns the thread that does so.
//!
//! The path of a pass: a service sends a [`Pass`] (tokens, positions, ancestor mask, rows whose logits it
//! needs) through its [`Cache`] handle to the [`ModelThread`]. That thread packs the passes that wait into
//! one forward pass of its [`Backend`] and replies with [`Logits`]. The engine knows nothing of protobuf,
//! sampling or acceptance.
//!
//! - `load`: a model's files, its configuration, its tokenizer and its tensors
//! - `model`: the decoder and its KV cache
//! - `runtime`: the model thread, its scheduler, and the memory of the caches
//! - `cpu`: kernels for processors
//! - `blocks`: quantised weights as files store them
//!
//! `load` and `cpu` know only `blocks`; `model` knows all three, and `runtime` knows `model`.

mod blocks;
mod cpu;
mod engine_config;
mod load;
mod model;
mod runtime;

pub use cpu::{InstructionSet, KernelUse, Peaks, measure_peaks};
pub use engine_config::{EngineConfig, KvCacheSize};
pub use load::{
    DeviceChoice, Kernels, LoadError, LoadOptions, MlpKind, ModelConfig, ModelFiles, ModelSource, NormKind,
    Positions, Progress, RopeScaling, Vocabulary, WeightDtype,
};
pub use model::{Backend, Decoder, EngineError, InvalidCommit, Keep, Logits, ModelSpec, Pass, Segment};
pub use runtime::{
    BatchPolicy, Cache, KvBudget, Loaded, ModelThread, PassObserver, PassReport, Reservation, TreeCache,
};
