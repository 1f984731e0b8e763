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
use tandem_proto::{OpenSession, SessionRef, v1};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Pool;
use super::endpoint::Endpoint;
use super::live::{Failure, Live, failure};
use super::role::{Role, Step, StepError};
use crate::GenerateError;
use crate::retry::Backoff;

/// The longest of such pauses, whatever it says.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a new text waits while all workers are full.
const FULL_PATIENCE: Duration = Duration::from_millis(500);
/// How long a text goes without a draft after one that hung.
const HUNG_PAUSE: Duration = Duration::from_secs(60);
/// Workers that one step may lose.
const MOST_LOSSES: u32 = 16;

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
    /// On the way there and back, all steps together.
    network: Duration,
    /// Workers lost since the last answer.
    losses: u32,
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
            network: Duration::ZERO,
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
        let moved = self.hand_over().await;
        if let Some(live) = &mut self.live {
            live.advance(commit.filter(|_| !moved));
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
            if self.losses > 1 {
                pause_until(self.backoff.next(), self.by).await;
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

    /// How long its steps were on the way there and back.
    pub(super) fn network(&self) -> Duration {
        self.network
    }

    fn write_journal(&mut self, accepted: &Accepted) {
        let path = accepted.path.iter().filter_map(|&n| self.tree.tokens().get(n));
        self.open.prompt.extend(path.copied().chain([accepted.bonus]));
        let committed = accepted.path.len() + 1;
        self.open.max_new_tokens = self.open.max_new_tokens.saturating_sub(committed);
    }

    /// Leaves a worker that drains, if another takes the session: whether one did.
    async fn hand_over(&mut self) -> bool {
        let Some(live) = self.live.as_ref().filter(|live| live.endpoint.is_draining()) else { return false };
        if Instant::now() < self.next_try {
            return false;
        }
        let Some(other) = self.pool.pick(&[live.endpoint.address]) else { return false };
        match self.open_on(other).await {
            Ok(moved) => {
                tracing::info!(worker = %self.pool.kind(), "the session left a draining worker");
                self.live = Some(moved);
                self.reopened += 1;
                true
            }
            // The old one serves on for a while.
            Err(_) => {
                self.next_try = Instant::now() + self.backoff.next();
                false
            }
        }
    }

    /// Asks the live session, and once more if the way to it or its reply was lost.
    async fn ask(&mut self, ask: &R::Ask) -> Result<R::Answer, Failure> {
        let Some(live) = &mut self.live else { return Err(Failure::Session("no session".into())) };
        let (mut again, mut late) = (false, false);
        let mut busy_until = None;
        loop {
            let within = within(&self.pool, self.absence, self.by)?;
            let step = Step { handle: live.session.into(), number: live.step, commit: live.commit.as_ref() };
            let error = match R::step(live.endpoint.channel.clone(), step, ask, within).await {
                Ok((answer, network)) => {
                    self.network += network;
                    return Ok(answer);
                }
                Err(StepError::Broken(fault)) => Failure::Session(format!("a broken reply: {fault}")),
                Err(StepError::Status(status)) => {
                    late |= status.code() == Code::DeadlineExceeded;
                    failure(&self.pool, status, self.by)
                }
            };
            let hung = late || busy_until.is_some_and(|until| Instant::now() > until);
            match error {
                // The step that we gave up still runs there, or has for too long: it hangs.
                Failure::Busy(status, _) if hung => {
                    let why = format!("it hangs: {}", status.message());
                    live.endpoint.suspect(&why);
                    return Err(Failure::Hung(why));
                }
                Failure::Busy(_, pause) => {
                    busy_until.get_or_insert(Instant::now() + self.pool.limits().step);
                    pause_until(pause.min(LONGEST_PAUSE), self.by).await;
                }
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
            Failure::Hung(why) => {
                // Each further try would cost as long again.
                self.next_try = Instant::now() + HUNG_PAUSE;
                why
            }
            Failure::Worker(why) | Failure::Session(why) => why,
        };
        if let Some(live) = self.live.take() {
            tracing::warn!(worker = %self.pool.kind(), address = %live.endpoint.address, why, "session lost");
        }
        self.count_loss(why)
    }

    /// Several in one step are bad luck; many mean that perhaps this very text is what breaks workers.
    fn count_loss(&mut self, why: String) -> Result<(), GenerateError> {
        self.losses += 1;
        match self.absence {
            _ if self.losses <= MOST_LOSSES => Ok(()),
            Absence::Tolerate => {
                self.next_try = self.by;
                Ok(())
            }
            Absence::Wait => Err(GenerateError::NoWorker { worker: self.pool.kind(), reason: why }),
        }
    }

    /// Opens the session on whoever serves, and waits for that if need be; `None`: nobody does, which is tolerated. At `first`, that
    /// all are full is an answer soon.
    async fn find_worker(&mut self, first: bool) -> Result<Option<Live<R>>, GenerateError> {
        let tolerant = self.absence == Absence::Tolerate;
        if tolerant && Instant::now() < self.next_try {
            return Ok(None);
        }
        let begun = Instant::now();
        let give_up = (begun + self.pool.limits().patience).min(self.by);
        let mut changes = self.pool.changes();
        loop {
            changes.mark_unchanged();
            let nobody = match self.try_all().await? {
                Ok(live) => return Ok(Some(live)),
                Err(nobody) => nobody,
            };
            if tolerant {
                self.next_try = self.next_try.max(Instant::now() + self.backoff.next());
                return Ok(None);
            }
            // A place that its last user has just left is free in a moment: the news of it may be on the way.
            let full_for_long = first && nobody.is_full() && begun.elapsed() > FULL_PATIENCE;
            if full_for_long || Instant::now() >= give_up {
                return Err(nobody.error(&self.pool));
            }
            // A worker that comes back is used at once, unless everybody runs there.
            let pause = (Instant::now() + self.backoff.next()).min(give_up);
            let _ = tokio::time::timeout_at(pause, changes.changed()).await;
            while self.pool.pick(&[]).is_some() && !self.pool.budget().withdraw() && Instant::now() < give_up
            {
                pause_until(self.backoff.next(), give_up).await;
            }
        }
    }

    /// Tries every worker that serves, the least loaded first.
    async fn try_all(&mut self) -> Result<Result<Live<R>, Nobody>, GenerateError> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut nobody = Nobody::Absent;
        while let Some(endpoint) = self.pool.pick(&tried) {
            tried.push(endpoint.address);
            match self.open_on(endpoint.clone()).await {
                Ok(live) => return Ok(Ok(live)),
                Err(Failure::Request(error)) if error.is_deadline() => return Err(error),
                // Another one may be larger.
                Err(Failure::Request(error)) => nobody = Nobody::Refused(error),
                Err(Failure::Busy(status, _)) => nobody = Nobody::Full(status),
                Err(Failure::Worker(why) | Failure::Hung(why) | Failure::Session(why)) => {
                    endpoint.suspect(&why);
                    self.count_loss(why)?;
                }
            }
        }
        match nobody {
            Nobody::Refused(error) if self.absence == Absence::Tolerate => {
                tracing::warn!(worker = %self.pool.kind(), %error, "going on without");
                self.next_try = self.by;
                Ok(Err(Nobody::Absent))
            }
            Nobody::Refused(error) => Err(error),
            nobody => Ok(Err(nobody)),
        }
    }

    async fn open_on(&self, endpoint: Arc<Endpoint>) -> Result<Live<R>, Failure> {
        let within = within(&self.pool, self.absence, self.by)?;
        let id = rand::random_range(1..=u64::MAX);
        // Before it is asked for, so that it is closed even if nobody waits for the answer any more.
        let mut live = Live {
            _count: endpoint.count_session(),
            endpoint: endpoint.clone(),
            session: SessionRef { incarnation: 0, id, committed: self.open.prompt.len() },
            step: 0,
            commit: None,
            held: true,
            patience: self.pool.limits().silence,
            role: PhantomData,
        };
        let request = v1::OpenSessionRequest { session_id: id, ..(&self.open).into() };
        let opened = R::open(endpoint.channel.clone(), request, within).await;
        let opened = opened.map_err(|status| {
            let failure = failure(&self.pool, status, self.by);
            live.held = !failure.is_refusal();
            failure
        })?;
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

/// Why no worker took a session.
enum Nobody {
    /// None serves.
    Absent,
    /// All that serve are full.
    Full(Status),
    /// The request is too large for them, or wrong.
    Refused(GenerateError),
}

impl Nobody {
    fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    fn error(self, pool: &Pool) -> GenerateError {
        let worker = pool.kind();
        match self {
            Self::Absent => GenerateError::NoWorker { worker, reason: pool.trouble() },
            Self::Full(status) => GenerateError::Worker { worker, status },
            Self::Refused(error) => error,
        }
    }
}

/// How long one request may take: no longer than the text may; and a draft that takes long is worse than none.
fn within(pool: &Pool, absence: Absence, by: Instant) -> Result<Duration, Failure> {
    let left = by.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failure::Request(GenerateError::Deadline));
    }
    Ok(left.min(match absence {
        Absence::Wait => pool.limits().step,
        Absence::Tolerate => pool.limits().draft,
    }))
}

async fn pause_until(pause: Duration, by: Instant) {
    tokio::time::sleep_until((Instant::now() + pause).min(by)).await;
}
