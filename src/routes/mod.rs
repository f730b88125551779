//! The routing table. What AWS tells (`events`) is not in it: it comes by another door, which no HTTP request
//! leads to.

pub mod body;
pub mod claim;
mod connections;
mod containers;
mod cors;
mod create;
#[cfg(not(feature = "native"))]
mod elsewhere;
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
pub mod openapi;
pub mod sessions;
pub mod table;
mod v1;

pub use body::SessionPath;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;

use crate::app::App;
use crate::error::ApiError;
use crate::telemetry;
use crate::ws::ConnectQuery;
use crate::ws::live::LiveQuery;
#[cfg(feature = "native")]
use crate::ws::{proxy, watch};
#[cfg(not(feature = "native"))]
use elsewhere::{metrics, proxy, watch};
use table::{Table, delete, get, post, put};

/// Who may ask for what. Each line makes a route, and describes it.
#[rustfmt::skip]
pub fn table() -> Table {
    Table::default()
        // By API key.
        .part("Sessions")
        .route("/sessions", [
            get(sessions::list_sessions, "Your sessions, newest first"),
            post(sessions::create_session, "Creates a session").refuses(&[501]),
        ])
        .route("/sessions/{id}", [
            get(sessions::get_session, "One session"),
            delete(sessions::delete_session, "Ends a session, however often it is asked for"),
        ])
        // By the session's token. What holds sockets answers; elsewhere it says where that is.
        .part("Connecting")
        .route("/cdp", [get(proxy::connect_by_query, "The WebSocket to a session's browser, which speaks CDP")
            .opened_by::<ConnectQuery>().answers(101, None).refuses(&[410, 426, 429, 501, 504])])
        .route("/sessions/{id}/ws", [get(proxy::connect_by_path, "The same, with the session in the path")
            .opened_by::<()>().answers(101, None).refuses(&[410, 426, 429, 501, 504])])
        .route("/sessions/{id}/json/version", [
            get(proxy::discover, "DevTools discovery, for `connectOverCDP(\"http://..\")`; waits for the browser")
                .opened_by::<()>().refuses(&[410, 429, 504]),
        ])
        .route("/sessions/{id}/json/version/", [
            get(proxy::discover, "The same: so Playwright asks").opened_by::<()>().refuses(&[410, 429, 504]),
        ])
        // By a token that shows and does nothing, or by one that connects.
        .part("Live view")
        .route("/sessions/{id}/live", [get(watch::show_page, "A page that shows a page of the session's browser")
            .opened_by::<LiveQuery>().answers(200, Some("text/html"))])
        .route("/sessions/{id}/live/pages", [get(watch::list_pages, "The pages of the session's browser")
            .opened_by::<LiveQuery>().refuses(&[409, 410])])
        .route("/sessions/{id}/live/ws", [get(watch::watch_page, "The WebSocket on which a page's pictures come")
            .opened_by::<LiveQuery>().answers(101, None).refuses(&[409, 410, 426, 429, 501])])
        .route("/sessions/{id}/devtools/{token}/{*file}", [
            get(watch::show_devtools, "The DevTools of the session's browser, by a token that connects")
                .answers(200, Some("*/*")).refuses(&[401, 404, 409, 410, 503]),
        ])
        // The same sessions, as the clients of Browserbase ask for them.
        .nest("/v1", v1::table())
        // By their own token: each reaches only the sessions it holds.
        .part("Containers")
        .route("/sessions/claim", [
            post(claim::claim_sessions, "Asks for work, tells what runs, and is the heartbeat").refuses(&[403, 409]),
        ])
        .route("/sessions/{id}/ready", [post(claim::report_ready, "The session's browser answers")])
        .route("/sessions/{id}/ended", [post(claim::report_ended, "The session's browser is gone")])
        .route("/sessions/{id}/files", [
            post(files::address_file, "Where something that the session leaves is to be written").refuses(&[501]),
        ])
        .route("/connections/{connection_id}/messages", [
            post(connections::deliver_messages, "What the browser says to a client whose socket a gateway holds")
                .refuses(&[501]),
        ])
        // Those that a service has started, by the token that is the same for all of them.
        .route("/containers", [
            post(containers::join_container, "A container that a service of ECS runs asks for its own token")
                .refuses(&[409]),
        ])
        // By an API key of an operator.
        .part("Operators")
        .route("/fleet", [get(fleet::show_fleet, "The containers, the queue, and what is about to be done")])
        .route("/metrics", [get(metrics::show_metrics, "What this process has counted, for Prometheus")
            .answers(200, Some("application/openmetrics-text"))])
        .part("Anyone")
        // By the address of one file, which a claim or an answer holds; a bucket has addresses of its own.
        .route("/objects/{token}", [
            get(objects::read_object, "A file, for whoever was given its address")
                .answers(200, Some("application/zip")).refuses(&[401, 404, 501, 503]),
            put(objects::write_object, "Stores a file, for whoever was given the address")
                .answers(200, None).refuses(&[400, 401, 413, 501, 503]),
        ])
        .route("/health", [get(health::health, "Whether this process is alive")])
        .route("/ready", [get(health::ready, "Whether it can serve: Redis answers, and it is not about to end")
            .refuses(&[503])])
        .route("/openapi.json", [
            get(openapi::show_description, "This description").answers(200, Some("application/json")),
        ])
}

pub fn router(app: App) -> Router {
    router_with(app, Router::new())
}

/// The same, and routes of somebody else's beside them.
pub fn router_with(app: App, others: Router<App>) -> Router {
    table()
        .into_router()
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
