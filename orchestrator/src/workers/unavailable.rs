//! What happens when no worker takes a session, and how long a request to one may take.

use std::time::Duration;

use tandem_generation::GenerateError;
use tokio::time::Instant;

use super::pool::Pool;
use super::worker_session::Failure;

/// What a session does when no worker is available.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenUnavailable {
    /// It waits for one until the failover timeout.
    Wait,
    /// It goes on without, and tries again from time to time.
    GoOnWithout,
}

/// Why no worker took a session.
pub(super) enum Unavailable {
    /// No worker serves.
    Absent,
    /// All workers that serve are full.
    Full { message: String, retry_after: Duration },
    /// The request is too large for them, or not valid.
    Refused(GenerateError),
}

impl Unavailable {
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    pub(super) fn error(self, pool: &Pool) -> GenerateError {
        let role = pool.role();
        match self {
            Self::Absent => GenerateError::NoWorker { role, reason: pool.trouble() },
            Self::Full { message, retry_after } => GenerateError::Busy { role, message, retry_after },
            Self::Refused(error) => error,
        }
    }
}

/// How long one request to a worker may take: no longer than the sequence may, and less for a draft, because without one the
/// sequence would go on.
pub(super) fn request_timeout(
    pool: &Pool,
    when_unavailable: WhenUnavailable,
    deadline: Instant,
) -> Result<Duration, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failure::Request(GenerateError::DeadlineExceeded));
    }
    Ok(left.min(match when_unavailable {
        WhenUnavailable::Wait => pool.timeouts().request,
        WhenUnavailable::GoOnWithout => pool.timeouts().draft_request,
    }))
}

/// Pauses before a retry, but not beyond the deadline.
pub(super) async fn pause(duration: Duration, deadline: Instant) {
    #[allow(clippy::disallowed_methods, reason = "the pause of a backoff; there is no event to wait for")]
    tokio::time::sleep(duration.min(deadline.saturating_duration_since(Instant::now()))).await;
}
