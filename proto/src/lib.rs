//! The wire types of the three services, and their conversion to and from the domain types of `tandem-generation` and
//! `tandem-decoding`.
//!
//! Wire types stop here: after the conversions there are no `Option` fields that must be set and no unchecked numbers.

mod answer;
mod convert;
mod status;

pub use answer::Answer;
pub use convert::{
    InvalidMessage, decoding_to_wire, expansion_to_wire, method_from_wire, method_to_wire, reference_to_wire,
};
pub use status::{Reason, code_name};

/// Generated from `tandem/v1/*.proto`; see `proto/codegen`.
#[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
pub mod v1 {
    include!("gen/tandem.v1.rs");
}

/// All messages and services, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/tandem.v1.bin");

/// A header of a worker's reply: the microseconds that the worker took for it. What a caller waited longer was spent on the network.
pub const COMPUTE_HEADER: &str = "x-tandem-compute-us";

/// Largest message that a service reads: a prompt of some hundred thousand tokens fits.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Size of the chunks in which a tokenizer is sent.
pub const TOKENIZER_CHUNK_BYTES: usize = 1 << 20;
