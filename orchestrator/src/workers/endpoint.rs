//! One worker process: its address, its connection, how it is, and who watches that.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tandem_proto::v1;
use tokio::sync::Notify;
use tonic::transport::Channel;

use super::WorkerName;

/// How a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It does not answer: why.
    Unreachable(String),
    /// It serves the model that is known.
    Serving,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It serves another model: which, and what is wrong with it.
    Unfit(String),
}

/// A worker process.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// That stood for the address when it was found.
    pub(crate) name: WorkerName,
    pub(crate) channel: Channel,
    /// Our sessions on it.
    sessions: AtomicUsize,
    state: Mutex<State>,
    /// Somebody's request failed: look again.
    pub(crate) suspected: Notify,
}

struct State {
    health: Health,
    /// Lives of it, of either face, whose model was checked.
    checked: BTreeSet<u64>,
    /// Its name is gone: nobody watches it any more.
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

    /// Whether this is a change.
    pub(crate) fn set_health(&self, health: Health) -> bool {
        let mut state = self.lock();
        let changed = state.health != health;
        state.health = health;
        changed
    }

    /// A request to it failed: nobody new is sent there until it has answered again.
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

    /// Whether the model of this life was checked.
    pub(crate) fn knows(&self, incarnation: u64) -> bool {
        self.lock().checked.contains(&incarnation)
    }

    /// The model of this life was checked.
    pub(crate) fn learn(&self, incarnation: u64) {
        self.lock().checked.insert(incarnation);
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    pub(crate) fn count_session(self: &Arc<Self>) -> SessionCount {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        SessionCount(self.clone())
    }

    /// As the public API shows it.
    pub(crate) fn wire_state(&self) -> v1::WorkerState {
        if self.is_draining() {
            return v1::WorkerState::Draining;
        }
        match self.health() {
            Health::Serving => v1::WorkerState::Serving,
            Health::Draining => v1::WorkerState::Draining,
            Health::Unreachable(_) => v1::WorkerState::Unreachable,
            Health::Unfit(_) => v1::WorkerState::Unfit,
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
