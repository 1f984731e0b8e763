//! The public APIs. Each maps requests, events and errors once, names of fields included.

pub(crate) mod grpc;
pub(crate) mod openai;
mod page;
