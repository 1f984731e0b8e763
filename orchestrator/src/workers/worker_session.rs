//! A session on one worker, and the ways in which a request to it can fail.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::Accepted;
use tandem_generation::{Field, GenerateError, Refusal, RefusalKind, Role, SessionHandle};
use tandem_proto::Reason;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::endpoint::{Endpoint, SessionCount};
use super::protocol::SessionProtocol;

/// The pause before a busy worker that does not say when to retry is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A session on one worker. Dropping it closes it there.
pub(super) struct WorkerSession<P: SessionProtocol> {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) _count: SessionCount,
    pub(super) handle: SessionHandle,
    pub(super) step: u64,
    /// The commit of the step before, which the worker does not know yet.
    pub(super) commit: Option<Accepted>,
    /// Whether the worker may hold the session; it does not if it refused to open it.
    pub(super) is_held: bool,
    /// How long closing may take.
    pub(super) close_timeout: Duration,
    pub(super) protocol: PhantomData<P>,
}

impl<P: SessionProtocol> WorkerSession<P> {
    /// Goes on to the next step, which commits `commit`.
    pub(super) fn advance(&mut self, commit: Option<&Accepted>) {
        self.step += 1;
        self.handle.committed += commit.map_or(0, |c| c.path.len() + 1);
        self.commit = commit.cloned();
    }
}

impl<P: SessionProtocol> Drop for WorkerSession<P> {
    fn drop(&mut self) {
        if !self.is_held {
            return;
        }
        let channel = self.endpoint.channel.clone();
        let handle = self.handle.into();
        let timeout = self.close_timeout;
        // If the runtime is gone or the worker out of reach, the lease ends the session.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(P::close(channel, handle, timeout).await) });
        }
    }
}

/// How a request to a worker failed.
pub(super) enum Failure {
    /// The request is at fault: no other worker would accept it.
    Request(GenerateError),
    /// The worker is full or busy.
    Busy {
        /// The worker's words.
        message: String,
        /// When to retry.
        retry_after: Duration,
    },
    /// The worker may be lost, or only slow, or out of reach for a moment.
    Worker(String),
    /// The worker answers, but its steps do not end.
    Hung(String),
    /// The worker is alive, but the session on it is not.
    Session(String),
}

impl Failure {
    /// Whether the worker has said that it did nothing.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Request(GenerateError::Refused(_)))
    }

    /// What a status says about the request, the session and the worker.
    pub(super) fn from_status(status: Status, role: Role, deadline: Instant) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::ResourceExhausted => {
                let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
                Self::Busy { message, retry_after: delay.unwrap_or(BUSY_PAUSE) }
            }
            Code::DeadlineExceeded if Instant::now() >= deadline => {
                Self::Request(GenerateError::DeadlineExceeded)
            }
            Code::InvalidArgument | Code::OutOfRange => Self::refused(status, role, RefusalKind::Invalid),
            Code::Unimplemented => Self::refused(status, role, RefusalKind::Unsupported),
            Code::PermissionDenied => Self::refused(status, role, RefusalKind::PermissionDenied),
            Code::NotFound | Code::FailedPrecondition => {
                let reason = Reason::of(&status).map_or("", Reason::as_str);
                Self::Session(format!("{reason} {message}"))
            }
            _ => Self::Worker(message),
        }
    }

    fn refused(status: Status, role: Role, kind: RefusalKind) -> Self {
        let violation = status.get_details_bad_request().and_then(|b| b.field_violations.into_iter().next());
        let field = violation.and_then(|violation| request_field(&violation.field));
        let message = status.message().to_owned();
        Self::Request(Refusal { role, kind, field, message }.into())
    }
}

/// The field of a client's request that a worker's field was filled from.
fn request_field(worker_field: &str) -> Option<Field> {
    match worker_field {
        "prompt_tokens" => Some(Field::Prompt),
        "max_new_tokens" => Some(Field::MaxNewTokens),
        "sampling.temperature" => Some(Field::Temperature),
        "sampling.top_p" => Some(Field::TopP),
        "top_log_probs" => Some(Field::TopLogProbs),
        _ => None,
    }
}
