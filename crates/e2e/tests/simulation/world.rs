//! What the hosts of a simulation share with the test that runs it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tandem_engine::KvBudget;
use tandem_serving::Shutdown;
use tandem_testkit::SimulatedNetwork;

use super::outcome::Outcome;

/// Shared by all hosts of a simulation.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) network: SimulatedNetwork,
    inner: Arc<Mutex<Shared>>,
}

/// The part that is behind a lock.
#[derive(Default)]
pub(crate) struct Shared {
    /// The current incarnation of each worker, by host.
    pub(crate) workers: BTreeMap<String, RunningWorker>,
    /// By the index of the client.
    pub(crate) outcomes: BTreeMap<usize, Outcome>,
    /// What a host saw that must not happen.
    pub(crate) violations: Vec<String>,
    incarnations: u64,
}

/// Handles of a worker that runs.
#[derive(Clone)]
pub(crate) struct RunningWorker {
    pub(crate) budget: KvBudget,
    pub(crate) shutdown: Shutdown,
}

impl World {
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Shared) -> R) -> R {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number of a new incarnation, different from all before.
    pub(crate) fn next_incarnation(&self) -> u64 {
        self.with(|shared| {
            shared.incarnations += 1;
            shared.incarnations
        })
    }

    pub(crate) fn violation(&self, what: String) {
        self.with(|shared| shared.violations.push(what));
    }
}
