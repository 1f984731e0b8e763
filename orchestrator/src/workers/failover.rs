//! A session that outlives its worker.
//!
//! It keeps the journal: all tokens committed so far. When its worker is lost, it opens a session on another one, or on the same one
//! once that is back, with the journal as the prompt, and repeats the step. Draws are functions of the seed and the position, so the
//! new worker answers what the old one would have answered.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::{Accepted, TokenTree};
use tandem_generation::{GenerateError, OpenSession, SessionHandle};
use tandem_proto::v1;
use tokio::time::Instant;
use tonic::Code;

use super::endpoint::Endpoint;
use super::pool::Pool;
use super::protocol::{SessionProtocol, Step, StepError};
use super::unavailable::{Unavailable, WhenUnavailable, pause, request_timeout};
use super::worker_session::{Failure, WorkerSession};
use crate::retry::Backoff;

/// The longest pause before a busy worker is asked again, whatever it says.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a new sequence waits while all workers are full.
const FULL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a sequence goes without a draft after one that hung.
const HUNG_PAUSE: Duration = Duration::from_secs(60);
/// Workers that one step may lose.
const MAX_LOSSES: u32 = 16;

/// A sequence on the workers of a pool.
pub(super) struct FailoverSession<P: SessionProtocol> {
    pool: Pool,
    when_unavailable: WhenUnavailable,
    /// Its prompt is the journal.
    open: OpenSession,
    /// When the request ends.
    deadline: Instant,
    /// The tree of the last step, to which the next commit refers.
    tree: TokenTree,
    session: Option<WorkerSession<P>>,
    backoff: Backoff,
    /// With `WhenUnavailable::GoOnWithout`: when a worker is looked for again.
    next_try: Instant,
    /// Whether it ever had a worker.
    was_opened: bool,
    failovers: usize,
    /// Time that all steps together spent on the network.
    network_time: Duration,
    /// Workers lost since the last answer.
    losses: u32,
}

impl<P: SessionProtocol> FailoverSession<P> {
    /// Opens the session. A worker that is lost meanwhile is replaced.
    pub(super) async fn open(
        pool: &Pool,
        open: &OpenSession,
        deadline: Instant,
        when_unavailable: WhenUnavailable,
    ) -> Result<Self, GenerateError> {
        let mut session = Self {
            pool: pool.clone(),
            when_unavailable,
            open: open.clone(),
            deadline,
            tree: TokenTree::default(),
            session: None,
            backoff: Backoff::new(open.seed),
            next_try: Instant::now(),
            was_opened: false,
            failovers: 0,
            network_time: Duration::ZERO,
            losses: 0,
        };
        session.session = session.find_worker(true).await?;
        session.was_opened = session.session.is_some();
        Ok(session)
    }

    /// Commits what the step before accepted, and runs the next. `None` if no worker is available and the sequence goes on without.
    pub(super) async fn step(
        &mut self,
        commit: Option<&Accepted>,
        request: &P::Request,
    ) -> Result<Option<P::Reply>, GenerateError> {
        if let Some(accepted) = commit {
            self.write_journal(accepted);
        }
        let moved = self.migrate().await;
        if let Some(session) = &mut self.session {
            session.advance(commit.filter(|_| !moved));
        }
        loop {
            if self.session.is_none() {
                self.session = self.find_worker(false).await?;
                let Some(session) = &mut self.session else {
                    self.tree = TokenTree::default();
                    return Ok(None);
                };
                self.failovers += usize::from(self.was_opened);
                self.was_opened = true;
                session.advance(None);
            }
            if self.losses > 1 {
                pause(self.backoff.next(), self.deadline).await;
            }
            match self.send(request).await {
                Ok(answer) => {
                    self.pool.retries().deposit();
                    self.backoff.reset();
                    self.losses = 0;
                    self.tree = P::tree(request, &answer).clone();
                    return Ok(Some(answer));
                }
                Err(error) => self.forget(error)?,
            }
        }
    }

    /// How often it was opened again.
    pub(super) fn failovers(&self) -> usize {
        self.failovers
    }

    /// Time that its steps spent on the network.
    pub(super) fn network_time(&self) -> Duration {
        self.network_time
    }

    fn write_journal(&mut self, accepted: &Accepted) {
        let path = accepted.path.iter().filter_map(|&n| self.tree.tokens().get(n));
        self.open.prompt.extend(path.copied().chain([accepted.bonus]));
        let committed = accepted.path.len() + 1;
        self.open.max_new_tokens = self.open.max_new_tokens.saturating_sub(committed);
    }

    /// Moves the session from a draining worker to another, if one takes it. Returns whether one did.
    async fn migrate(&mut self) -> bool {
        let Some(session) = self.session.as_ref().filter(|session| session.endpoint.is_draining()) else {
            return false;
        };
        if Instant::now() < self.next_try {
            return false;
        }
        let Some(other) = self.pool.pick(&[session.endpoint.address]) else { return false };
        match self.open_on(other).await {
            Ok(moved) => {
                tracing::info!(worker = %self.pool.role(), "the session left a draining worker");
                self.session = Some(moved);
                self.failovers += 1;
                true
            }
            // The draining worker still serves for a while.
            Err(_) => {
                self.next_try = Instant::now() + self.backoff.next();
                false
            }
        }
    }

    /// Sends a step to the worker, and once more if the connection or the reply was lost.
    async fn send(&mut self, request: &P::Request) -> Result<P::Reply, Failure> {
        let Some(session) = &mut self.session else { return Err(Failure::Session("no session".into())) };
        let mut is_repeated = false;
        let mut is_late = false;
        let mut busy_until = None;
        loop {
            let timeout = request_timeout(&self.pool, self.when_unavailable, self.deadline)?;
            let step =
                Step { handle: session.handle.into(), number: session.step, commit: session.commit.as_ref() };
            let error = match P::step(session.endpoint.channel.clone(), step, request, timeout).await {
                Ok((answer, network)) => {
                    self.network_time += network;
                    return Ok(answer);
                }
                Err(StepError::Invalid(error)) => Failure::Session(format!("an invalid reply: {error}")),
                Err(StepError::Status(status)) => {
                    is_late |= status.code() == Code::DeadlineExceeded;
                    Failure::from_status(status, self.pool.role(), self.deadline)
                }
            };
            let is_hung = is_late || busy_until.is_some_and(|until| Instant::now() > until);
            match error {
                // The step that timed out here still runs there, or has run for too long.
                Failure::Busy { message, .. } if is_hung => {
                    let why = format!("it hangs: {message}");
                    session.endpoint.suspect(&why);
                    return Err(Failure::Hung(why));
                }
                Failure::Busy { retry_after, .. } => {
                    busy_until.get_or_insert(Instant::now() + self.pool.timeouts().request);
                    pause(retry_after.min(LONGEST_PAUSE), self.deadline).await;
                }
                Failure::Worker(why) if !is_repeated && self.pool.retries().withdraw() => {
                    is_repeated = true;
                    tracing::debug!(worker = %self.pool.role(), address = %session.endpoint.address, why, "repeating the step");
                    // Only a moment: if the worker is lost, others are available.
                    pause(self.backoff.next(), self.deadline).await;
                }
                Failure::Worker(why) => {
                    session.endpoint.suspect(&why);
                    return Err(Failure::Worker(why));
                }
                error => return Err(error),
            }
        }
    }

    /// Gives up the session on its worker after a failure that another worker may not have.
    fn forget(&mut self, failure: Failure) -> Result<(), GenerateError> {
        let why = match failure {
            // A draft that refuses the request is treated like one that is not there.
            Failure::Request(error)
                if self.when_unavailable == WhenUnavailable::GoOnWithout
                    && error != GenerateError::DeadlineExceeded =>
            {
                self.next_try = self.deadline;
                error.to_string()
            }
            Failure::Request(error) => return Err(error),
            Failure::Busy { message, .. } => message,
            Failure::Hung(why) => {
                // Each further attempt would take as long again.
                self.next_try = Instant::now() + HUNG_PAUSE;
                why
            }
            Failure::Worker(why) | Failure::Session(why) => why,
        };
        if let Some(session) = self.session.take() {
            tracing::warn!(worker = %self.pool.role(), address = %session.endpoint.address, why, "session lost");
        }
        self.count_loss(why)
    }

    /// Counts a lost worker. A few in one step may be a coincidence; many suggest that this very sequence breaks workers.
    fn count_loss(&mut self, why: String) -> Result<(), GenerateError> {
        self.losses += 1;
        match self.when_unavailable {
            _ if self.losses <= MAX_LOSSES => Ok(()),
            WhenUnavailable::GoOnWithout => {
                self.next_try = self.deadline;
                Ok(())
            }
            WhenUnavailable::Wait => Err(GenerateError::NoWorker { role: self.pool.role(), reason: why }),
        }
    }

    /// Opens the session on a worker that serves, and waits for one if need be; `None` if there is none and the sequence goes on
    /// without. A sequence that `is_new` waits only a moment while all workers are full.
    async fn find_worker(&mut self, is_new: bool) -> Result<Option<WorkerSession<P>>, GenerateError> {
        let is_optional = self.when_unavailable == WhenUnavailable::GoOnWithout;
        if is_optional && Instant::now() < self.next_try {
            return Ok(None);
        }
        let begun = Instant::now();
        let give_up = (begun + self.pool.timeouts().failover).min(self.deadline);
        let mut changes = self.pool.changes();
        loop {
            changes.mark_unchanged();
            let unavailable = match self.try_all().await? {
                Ok(session) => return Ok(Some(session)),
                Err(unavailable) => unavailable,
            };
            if is_optional {
                self.next_try = self.next_try.max(Instant::now() + self.backoff.next());
                return Ok(None);
            }
            // A slot that was just released becomes free in a moment: the worker may not know yet.
            let full_for_long = is_new && unavailable.is_full() && begun.elapsed() > FULL_TIMEOUT;
            if full_for_long || Instant::now() >= give_up {
                return Err(unavailable.error(&self.pool));
            }
            // A worker that comes back is used at once, unless too many sessions retry on it.
            let next = (Instant::now() + self.backoff.next()).min(give_up);
            let _ = tokio::time::timeout_at(next, changes.changed()).await;
            while self.pool.pick(&[]).is_some() && !self.pool.retries().withdraw() && Instant::now() < give_up
            {
                pause(self.backoff.next(), give_up).await;
            }
        }
    }

    /// Tries every worker that serves, the least loaded first.
    async fn try_all(&mut self) -> Result<Result<WorkerSession<P>, Unavailable>, GenerateError> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut unavailable = Unavailable::Absent;
        while let Some(endpoint) = self.pool.pick(&tried) {
            tried.push(endpoint.address);
            match self.open_on(endpoint.clone()).await {
                Ok(session) => return Ok(Ok(session)),
                Err(Failure::Request(error)) if error == GenerateError::DeadlineExceeded => {
                    return Err(error);
                }
                // Another one may be larger.
                Err(Failure::Request(error)) => unavailable = Unavailable::Refused(error),
                Err(Failure::Busy { message, retry_after }) => {
                    unavailable = Unavailable::Full { message, retry_after };
                }
                Err(Failure::Worker(why) | Failure::Hung(why) | Failure::Session(why)) => {
                    endpoint.suspect(&why);
                    self.count_loss(why)?;
                }
            }
        }
        match unavailable {
            Unavailable::Refused(error) if self.when_unavailable == WhenUnavailable::GoOnWithout => {
                tracing::warn!(worker = %self.pool.role(), %error, "the sequence goes on without");
                self.next_try = self.deadline;
                Ok(Err(Unavailable::Absent))
            }
            Unavailable::Refused(error) => Err(error),
            unavailable => Ok(Err(unavailable)),
        }
    }

    async fn open_on(&self, endpoint: Arc<Endpoint>) -> Result<WorkerSession<P>, Failure> {
        let timeout = request_timeout(&self.pool, self.when_unavailable, self.deadline)?;
        let id = rand::random_range(1..=u64::MAX);
        // Made before the request, so that the session is closed even if this future is dropped while it waits.
        let mut session = WorkerSession {
            _count: endpoint.count_session(),
            endpoint: endpoint.clone(),
            handle: SessionHandle { incarnation: 0, id, committed: self.open.prompt.len() },
            step: 0,
            commit: None,
            is_held: true,
            close_timeout: self.pool.timeouts().silence,
            protocol: PhantomData,
        };
        let request = v1::OpenSessionRequest { session_id: id, ..(&self.open).into() };
        let opened = P::open(endpoint.channel.clone(), request, timeout).await;
        let opened = opened.map_err(|status| {
            let failure = Failure::from_status(status, self.pool.role(), self.deadline);
            session.is_held = !failure.is_refusal();
            failure
        })?;
        session.handle =
            v1::SessionHandle::read(opened.handle).map_err(|e| Failure::Session(e.to_string()))?;
        let incarnation = session.handle.incarnation;
        // The worker may have been restarted with another model, whose tokens mean something else.
        if !endpoint.is_checked(incarnation) {
            let info = P::info(endpoint.channel.clone(), self.pool.timeouts().silence).await;
            let failure = |status| Failure::from_status(status, self.pool.role(), self.deadline);
            let info = info.map_err(failure)?;
            let checked = self.pool.check(&endpoint, incarnation, &info).await.map_err(failure)?;
            checked.map_err(Failure::Worker)?;
        }
        Ok(session)
    }
}
