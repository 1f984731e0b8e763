//! One worker process: its address, its connection, and its health.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tonic::transport::Channel;

use super::WorkerName;

/// The health of a worker, as it was last observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It does not answer, for this reason.
    Unreachable(String),
    /// It serves the expected model.
    Serving,
    /// It finishes what it has and accepts nothing new.
    Draining,
    /// It serves another model; the reason says which.
    Unfit(String),
}

/// How a worker is, without the reasons: for reports and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerState {
    Serving,
    Draining,
    Unreachable,
    Unfit,
}

impl WorkerState {
    pub(crate) const ALL: [Self; 4] = [Self::Serving, Self::Draining, Self::Unreachable, Self::Unfit];

    /// The name in reports and labels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Unreachable => "unreachable",
            Self::Unfit => "unfit",
        }
    }
}

/// A worker process.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The name that resolved to the address.
    pub(crate) name: WorkerName,
    pub(crate) channel: Channel,
    /// The sessions of this orchestrator on it.
    sessions: AtomicUsize,
    state: Mutex<State>,
    /// Notified when a request to it failed: its health must be checked again.
    pub(crate) suspected: Notify,
}

struct State {
    health: Health,
    /// Incarnations, of either service of the process, whose model was checked.
    checked: BTreeSet<u64>,
    /// Its name no longer resolves to it, and its health is no longer followed.
    retired: bool,
}

/// Counts a session on a worker.
pub(crate) struct SessionCount(Arc<Endpoint>);

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, name: WorkerName, channel: Channel) -> Self {
        let health = Health::Unreachable("not tried yet".into());
        let state = State { health, checked: BTreeSet::new(), retired: false };
        Self {
            address,
            name,
            channel,
            sessions: AtomicUsize::new(0),
            state: Mutex::new(state),
            suspected: Notify::new(),
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.lock().health.clone()
    }

    pub(crate) fn is_serving(&self) -> bool {
        let state = self.lock();
        state.health == Health::Serving && !state.retired
    }

    pub(crate) fn is_draining(&self) -> bool {
        let state = self.lock();
        state.health == Health::Draining || state.retired
    }

    /// Sets the health. Returns whether that is a change.
    pub(crate) fn set_health(&self, health: Health) -> bool {
        let mut state = self.lock();
        let changed = state.health != health;
        state.health = health;
        changed
    }

    /// A request to it failed: no new session is opened there until it has answered again.
    pub(crate) fn suspect(&self, why: &str) {
        tracing::debug!(address = %self.address, why, "suspected");
        let mut state = self.lock();
        if state.health == Health::Serving {
            state.health = Health::Unreachable(why.to_owned());
        }
        drop(state);
        self.suspected.notify_one();
    }

    pub(crate) fn retire(&self) {
        self.lock().retired = true;
        self.suspected.notify_one();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.lock().retired
    }

    /// Whether the model of this incarnation was checked.
    pub(crate) fn is_checked(&self, incarnation: u64) -> bool {
        self.lock().checked.contains(&incarnation)
    }

    /// Records that the model of this incarnation was checked.
    pub(crate) fn set_checked(&self, incarnation: u64) {
        self.lock().checked.insert(incarnation);
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    pub(crate) fn count_session(self: &Arc<Self>) -> SessionCount {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        SessionCount(self.clone())
    }

    /// The health without its reasons.
    pub(crate) fn worker_state(&self) -> WorkerState {
        if self.is_draining() {
            return WorkerState::Draining;
        }
        match self.health() {
            Health::Serving => WorkerState::Serving,
            Health::Draining => WorkerState::Draining,
            Health::Unreachable(_) => WorkerState::Unreachable,
            Health::Unfit(_) => WorkerState::Unfit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionCount {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
