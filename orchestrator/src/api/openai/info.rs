//! What is served here: the model, and the state of the workers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::kind::Kind;
use crate::service::GenerationService;
use crate::workers::WorkerStatus;

/// The models that are served: one.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelList {
    /// `list`.
    object: &'static str,
    data: Vec<Model>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(super) struct Model {
    /// The name that requests give it.
    id: String,
    /// `model`.
    object: &'static str,
    /// 0: it is not known.
    created: u64,
    /// `tandem`.
    owned_by: &'static str,
}

/// What runs here, and the workers.
#[derive(Serialize, ToSchema)]
pub(super) struct StatusReport {
    /// Generations that run.
    running: usize,
    /// Generations in the admission queue.
    waiting: usize,
    /// All known workers, whether they answer or not.
    workers: Vec<WorkerReport>,
    target_model: String,
    /// Empty while no draft has answered.
    draft_model: String,
    /// Tokens that both models have.
    vocab_size: u32,
    /// Tokens that a sequence may have on both models, prompt included.
    context_length: usize,
    /// Whether the model has a chat template.
    chat: bool,
}

/// A worker as it is now.
#[derive(Serialize, ToSchema)]
struct WorkerReport {
    /// `draft` or `target`.
    role: &'static str,
    address: String,
    /// `serving`, `draining`, `unreachable` or `unfit`.
    state: &'static str,
    /// Sessions of this orchestrator on it.
    sessions: usize,
    /// Tokens that its KV cache can hold; 0 if it did not answer.
    kv_cache_tokens: u64,
    /// Tokens in its KV cache, of all its clients.
    kv_cache_tokens_used: u64,
}

impl Model {
    fn new(id: String) -> Self {
        Self { id, object: "model", created: 0, owned_by: "tandem" }
    }
}

/// Lists the model that is served.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "state",
    responses(
        (status = 200, description = "The model", body = ModelList),
        (status = "default", description = "An error", body = ErrorBody),
    )
)]
pub(super) async fn models(State(service): State<Arc<GenerationService>>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![Model::new(service.model.clone())] })
}

/// Describes the model that is served.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "state",
    params(("id" = String, Path, description = "The name of the model. It may contain slashes")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = "default", description = "An error", body = ErrorBody),
    )
)]
pub(super) async fn model(
    State(service): State<Arc<GenerationService>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    if id != service.model {
        return Err(ApiError::new(&service.model_not_found(&id), Kind::Completion));
    }
    Ok(Json(Model::new(id)))
}

/// Reports what runs here, and the state of the workers.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "state",
    responses(
        (status = 200, description = "The state", body = StatusReport),
        (status = "default", description = "An error", body = ErrorBody),
    )
)]
pub(super) async fn status(State(service): State<Arc<GenerationService>>) -> Json<StatusReport> {
    let status = service.status().await;
    Json(StatusReport {
        running: status.running,
        waiting: status.queued,
        workers: status.workers.into_iter().map(WorkerReport::from).collect(),
        target_model: status.target_model,
        draft_model: status.draft_model,
        vocab_size: status.vocab_size,
        context_length: status.context_length,
        chat: status.chat,
    })
}

impl From<WorkerStatus> for WorkerReport {
    fn from(worker: WorkerStatus) -> Self {
        Self {
            role: worker.role.name(),
            address: worker.address.to_string(),
            state: worker.state.name(),
            sessions: worker.sessions,
            kv_cache_tokens: worker.kv_cache_tokens,
            kv_cache_tokens_used: worker.load.map_or(0, |load| load.kv_cache_tokens_used),
        }
    }
}
