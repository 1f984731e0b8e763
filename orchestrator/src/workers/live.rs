//! A session on one worker, and what can go wrong with it.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::Accepted;
use tandem_proto::{Reason, SessionRef};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Pool;
use super::endpoint::{Endpoint, SessionCount};
use super::role::Role;
use crate::GenerateError;

/// When a busy worker that does not say when is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A session on one worker. Dropping it closes it there.
pub(super) struct Live<R: Role> {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) _count: SessionCount,
    pub(super) session: SessionRef,
    pub(super) step: u64,
    /// Of the step before, not known to the worker yet.
    pub(super) commit: Option<Accepted>,
    /// Whether the worker may hold it: not if it refused.
    pub(super) held: bool,
    /// How long closing may take.
    pub(super) patience: Duration,
    pub(super) role: PhantomData<R>,
}

impl<R: Role> Live<R> {
    /// The next step, behind `commit`.
    pub(super) fn advance(&mut self, commit: Option<&Accepted>) {
        self.step += 1;
        self.session.committed += commit.map_or(0, |c| c.path.len() + 1);
        self.commit = commit.cloned();
    }
}

impl<R: Role> Drop for Live<R> {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        let (channel, handle, patience) = (self.endpoint.channel.clone(), self.session.into(), self.patience);
        // If the runtime is gone, or the worker out of reach, the lease ends the session.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(R::close(channel, handle, patience).await) });
        }
    }
}

/// How a try went wrong.
pub(super) enum Failure {
    /// The request is at fault: no other worker would do better.
    Request(GenerateError),
    /// The worker is full, or busy: when to come back.
    Busy(Status, Duration),
    /// The worker may be lost, or only slow, or out of reach for a moment.
    Worker(String),
    /// The worker answers, but its steps do not end.
    Hung(String),
    /// The worker lives, but not the session on it.
    Session(String),
}

impl Failure {
    /// Whether the worker has said that it did nothing.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Busy(..) | Self::Request(GenerateError::Worker { .. }))
    }
}

/// What a status says about the request, the session and the worker.
pub(super) fn failure(pool: &Pool, status: Status, by: Instant) -> Failure {
    let worker = pool.kind();
    match status.code() {
        Code::ResourceExhausted => {
            let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
            Failure::Busy(status, delay.unwrap_or(BUSY_PAUSE))
        }
        Code::DeadlineExceeded if Instant::now() >= by => Failure::Request(GenerateError::Deadline),
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::PermissionDenied => {
            Failure::Request(GenerateError::Worker { worker, status })
        }
        Code::NotFound | Code::FailedPrecondition => {
            let reason = Reason::of(&status).map_or("", Reason::as_str);
            Failure::Session(format!("{reason} {}", status.message()))
        }
        _ => Failure::Worker(status.message().to_owned()),
    }
}
