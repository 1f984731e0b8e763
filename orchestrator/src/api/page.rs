//! The page: files in the binary. They load nothing from other servers.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::routing::get;

/// Path, content type, content.
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/api.js", "text/javascript; charset=utf-8", include_str!("page/api.js")),
    ("/lane.js", "text/javascript; charset=utf-8", include_str!("page/lane.js")),
    ("/tree.js", "text/javascript; charset=utf-8", include_str!("page/tree.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// Only scripts and styles from this server run, and no other page may embed it in a frame.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The routes of the page.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        let headers: [(HeaderName, &str); 4] = [
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        router.route(path, get(move || std::future::ready((headers, content))))
    })
}
