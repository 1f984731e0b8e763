//! The OpenAPI document, generated from the types that requests are parsed into and answers are written from.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{generate, info};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tandem",
        description = "Generation by a target model that a draft model assists, as OpenAI's clients know it.\n\nA field that would change the \
                       answer and cannot be honoured is refused by name, and so is an unknown one."
    ),
    paths(
        generate::completions,
        generate::chat_completions,
        info::models,
        info::model,
        info::status,
        health,
        ready,
        metrics
    ),
    tags(
        (name = "generation", description = "Completions and chat completions"),
        (name = "state", description = "The model, the workers, and the state of the server"),
    ),
    // Keys are optional: whether they are required is configuration.
    security((), ("api_key" = [])),
    modifiers(&ApiKey)
)]
struct Document;

struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("api_key", bearer);
    }
}

/// Whether the process is alive.
#[utoipa::path(
    get,
    path = "/health",
    tag = "state",
    responses((status = 200, description = "It is alive", body = String, content_type = "text/plain")),
    security(())
)]
#[expect(dead_code, reason = "every service has this route; it is described here only")]
fn health() {}

/// Whether requests can be served now.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "state",
    responses(
        (status = 200, description = "They can", body = String, content_type = "text/plain"),
        (status = 503, description = "Why they cannot", body = String, content_type = "text/plain"),
    ),
    security(())
)]
#[expect(dead_code, reason = "every service has this route; it is described here only")]
fn ready() {}

/// Metrics for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "state",
    responses((status = 200, description = "The metrics", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
    ))),
    security(())
)]
#[expect(dead_code, reason = "every service has this route; it is described here only")]
fn metrics() {}

/// `GET /openapi.json`. It needs no key.
pub(super) async fn document() -> impl IntoResponse {
    static JSON: LazyLock<String> = LazyLock::new(|| {
        Document::openapi().to_json().unwrap_or_else(|error| {
            tracing::error!(%error, "the OpenAPI document cannot be written");
            "{}".to_owned()
        })
    });
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str())
}

#[cfg(test)]
mod tests;
