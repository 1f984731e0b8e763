//! The wire types of the three services, their conversion to the domain types of `tandem-decoding`, and the one table that
//! maps faults to gRPC codes.
//!
//! Wire types stop here: beyond the conversions nobody meets an `Option` field or an unchecked number.

mod convert;
mod fault;

pub use convert::{
    GenerateParams, Input, MAX_CANDIDATES, MAX_TOP_LOG_PROBS, OpenSession, Propose, Scores, SessionRef,
    TokenLogProbs, TopTokens, Wanted, decoding_from_wire, decoding_to_wire, expansion_to_wire,
    method_from_wire, method_to_wire, reference_to_wire,
};
pub use fault::{Fault, Reason, code_name};

/// Generated from `tandem/v1/*.proto`; see `proto/codegen`.
#[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
pub mod v1 {
    include!("gen/tandem.v1.rs");
}

/// All messages and services, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/tandem.v1.bin");

/// In the header of a worker's reply: microseconds that the worker took for it. What a caller waited beyond that was the network.
pub const COMPUTE_HEADER: &str = "x-tandem-compute-us";

/// Largest message that a service reads: a prompt of some hundred thousand tokens fits.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Chunks that a tokenizer is sent in.
pub const TOKENIZER_CHUNK_BYTES: usize = 1 << 20;
