//! The vocabulary of statuses on the wire: machine-readable reasons, and the names of codes.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of our `google.rpc.ErrorInfo`s.
const DOMAIN: &str = "tandem";

/// Why a request failed, for programs: `ErrorInfo.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The worker has no such session: it was closed, or its lease expired.
    UnknownSession,
    /// The handle belongs to an earlier incarnation of the worker.
    StaleIncarnation,
    /// The step is neither the last one nor the next; the message has the next.
    StepOutOfOrder,
    /// The worker has committed another number of tokens; the message has it.
    CommittedMismatch,
    /// The prompt leaves no room in the context.
    ContextLengthExceeded,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::UnknownSession,
        Self::StaleIncarnation,
        Self::StepOutOfOrder,
        Self::CommittedMismatch,
        Self::ContextLengthExceeded,
    ];

    /// As it is written in `ErrorInfo.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSession => "UNKNOWN_SESSION",
            Self::StaleIncarnation => "STALE_INCARNATION",
            Self::StepOutOfOrder => "STEP_OUT_OF_ORDER",
            Self::CommittedMismatch => "COMMITTED_MISMATCH",
            Self::ContextLengthExceeded => "CONTEXT_LENGTH_EXCEEDED",
        }
    }

    /// The reason that a status of ours carries.
    pub fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        Self::ALL.into_iter().find(|reason| info.domain == DOMAIN && reason.as_str() == info.reason)
    }

    /// The reason as the details of a status.
    pub fn details(self) -> ErrorDetails {
        ErrorDetails::with_error_info(self.as_str(), DOMAIN, HashMap::new())
    }
}

/// A code as gRPC's documents write it: `RESOURCE_EXHAUSTED`.
pub fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_grpcs_documents() {
        assert_eq!(code_name(Code::Ok), "OK");
        assert_eq!(code_name(Code::ResourceExhausted), "RESOURCE_EXHAUSTED");
    }

    #[test]
    fn a_status_keeps_its_reason() {
        for reason in Reason::ALL {
            let status = Status::with_error_details(Code::NotFound, "gone", reason.details());
            assert_eq!(Reason::of(&status), Some(reason));
        }
        assert_eq!(Reason::of(&Status::not_found("another server's")), None);
    }
}
