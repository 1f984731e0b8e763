//! A session that outlives its worker.
//!
//! It keeps the journal, all tokens committed so far. When its worker is lost, it opens a session on another one, or on the same one
//! once that is back, with the journal as the prompt, and asks the step again. Draws are functions of the seed and the position,
//! so the new worker answers what the old one would have.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem_decoding::{Accepted, TokenTree};
use tandem_proto::{Fault, OpenSession, Reason, SessionRef, v1};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Pool;
use super::endpoint::{Endpoint, SessionCount};
use super::role::{Role, Step, StepError};
use crate::GenerateError;
use crate::retry::Backoff;

/// When a busy worker that does not say when is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Workers that one step may lose.
const MOST_LOSSES: u32 = 8;

/// What a session does when no worker is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// Waits for one, as long as the pool's patience lasts.
    Wait,
    /// Goes on without, and tries again from time to time.
    Tolerate,
}

/// A text on the workers of a pool.
pub(super) struct Session<R: Role> {
    pool: Pool,
    absence: Absence,
    /// Its prompt is the journal.
    open: OpenSession,
    /// When the request ends.
    by: Instant,
    /// Of the last step: what the next commit is about.
    tree: TokenTree,
    live: Option<Live<R>>,
    backoff: Backoff,
    /// With `Absence::Tolerate`: not before.
    next_try: Instant,
    /// Whether it ever had a worker.
    opened: bool,
    reopened: usize,
    /// Workers lost since the last answer.
    losses: u32,
}

/// A session on one worker. Dropping it closes it there.
struct Live<R: Role> {
    endpoint: Arc<Endpoint>,
    _count: SessionCount,
    session: SessionRef,
    step: u64,
    /// Of the step before, not known to the worker yet.
    commit: Option<Accepted>,
    /// How long closing may take.
    patience: Duration,
    role: PhantomData<R>,
}

/// How a try went wrong.
enum Failure {
    /// The request is at fault: no other worker would do better.
    Request(GenerateError),
    /// The worker is full, or busy: when to come back.
    Busy(Status, Duration),
    /// The worker may be lost, or only slow, or out of reach for a moment.
    Worker(String),
    /// The worker lives, but not the session on it.
    Session(String),
}

impl<R: Role> Session<R> {
    /// Opens it; a worker that is lost meanwhile is replaced.
    pub(super) async fn open(
        pool: &Pool,
        open: &OpenSession,
        by: Instant,
        absence: Absence,
    ) -> Result<Self, GenerateError> {
        let mut session = Self {
            pool: pool.clone(),
            absence,
            open: open.clone(),
            by,
            tree: TokenTree::default(),
            live: None,
            backoff: Backoff::new(open.seed),
            next_try: Instant::now(),
            opened: false,
            reopened: 0,
            losses: 0,
        };
        session.live = session.find_worker(true).await?;
        session.opened = session.live.is_some();
        Ok(session)
    }

    /// Commits what the step before accepted and asks. `None`: no worker is there, which is tolerated.
    pub(super) async fn step(
        &mut self,
        commit: Option<&Accepted>,
        ask: &R::Ask,
    ) -> Result<Option<R::Answer>, GenerateError> {
        if let Some(accepted) = commit {
            self.write_journal(accepted);
        }
        self.hand_over();
        if let Some(live) = &mut self.live {
            live.advance(commit);
        }
        loop {
            if self.live.is_none() {
                self.live = self.find_worker(false).await?;
                let Some(live) = &mut self.live else {
                    self.tree = TokenTree::default();
                    return Ok(None);
                };
                self.reopened += usize::from(self.opened);
                self.opened = true;
                live.advance(None);
            }
            match self.ask(ask).await {
                Ok(answer) => {
                    self.pool.budget().deposit();
                    self.backoff.reset();
                    self.losses = 0;
                    self.tree = R::tree(ask, &answer).clone();
                    return Ok(Some(answer));
                }
                Err(error) => self.forget(error)?,
            }
        }
    }

    /// How often it had to be opened again.
    pub(super) fn reopened(&self) -> usize {
        self.reopened
    }

    fn write_journal(&mut self, accepted: &Accepted) {
        let path = accepted.path.iter().filter_map(|&n| self.tree.tokens().get(n));
        self.open.prompt.extend(path.copied().chain([accepted.bonus]));
        let committed = accepted.path.len() + 1;
        self.open.max_new_tokens = self.open.max_new_tokens.saturating_sub(committed);
    }

    /// Leaves a worker that drains, if there is another.
    fn hand_over(&mut self) {
        let drains = self.live.as_ref().is_some_and(|live| live.endpoint.is_draining());
        if drains && self.pool.pick(&[]).is_some() {
            tracing::info!(worker = %self.pool.kind(), "the session leaves a draining worker");
            self.live = None;
        }
    }

    /// Asks the live session, and once more if the way to it or its reply was lost.
    async fn ask(&mut self, ask: &R::Ask) -> Result<R::Answer, Failure> {
        let Some(live) = &mut self.live else { return Err(Failure::Session("no session".into())) };
        let mut again = false;
        loop {
            let within = within(&self.pool, self.by)?;
            let step = Step { handle: live.session.into(), number: live.step, commit: live.commit.as_ref() };
            let error = match R::step(live.endpoint.channel.clone(), step, ask, within).await {
                Ok(answer) => return Ok(answer),
                Err(StepError::Broken(fault)) => Failure::Session(format!("a broken reply: {fault}")),
                Err(StepError::Status(status)) => failure(&self.pool, status, self.by),
            };
            match error {
                Failure::Busy(_, pause) => pause_until(pause, self.by).await,
                Failure::Worker(why) if !again && self.pool.budget().withdraw() => {
                    again = true;
                    tracing::debug!(worker = %self.pool.kind(), address = %live.endpoint.address, why, "asking again");
                    // Only a moment: if the worker is lost, others wait.
                    pause_until(self.backoff.next(), self.by).await;
                }
                Failure::Worker(why) => {
                    live.endpoint.suspect(&why);
                    return Err(Failure::Worker(why));
                }
                error => return Err(error),
            }
        }
    }

    /// Gives up the live session after a failure that another worker may not have.
    fn forget(&mut self, failure: Failure) -> Result<(), GenerateError> {
        let why = match failure {
            // A draft that refuses is as good as none.
            Failure::Request(error) if self.absence == Absence::Tolerate && !error.is_deadline() => {
                self.next_try = self.by;
                error.to_string()
            }
            Failure::Request(error) => return Err(error),
            Failure::Busy(status, _) => status.message().to_owned(),
            Failure::Worker(why) | Failure::Session(why) => why,
        };
        if let Some(live) = self.live.take() {
            tracing::warn!(worker = %self.pool.kind(), address = %live.endpoint.address, why, "session lost");
        }
        self.losses += 1;
        if self.losses <= MOST_LOSSES {
            return Ok(());
        }
        // Not bad luck any more: perhaps this very text is what breaks them.
        match self.absence {
            Absence::Tolerate => {
                self.next_try = self.by;
                Ok(())
            }
            Absence::Wait => Err(GenerateError::NoWorker { worker: self.pool.kind(), reason: why }),
        }
    }

    /// Opens the session on whoever serves. At `first`, a full pool is an answer; later it is waited for.
    async fn find_worker(&mut self, first: bool) -> Result<Option<Live<R>>, GenerateError> {
        let tolerant = self.absence == Absence::Tolerate;
        if tolerant && Instant::now() < self.next_try {
            return Ok(None);
        }
        let give_up = (Instant::now() + self.pool.limits().patience).min(self.by);
        let mut changes = self.pool.changes();
        loop {
            changes.mark_unchanged();
            let full = match self.try_all(first || !tolerant).await? {
                Ok(live) => return Ok(Some(live)),
                Err(full) => full,
            };
            if let (Some(status), true) = (&full, first) {
                return Err(GenerateError::Worker { worker: self.pool.kind(), status: status.clone() });
            }
            if tolerant {
                self.next_try = Instant::now() + self.backoff.next();
                return Ok(None);
            }
            if Instant::now() >= give_up {
                let (worker, reason) = (self.pool.kind(), self.pool.trouble());
                return Err(full.map_or(GenerateError::NoWorker { worker, reason }, |status| {
                    GenerateError::Worker { worker, status }
                }));
            }
            // A worker that comes back is used at once, unless everybody runs there.
            let pause = (Instant::now() + self.backoff.next()).min(give_up);
            let _ = tokio::time::timeout_at(pause, changes.changed()).await;
            while !self.pool.budget().withdraw() && Instant::now() < give_up {
                pause_until(self.backoff.next(), give_up).await;
            }
        }
    }

    /// Tries every worker that serves, the least loaded first. Inner error: nobody could; with the status of one that is full.
    async fn try_all(&mut self, strict: bool) -> Result<Result<Live<R>, Option<Status>>, GenerateError> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut full = None;
        while let Some(endpoint) = self.pool.pick(&tried) {
            tried.push(endpoint.address);
            match self.open_on(endpoint.clone()).await {
                Ok(live) => return Ok(Ok(live)),
                Err(Failure::Request(error)) if strict || error.is_deadline() => return Err(error),
                Err(Failure::Request(error)) => {
                    tracing::warn!(worker = %self.pool.kind(), %error, "going on without");
                    self.next_try = self.by;
                }
                Err(Failure::Busy(status, _)) => full = Some(status),
                Err(Failure::Worker(why) | Failure::Session(why)) => endpoint.suspect(&why),
            }
        }
        Ok(Err(full))
    }

    async fn open_on(&self, endpoint: Arc<Endpoint>) -> Result<Live<R>, Failure> {
        let within = within(&self.pool, self.by)?;
        let id = rand::random_range(1..=u64::MAX);
        // Before it is asked for, so that it is closed even if nobody waits for the answer any more.
        let mut live = Live {
            _count: endpoint.count_session(),
            endpoint: endpoint.clone(),
            session: SessionRef { incarnation: 0, id, committed: self.open.prompt.len() },
            step: 0,
            commit: None,
            patience: self.pool.limits().silence,
            role: PhantomData,
        };
        let request = v1::OpenSessionRequest { session_id: id, ..(&self.open).into() };
        let opened = R::open(endpoint.channel.clone(), request, within).await;
        let opened = opened.map_err(|status| failure(&self.pool, status, self.by))?;
        live.session = SessionRef::try_from(opened.handle).map_err(|e| Failure::Session(e.to_string()))?;
        let incarnation = live.session.incarnation;
        // It may have been restarted with another model, whose tokens mean something else.
        if !endpoint.knows(incarnation) {
            let info = R::info(endpoint.channel.clone(), self.pool.limits().silence).await;
            let info = info.map_err(|status| failure(&self.pool, status, self.by))?;
            self.pool.check(&endpoint, incarnation, &info).map_err(Failure::Worker)?;
        }
        Ok(live)
    }
}

impl<R: Role> Live<R> {
    /// The next step, behind `commit`.
    fn advance(&mut self, commit: Option<&Accepted>) {
        self.step += 1;
        self.session.committed += commit.map_or(0, |c| c.path.len() + 1);
        self.commit = commit.cloned();
    }
}

impl<R: Role> Drop for Live<R> {
    fn drop(&mut self) {
        let (channel, handle, patience) = (self.endpoint.channel.clone(), self.session.into(), self.patience);
        // If the runtime is gone, or the worker out of reach, the lease ends the session.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(R::close(channel, handle, patience).await) });
        }
    }
}

/// How long one request may take: no longer than the text may.
fn within(pool: &Pool, by: Instant) -> Result<Duration, Failure> {
    let left = by.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failure::Request(GenerateError::Deadline));
    }
    Ok(left.min(pool.limits().step))
}

async fn pause_until(pause: Duration, by: Instant) {
    tokio::time::sleep_until((Instant::now() + pause).min(by)).await;
}

/// What a status says about the request, the session and the worker.
fn failure(pool: &Pool, status: Status, by: Instant) -> Failure {
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

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Request(fault.into())
    }
}
