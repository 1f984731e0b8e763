//! What a client saw.

use tandem_proto::v1;
use tonic::Code;

/// What a client saw of its stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    /// For each iteration seen: whether it had a draft.
    pub(crate) drafted: Vec<bool>,
    pub(crate) end: End,
}

/// How a stream ended.
#[derive(Clone, Debug, Default)]
pub(crate) enum End {
    /// It was still open when it should have ended.
    #[default]
    Never,
    Finished(Box<v1::Finished>),
    Failed(Code, String),
    /// The client cancelled it.
    Cancelled,
}
