//! The engine: loads a model, runs it with tree masks and KV caches, and owns the thread that does so.
//!
//! The path of a pass: a service sends a [`Pass`] (tokens, positions, ancestor mask, what it needs of which
//! rows) through its [`Cache`] handle to the [`ModelThread`]. That thread packs the passes that wait into one
//! forward pass of its [`Backend`], which reduces the logits of each row to a [`RowSummary`] before the next
//! rows are computed. The engine knows nothing of protobuf, drafting or acceptance.
//!
//! [`RowSummary`]: tandem_decoding::RowSummary
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

pub use cpu::{InstructionSet, KernelUse, KvDtype, Peaks, measure_peaks};
pub use engine_config::{EngineConfig, KvCacheSize};
pub use load::{
    DeviceChoice, Kernels, LoadError, LoadOptions, MlpKind, ModelConfig, ModelFiles, ModelSource, NormKind,
    Positions, Progress, RopeScaling, Vocabulary, WeightDtype,
};
pub use model::{
    Backend, Decoder, Done, EngineError, InvalidCommit, Keep, ModelSpec, Pass, RowOutput, Segment,
};
pub use runtime::{
    BatchPolicy, Cache, Growth, KvBudget, Loaded, ModelThread, PassObserver, PassReport, Reservation,
    TreeCache, TreeGrowth,
};
