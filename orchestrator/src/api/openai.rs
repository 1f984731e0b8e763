//! OpenAI's API over HTTP, its OpenAPI document, and the page.

mod error;
mod generate;
mod info;
mod kind;
mod openapi;
mod request;
mod response;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};

use crate::api::page;
use crate::error::ServiceError;
use crate::service::GenerationService;
use error::ApiError;
use kind::Kind;

/// All routes of the orchestrator.
pub(crate) fn routes(service: Arc<GenerationService>) -> Router {
    Router::new()
        .route("/v1/models", get(info::models))
        // The id of a model may contain slashes.
        .route("/v1/models/{*id}", get(info::model))
        .route("/v1/completions", post(generate::completions))
        .route("/v1/chat/completions", post(generate::chat_completions))
        .route("/v1/status", get(info::status))
        // The routes above require a key, if keys are configured. Those below do not: the page has a field for the key.
        .route_layer(from_fn_with_state(service.clone(), authenticate))
        .route("/openapi.json", get(openapi::document))
        .merge(page::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(service)
}

/// Identifies the client of a request; handlers find its [`ClientIdentity`](crate::admission::ClientIdentity) as an extension.
async fn authenticate(
    State(service): State<Arc<GenerationService>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let identified = service.identify(request.headers(), Some(address.ip()));
    // No name of a field depends on the endpoint here.
    let client = identified.map_err(|error| ApiError::new(&ServiceError::from(error), Kind::Completion))?;
    request.extensions_mut().insert(client);
    Ok(next.run(request).await)
}

async fn no_route() -> ApiError {
    ApiError::request(StatusCode::NOT_FOUND, "there is no such route")
}

async fn method_not_allowed() -> ApiError {
    ApiError::request(StatusCode::METHOD_NOT_ALLOWED, "this route does not allow the method")
}
