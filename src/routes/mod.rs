//! The routing table. What AWS tells (`events`) is not in it: it comes by another door, which no HTTP request
//! leads to.

pub mod body;
pub mod claim;
mod connections;
mod containers;
mod cors;
mod create;
#[cfg(feature = "lambda")]
pub mod events;
mod files;
mod fleet;
mod forwarded;
mod health;
mod host;
#[cfg(feature = "native")]
mod metrics;
mod multipart;
pub mod objects;
pub mod sessions;
mod v1;

pub use body::SessionPath;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{get, post};

use crate::app::App;
use crate::error::ApiError;
use crate::telemetry;
#[cfg(feature = "native")]
use crate::ws::{proxy, watch};

pub fn router(app: App) -> Router {
    router_with(app, Router::new())
}

/// The same, and routes of somebody else's beside them.
pub fn router_with(app: App, others: Router<App>) -> Router {
    let router = Router::new()
        // Clients, by API key.
        .route("/sessions", get(sessions::list_sessions).post(sessions::create_session))
        .route("/sessions/{id}", get(sessions::get_session).delete(sessions::delete_session))
        // The same, as the clients of Browserbase ask for it.
        .nest("/v1", v1::router())
        // Containers, by their own token: each reaches only the sessions it holds.
        .route("/sessions/claim", post(claim::claim_sessions))
        .route("/sessions/{id}/ready", post(claim::report_ready))
        .route("/sessions/{id}/ended", post(claim::report_ended))
        .route("/connections/{connection_id}/messages", post(connections::deliver_messages))
        // The same, by the token that a claim hands out with each session: what a session leaves outlives it.
        .route("/sessions/{id}/files", post(files::address_file))
        // Those that a service has started, by the token that is the same for all of them.
        .route("/containers", post(containers::join_container))
        // Operators, by an API key of theirs.
        .route("/fleet", get(fleet::show_fleet))
        // Anyone.
        .route("/health", get(health::health))
        .route("/ready", get(health::ready));
    // Clients, by the session's token; and what a process has counted, where it lives long enough to be asked.
    #[cfg(feature = "native")]
    let router = router
        .route("/metrics", get(metrics::show_metrics))
        .route("/cdp", get(proxy::connect_by_query))
        .route("/sessions/{id}/ws", get(proxy::connect_by_path))
        // Viewers, by a token that shows and does nothing, or by one that connects.
        .route("/sessions/{id}/live", get(watch::show_page))
        .route("/sessions/{id}/live/pages", get(watch::list_pages))
        .route("/sessions/{id}/live/ws", get(watch::watch_page))
        .route("/sessions/{id}/devtools/{token}/{*file}", get(watch::show_devtools))
        // Whoever was given the address of one file.
        .route("/objects/{token}", get(objects::read_object).put(objects::write_object))
        .route("/sessions/{id}/json/version", get(proxy::discover))
        .route("/sessions/{id}/json/version/", get(proxy::discover));
    router
        .merge(others)
        .fallback(async || ApiError::not_found("route_not_found", "no such route"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route does not take that method")
        })
        .layer(middleware::from_fn_with_state(app.clone(), cors::share_with_origins))
        .layer(middleware::from_fn_with_state(app.clone(), host::only_this_machine))
        .layer(middleware::from_fn_with_state(app.clone(), forwarded::believe_proxies))
        .layer(middleware::from_fn_with_state(app.clone(), telemetry::count))
        .layer(middleware::from_fn(telemetry::observe))
        .with_state(app)
}
