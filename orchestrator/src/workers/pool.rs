//! All workers of a kind: what is known of them, and who is chosen.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use futures_util::future::join_all;
use tandem_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use super::endpoint::{Endpoint, Health};
use super::role::model_info;
use super::watch::resolve_forever;
use super::{WorkerKind, WorkerLimits, WorkerName};
use crate::Network;
use crate::retry::RetryBudget;

/// Workers of a kind. Clones share them.
#[derive(Clone)]
pub(crate) struct Pool {
    inner: Arc<Inner>,
    /// Ends the watching with the last clone.
    _watching: Arc<DropGuard>,
}

pub(super) struct Inner {
    pub(super) kind: WorkerKind,
    pub(super) names: Vec<WorkerName>,
    pub(super) limits: WorkerLimits,
    pub(super) network: Arc<dyn Network>,
    /// The vocabulary that all must have, if it is known before the first worker.
    vocabulary: Option<String>,
    /// The first that answered; the others must have the same.
    model: OnceLock<v1::ModelInfo>,
    pub(super) endpoints: RwLock<Vec<Arc<Endpoint>>>,
    /// Why no name stands for anybody.
    pub(super) unresolved: Mutex<String>,
    changed: watch::Sender<()>,
    budget: RetryBudget,
    /// Nobody has the pool any more.
    gone: CancellationToken,
}

impl Pool {
    /// Begins to look for the workers that `names` stand for. The looking ends when the last clone is gone.
    pub(crate) fn start(
        kind: WorkerKind,
        names: Vec<WorkerName>,
        vocabulary: Option<String>,
        limits: WorkerLimits,
        network: Arc<dyn Network>,
    ) -> Self {
        let (changed, _) = watch::channel(());
        let gone = CancellationToken::new();
        let inner = Arc::new(Inner {
            kind,
            names,
            limits,
            network,
            vocabulary,
            model: OnceLock::new(),
            endpoints: RwLock::default(),
            unresolved: Mutex::new("no name was resolved yet".into()),
            changed,
            budget: RetryBudget::new(),
            gone: gone.clone(),
        });
        inner.spawn(resolve_forever(inner.clone()));
        Self { inner, _watching: Arc::new(gone.drop_guard()) }
    }

    pub(crate) fn kind(&self) -> WorkerKind {
        self.inner.kind
    }

    pub(crate) fn limits(&self) -> &WorkerLimits {
        &self.inner.limits
    }

    pub(crate) fn budget(&self) -> &RetryBudget {
        &self.inner.budget
    }

    /// What the workers serve, once one has answered.
    pub(crate) fn model(&self) -> Option<&v1::ModelInfo> {
        self.inner.model.get()
    }

    /// All, whether they answer or not.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.inner.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one that serves with the fewest of our sessions, none of `not`.
    pub(crate) fn pick(&self, not: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let endpoints = self.inner.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let able = endpoints.iter().filter(|e| e.is_serving() && !not.contains(&e.address));
        able.min_by_key(|e| e.sessions()).cloned()
    }

    /// Told at every change of a worker.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// Returns once somebody serves, or why nobody did until `by`.
    pub(crate) async fn somebody(&self, by: Instant) -> Result<Arc<Endpoint>, String> {
        let mut changes = self.changes();
        loop {
            if let Some(endpoint) = self.pick(&[]) {
                return Ok(endpoint);
            }
            let endpoints = self.endpoints();
            let unfit = |e: &Arc<Endpoint>| matches!(e.health(), Health::Unfit(_));
            // Waiting makes no other models of them.
            if !endpoints.is_empty() && endpoints.iter().all(unfit) {
                return Err(self.trouble());
            }
            let wait = tokio::time::timeout_at(by, changes.changed()).await;
            if !matches!(wait, Ok(Ok(()))) {
                return Err(self.trouble());
            }
        }
    }

    /// Somebody's model that cannot be used, and why.
    pub(crate) fn unfit(&self) -> Option<String> {
        self.endpoints().iter().find_map(|e| match e.health() {
            Health::Unfit(why) => Some(why),
            _ => None,
        })
    }

    /// Why there is nobody: what is wrong with each worker, or that none was found.
    pub(crate) fn trouble(&self) -> String {
        let say = |e: &Arc<Endpoint>| match e.health() {
            Health::Unreachable(why) | Health::Unfit(why) => format!("{}: {why}", e.address),
            Health::Draining => format!("{}: it is draining", e.address),
            Health::Serving => format!("{}: it serves again", e.address),
        };
        let all: Vec<String> = self.endpoints().iter().map(say).collect();
        if all.is_empty() {
            return self.inner.unresolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
        all.join("; ")
    }

    /// Checks that the life `incarnation` of `endpoint` serves the known model; `info` is what that face of it says.
    pub(crate) fn check(
        &self,
        endpoint: &Endpoint,
        incarnation: u64,
        info: &v1::ModelInfo,
    ) -> Result<(), String> {
        self.inner.check(info)?;
        endpoint.learn(incarnation);
        Ok(())
    }

    /// All of them as they are now; those that serve are asked.
    pub(crate) async fn status(&self) -> Vec<v1::WorkerStatus> {
        let role = match self.inner.kind {
            WorkerKind::Draft => v1::WorkerRole::Draft,
            WorkerKind::Target => v1::WorkerRole::Target,
        };
        let ask = async |endpoint: Arc<Endpoint>| {
            let state = endpoint.wire_state();
            let info = match state {
                v1::WorkerState::Serving | v1::WorkerState::Draining => self.inner.ask(&endpoint).await.ok(),
                _ => None,
            };
            v1::WorkerStatus {
                role: role.into(),
                address: endpoint.address.to_string(),
                state: state.into(),
                sessions: u32::try_from(endpoint.sessions()).unwrap_or(u32::MAX),
                load: info.as_ref().and_then(|i| i.load),
                kv_cache_tokens: info.map_or(0, |i| i.kv_cache_tokens),
            }
        };
        join_all(self.endpoints().into_iter().map(ask)).await
    }
}

impl Inner {
    /// Runs `watching` for as long as anybody has the pool.
    pub(super) fn spawn(&self, watching: impl Future<Output = ()> + Send + 'static) {
        let gone = self.gone.clone();
        tokio::spawn(async move { gone.run_until_cancelled(watching).await });
    }

    /// The model of a worker, asked now.
    pub(super) async fn ask(&self, endpoint: &Endpoint) -> Result<v1::ModelInfo, Status> {
        model_info(self.kind, endpoint.channel.clone(), self.limits.silence).await
    }

    pub(super) fn check(&self, info: &v1::ModelInfo) -> Result<(), String> {
        if self.vocabulary.as_ref().is_some_and(|hash| *hash != info.vocab_hash) {
            return Err(format!("{} has another tokenizer than the target", info.model_id));
        }
        let known = self.model.get_or_init(|| info.clone());
        // Not the name: it may be a directory, which each host has elsewhere.
        let text = |i: &v1::ModelInfo| {
            (i.vocab_hash.clone(), i.vocab_size, i.context_length, i.eos_token_ids.clone())
        };
        let weights = |i: &v1::ModelInfo| (i.parameters, i.dtype.clone());
        let same = text(info) == text(known) && weights(info) == weights(known);
        if same { Ok(()) } else { Err(format!("{} is another model than {}", info.model_id, known.model_id)) }
    }

    /// Records and tells how a worker is.
    pub(super) fn report(&self, endpoint: &Endpoint, health: Health) {
        let (kind, address) = (self.kind, endpoint.address);
        if !endpoint.set_health(health.clone()) {
            return;
        }
        match health {
            Health::Serving => tracing::info!(worker = %kind, %address, "serving"),
            Health::Draining => tracing::info!(worker = %kind, %address, "draining"),
            Health::Unreachable(why) => tracing::warn!(worker = %kind, %address, why, "unreachable"),
            Health::Unfit(why) => tracing::error!(worker = %kind, %address, why, "cannot be used"),
        }
        self.changed.send_replace(());
    }
}
