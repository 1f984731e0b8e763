//! The model: a decoder for token trees, and the interface through which the runtime runs it.

mod assembly;
mod attention;
mod backend;
mod decoder;
mod error;
mod kv_cache;
mod layer;
mod linear;
mod norm;
mod ops;
mod outputs;
mod pass_memory;
mod rotary;
mod spec;
mod tree_rows;

pub use backend::{Backend, Done, Keep, Pass, RowOutput, Segment};
pub use decoder::Decoder;
pub use error::EngineError;
pub use spec::ModelSpec;
pub use tree_rows::InvalidCommit;
pub(crate) use tree_rows::TreeRows;
