//! Faults of the layers below, as faults of a request.

use tandem_engine::{EngineError, InvalidCommit};
use tandem_proto::{Fault, Reason};
use tandem_serving::AdmissionError;

use crate::session_table::SessionError;
use crate::step_log::OutOfOrder;

/// A refused pass or session as a fault about `field`.
pub fn engine_fault(error: EngineError, field: &'static str) -> Fault {
    match error {
        EngineError::ContextFull { .. } | EngineError::TokenOutOfRange { .. } => Fault::invalid(field, error),
        EngineError::BudgetFull { needed, total, .. } if needed > total => {
            let message = format!(
                "{needed} tokens can never fit a KV cache of {total}: ask for fewer, or start the worker with a larger --kv-cache-tokens"
            );
            Fault::invalid(field, message)
        }
        EngineError::BudgetFull { .. } => Fault::exhausted(error),
        EngineError::Stopped => Fault::Draining,
        EngineError::InvalidPass(_) | EngineError::Failed(_) => Fault::Bug(error.to_string()),
    }
}

pub(crate) fn session_fault(error: SessionError) -> Fault {
    let message = error.to_string();
    match error {
        SessionError::Admission(AdmissionError::Closed) => Fault::Draining,
        SessionError::Admission(_) => Fault::exhausted(message),
        SessionError::Exists { .. } => Fault::invalid("session_id", message),
        SessionError::Unknown { .. } => Fault::Gone { reason: Reason::UnknownSession, message },
        SessionError::StaleIncarnation { .. } => Fault::Gone { reason: Reason::StaleIncarnation, message },
    }
}

pub(crate) fn step_fault(error: OutOfOrder) -> Fault {
    Fault::Refused { reason: Reason::StepOutOfOrder, message: error.to_string() }
}

pub(crate) fn commit_fault(error: InvalidCommit) -> Fault {
    Fault::invalid("commit", error)
}
