//! The workers of one role: which of them gets a session, and what is known of all.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use tandem_generation::Role;
use tandem_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tonic::Status;

use super::discovery::resolve_forever;
use super::endpoint::{Endpoint, Health, WorkerState};
use super::name::{WorkerName, WorkerTimeouts};
use super::registry::Registry;
use super::target_vocabulary::TargetVocabulary;
use crate::network::Network;
use crate::retry::RetryBudget;

/// Workers of one role. Clones share them.
#[derive(Clone)]
pub(crate) struct Pool {
    registry: Arc<Registry>,
    /// Ends discovery with the last clone.
    _discovery: Arc<DropGuard>,
}

/// A worker as it is now.
#[derive(Clone, Debug)]
pub(crate) struct WorkerStatus {
    pub(crate) role: Role,
    pub(crate) address: SocketAddr,
    pub(crate) state: WorkerState,
    /// Sessions of this orchestrator on it.
    pub(crate) sessions: usize,
    /// Tokens that its KV cache can hold; 0 if it did not answer.
    pub(crate) kv_cache_tokens: u64,
    /// Its load, if it answered.
    pub(crate) load: Option<WorkerLoad>,
}

/// The load of a worker, by all its clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerLoad {
    pub(crate) sessions: u32,
    pub(crate) kv_cache_tokens_used: u64,
}

impl Pool {
    /// Starts to look for the workers that `names` resolve to, until the last clone is dropped.
    pub(crate) fn start(
        role: Role,
        names: Vec<WorkerName>,
        vocabulary: Option<TargetVocabulary>,
        timeouts: WorkerTimeouts,
        network: Arc<dyn Network>,
    ) -> Self {
        let registry = Arc::new(Registry::new(role, names, vocabulary, timeouts, network));
        registry.spawn(resolve_forever(registry.clone()));
        let guard = registry.closed().clone().drop_guard();
        Self { registry, _discovery: Arc::new(guard) }
    }

    pub(crate) fn role(&self) -> Role {
        self.registry.role
    }

    pub(crate) fn timeouts(&self) -> &WorkerTimeouts {
        &self.registry.timeouts
    }

    pub(crate) fn retries(&self) -> &RetryBudget {
        &self.registry.retries
    }

    /// What the workers serve, once one has answered.
    pub(crate) fn model(&self) -> Option<&v1::ModelInfo> {
        self.registry.model()
    }

    /// The state of every worker, without a request to it.
    pub(crate) fn states(&self) -> Vec<WorkerState> {
        self.registry.endpoints().iter().map(|endpoint| endpoint.worker_state()).collect()
    }

    /// The serving worker with the fewest sessions of ours that is not in `excluded`.
    pub(crate) fn pick(&self, excluded: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let endpoints = self.registry.endpoints();
        endpoints
            .into_iter()
            .filter(|endpoint| endpoint.is_serving() && !excluded.contains(&endpoint.address))
            .min_by_key(|endpoint| endpoint.sessions())
    }

    /// Notified at every change of a worker's health.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.registry.changes()
    }

    /// Waits until a worker serves; the error says why none did until `deadline`.
    pub(crate) async fn first_serving(&self, deadline: Instant) -> Result<Arc<Endpoint>, String> {
        let mut changes = self.changes();
        loop {
            if let Some(endpoint) = self.pick(&[]) {
                return Ok(endpoint);
            }
            let endpoints = self.registry.endpoints();
            let unfit = endpoints.iter().filter(|e| matches!(e.health(), Health::Unfit(_))).count();
            // Waiting does not change the model that a worker serves.
            if !endpoints.is_empty() && unfit == endpoints.len() {
                return Err(self.trouble());
            }
            let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Err(self.trouble());
            }
        }
    }

    /// Why a worker's model cannot be used, if that is so for one of them.
    pub(crate) fn unfit(&self) -> Option<String> {
        self.registry.endpoints().iter().find_map(|endpoint| match endpoint.health() {
            Health::Unfit(why) => Some(why),
            _ => None,
        })
    }

    /// Why no worker serves: what is wrong with each of them, or that none was found.
    pub(crate) fn trouble(&self) -> String {
        let endpoints = self.registry.endpoints();
        if endpoints.is_empty() {
            return self.registry.unresolved();
        }
        let reasons = endpoints.iter().map(|endpoint| match endpoint.health() {
            Health::Unreachable(why) | Health::Unfit(why) => format!("{}: {why}", endpoint.address),
            Health::Draining => format!("{}: it is draining", endpoint.address),
            Health::Serving => format!("{}: it serves again", endpoint.address),
        });
        reasons.collect::<Vec<_>>().join("; ")
    }

    /// Checks that the `incarnation` of a worker serves the expected model, by what it says of itself; if it does not, the inner error
    /// says why.
    pub(crate) async fn check(
        &self,
        endpoint: &Endpoint,
        incarnation: u64,
        info: &v1::ModelInfo,
    ) -> Result<Result<(), String>, Status> {
        let checked = self.registry.check(endpoint, info).await?;
        if checked.is_ok() {
            endpoint.set_checked(incarnation);
        }
        Ok(checked)
    }

    /// All workers as they are now; those that answer are asked for their load.
    pub(crate) async fn status(&self) -> Vec<WorkerStatus> {
        let requests = self.registry.endpoints().into_iter().map(|endpoint| self.worker_status(endpoint));
        join_all(requests).await
    }

    async fn worker_status(&self, endpoint: Arc<Endpoint>) -> WorkerStatus {
        let state = endpoint.worker_state();
        let info = match state {
            WorkerState::Serving | WorkerState::Draining => self.registry.request_model(&endpoint).await.ok(),
            WorkerState::Unreachable | WorkerState::Unfit => None,
        };
        WorkerStatus {
            role: self.role(),
            address: endpoint.address,
            state,
            sessions: endpoint.sessions(),
            load: info.as_ref().and_then(|info| info.load).map(|load| WorkerLoad {
                sessions: load.sessions,
                kv_cache_tokens_used: load.kv_cache_tokens_used,
            }),
            kv_cache_tokens: info.map_or(0, |info| info.kv_cache_tokens),
        }
    }
}
