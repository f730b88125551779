//! The container's listener: lets the proxy through to a session's Chrome, and nobody else.
//!
//! After both handshakes what the client says goes through the session's filter, and what the browser says passes as
//! it is ([`filtered`]). Why its session ended a client is told by the proxy, on the other side.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::filter::{Door, Filter};
use super::filtered;
use super::gateway::{self, Clients};
use super::left::{self, Left};
use super::live;
use super::logs::Ear;
use crate::error::ApiError;
use crate::ids::SessionId;
use crate::native::{self, ServeOptions};
use crate::protocol::CDP_SECRET_HEADER;
use crate::telemetry;
use crate::upgrade::{self, Leg, Upgrade};

/// How long a socket may go on delivering what Chrome said last, once its session has ended.
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// Chrome is on this machine.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many may watch a session at a time: each has its browser make pictures.
pub const MAX_VIEWERS: usize = 10;
const KEEPALIVE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Route {
    secret: String,
    pub door: Door,
    clients: Clients,
    pub left: Arc<Left>,
    pub viewers: Arc<Semaphore>,
    pub open: watch::Receiver<()>,
}

/// The sessions that can be reached, and where.
#[derive(Clone, Default)]
pub struct Routes(Arc<Mutex<HashMap<SessionId, Route>>>);

/// A session is reachable while this lives; its sockets are closed when it is dropped.
pub struct Open {
    routes: Routes,
    session: SessionId,
    clients: Clients,
    /// Tells this opening from a later one of the same session.
    closing: watch::Sender<()>,
}

impl Routes {
    pub fn open(&self, session: SessionId, secret: String, door: Door, clients: Clients, left: Arc<Left>) -> Open {
        let (closing, open) = watch::channel(());
        let viewers = Arc::new(Semaphore::new(MAX_VIEWERS));
        self.lock().insert(session.clone(), Route { secret, door, clients: clients.clone(), left, viewers, open });
        Open { routes: self.clone(), session, clients, closing }
    }

    /// The gateway clients of a session.
    pub fn clients(&self, session: &str, secret: &[u8]) -> Option<Clients> {
        self.find(session, secret).map(|route| route.clients)
    }

    /// Unknown session and wrong secret are one answer: it must not tell which sessions exist.
    pub fn find(&self, session: &str, secret: &[u8]) -> Option<Route> {
        let routes = self.lock();
        let route = routes.get(&session.parse::<SessionId>().ok()?)?;
        verify_slices_are_equal(route.secret.as_bytes(), secret).ok()?;
        Some(route.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut routes = self.routes.lock();
        if routes.get(&self.session).is_some_and(|route| route.open.same_channel(&self.closing.subscribe())) {
            routes.remove(&self.session);
        }
        self.clients.session_over();
    }
}

/// Serves the listener for as long as it is polled.
pub async fn serve(listener: TcpListener, routes: Routes) -> io::Result<()> {
    let router = Router::new()
        .route("/sessions/{id}/cdp", get(connect))
        .merge(gateway::routes::router())
        .merge(live::router())
        .merge(left::router())
        .route("/health", get(async || "ok"))
        .fallback(async || ApiError::not_found("route_not_found", "no such route"))
        .layer(middleware::from_fn(telemetry::observe))
        .with_state(routes);
    native::serve(listener, router, ServeOptions::default(), std::future::pending()).await
}

/// `GET /sessions/{id}/cdp`
async fn connect(
    State(routes): State<Routes>,
    Path(session): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let secret = request.headers().get(CDP_SECRET_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
    let Route { door: Door { endpoint, filter, logs }, open, .. } =
        routes.find(&session, secret).ok_or_else(ApiError::session_not_found)?;
    let upgrade = match Upgrade::from_request(&mut request) {
        Ok(upgrade) => upgrade,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let chrome = upgrade::dial(&endpoint.address(), &endpoint.path, &[], DIAL_TIMEOUT).await.map_err(|error| {
        tracing::info!(session.id = session, error = %error, "the browser did not take a connection");
        ApiError::new(StatusCode::BAD_GATEWAY, "browser_unreachable", "the session's browser does not answer")
    })?;
    let (response, client) = upgrade.accept();
    tokio::spawn(async move {
        // Whoever hung up before the answer needs no relay.
        if let Ok(client) = client.await {
            relay(client, chrome, &filter, logs.listen(), open).await;
        }
    });
    Ok(response)
}

/// Relays until both sides have ended, or the session has: then Chrome's last words may still be delivered.
pub async fn relay(mut client: Leg, mut chrome: Leg, filter: &Filter, ear: Ear, mut open: watch::Receiver<()>) {
    keep_alive(&client);
    let relayed = filtered::relay(&mut client, &mut chrome, filter, ear);
    tokio::pin!(relayed);
    tokio::select! {
        // A socket that broke is a socket that ended.
        _ = &mut relayed => return,
        // Nothing is ever sent: it resolves when the session's `Open` is dropped.
        _ = open.changed() => {}
    }
    let _ = tokio::time::timeout(LAST_WORDS, relayed).await;
}

/// A proxy whose machine vanished says nothing; its sockets must not wait for the session's end.
pub fn keep_alive(client: &Leg) {
    let probes = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = socket2::SockRef::from(&client.stream).set_tcp_keepalive(&probes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::api::Api;
    use crate::agent::browser::Endpoint;
    use crate::agent::egress::Egress;
    use crate::agent::logs::Logs;

    fn open(routes: &Routes, session: &SessionId, secret: &str) -> Open {
        let endpoint = Endpoint { port: 1, path: "/devtools/browser/x".into() };
        let api = Api::new("http://127.0.0.1:1", "token").expect("it can be sent");
        let filter = Arc::new(Filter::new("/nowhere".into(), Egress::closed()));
        let door = Door { endpoint, filter, logs: Logs::default() };
        let clients = Clients::new(session.clone(), door.clone(), api, gateway::IDLE_BEAT);
        routes.open(session.clone(), secret.into(), door, clients, Arc::new(Left::nothing()))
    }

    #[test]
    fn a_session_is_found_only_with_its_own_secret_and_only_while_it_is_open() {
        let routes = Routes::default();
        let (one, other) = (SessionId::random(), SessionId::random());
        let opening = open(&routes, &one, "secret");
        let _other = open(&routes, &other, "another");
        assert!(routes.find(one.as_str(), b"secret").is_some());
        for (session, secret) in [(&one, &b"another"[..]), (&one, b""), (&one, b"secre"), (&other, b"secret")] {
            assert!(routes.find(session.as_str(), secret).is_none());
        }
        drop(opening);
        assert!(routes.find(one.as_str(), b"secret").is_none());
    }

    #[test]
    fn an_old_opening_does_not_close_a_newer_one_of_the_same_session() {
        let routes = Routes::default();
        let session = SessionId::random();
        let old = open(&routes, &session, "old");
        let _new = open(&routes, &session, "new");
        drop(old);
        assert!(routes.find(session.as_str(), b"new").is_some());
    }
}
