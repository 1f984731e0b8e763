//! What is known of the workers of a pool, shared by those who choose among them and those who follow their health.

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tandem_generation::Role;
use tandem_proto::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::endpoint::{Endpoint, Health};
use super::name::{WorkerName, WorkerTimeouts};
use super::protocol::model_info;
use super::target_vocabulary::TargetVocabulary;
use crate::network::Network;
use crate::retry::RetryBudget;

/// The shared state of a pool.
pub(super) struct Registry {
    pub(super) role: Role,
    pub(super) names: Vec<WorkerName>,
    pub(super) timeouts: WorkerTimeouts,
    pub(super) network: Arc<dyn Network>,
    /// The vocabulary that all workers must agree with, if it is known before the first one answers.
    vocabulary: Option<TargetVocabulary>,
    /// The model of the first worker that answered; the others must serve the same.
    model: OnceLock<v1::ModelInfo>,
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
    /// Why no name resolves to a worker.
    unresolved: Mutex<String>,
    changed: watch::Sender<()>,
    pub(super) retries: RetryBudget,
    /// Cancelled when the last clone of the pool is dropped.
    closed: CancellationToken,
}

impl Registry {
    pub(super) fn new(
        role: Role,
        names: Vec<WorkerName>,
        vocabulary: Option<TargetVocabulary>,
        timeouts: WorkerTimeouts,
        network: Arc<dyn Network>,
    ) -> Self {
        let (changed, _) = watch::channel(());
        Self {
            role,
            names,
            timeouts,
            network,
            vocabulary,
            model: OnceLock::new(),
            endpoints: RwLock::default(),
            unresolved: Mutex::new("no name was resolved yet".into()),
            changed,
            retries: RetryBudget::new(),
            closed: CancellationToken::new(),
        }
    }

    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Runs `task` until it ends or the pool is dropped.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closed = self.closed.clone();
        tokio::spawn(async move { closed.run_until_cancelled(task).await });
    }

    /// All workers, whether they answer or not.
    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the list of workers.
    pub(super) fn update(&self, change: impl FnOnce(&mut Vec<Arc<Endpoint>>)) {
        change(&mut self.endpoints.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What the workers serve, once one has answered.
    pub(super) fn model(&self) -> Option<&v1::ModelInfo> {
        self.model.get()
    }

    /// Why no name resolves to a worker.
    pub(super) fn unresolved(&self) -> String {
        self.unresolved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_unresolved(&self, reason: String) {
        *self.unresolved.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Notified at every change of a worker's health.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Requests the model of a worker now.
    pub(super) async fn request_model(&self, endpoint: &Endpoint) -> Result<v1::ModelInfo, Status> {
        model_info(self.role, endpoint.channel.clone(), self.timeouts.silence).await
    }

    /// Checks that a worker serves the expected model; if it does not, the inner error says why. The first one defines it.
    pub(super) async fn check(
        &self,
        endpoint: &Endpoint,
        info: &v1::ModelInfo,
    ) -> Result<Result<(), String>, Status> {
        if let Some(vocabulary) = &self.vocabulary {
            let channel = endpoint.channel.clone();
            let agrees = vocabulary.check(info, channel, self.timeouts.request).await?;
            if agrees.is_err() {
                return Ok(agrees);
            }
        }
        let expected = self.model.get_or_init(|| info.clone());
        Ok(match is_same_model(info, expected) {
            true => Ok(()),
            false => Err(format!("{} is not the same model as {}", info.model_id, expected.model_id)),
        })
    }

    /// Records and logs the health of a worker.
    pub(super) fn report(&self, endpoint: &Endpoint, health: Health) {
        let role = self.role;
        let address = endpoint.address;
        if !endpoint.set_health(health.clone()) {
            return;
        }
        match health {
            Health::Serving => tracing::info!(worker = %role, %address, "serving"),
            Health::Draining => tracing::info!(worker = %role, %address, "draining"),
            Health::Unreachable(why) => tracing::warn!(worker = %role, %address, why, "unreachable"),
            Health::Unfit(why) => tracing::error!(worker = %role, %address, why, "cannot be used"),
        }
        self.changed.send_replace(());
    }
}

/// Whether two workers give the same answers. Their names do not count: a name may be a directory, which differs between hosts.
fn is_same_model(a: &v1::ModelInfo, b: &v1::ModelInfo) -> bool {
    a.vocab_hash == b.vocab_hash
        && a.vocab_size == b.vocab_size
        && a.context_length == b.context_length
        && a.eos_token_ids == b.eos_token_ids
        && a.parameters == b.parameters
        && a.dtype == b.dtype
}
