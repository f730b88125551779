//! Native sockets: a client's upgrade is held until its session's browser answers, then the bytes of both
//! sides are spliced together.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{authorize, crowded, gone, place};
use crate::app::App;
use crate::causes::Causes;
use crate::clock::now_ms;
use crate::config::TICK;
use crate::error::ApiError;
use crate::ids::{ConnectionId, SessionId};
use crate::lifecycle;
use crate::native::HttpPlace;
use crate::protocol::{CDP_SECRET_HEADER, DiscoverResponse};
use crate::routes::SessionPath;
use crate::session::{EndReason, Session, SessionStatus};
use crate::splice::{CloseFrame, SpliceOptions, splice};
use crate::store::Connect;
use crate::store::events::{SessionEvent, SessionWatch};
use crate::store::reply::Details;
use crate::tokens::Subject;
use crate::upgrade::{self, Leg, Upgrade};

/// How long a container may take to answer a dial.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Events can be lost, so a parked client's session is looked at this often all the same.
const RECHECK: Duration = Duration::from_secs(2);
/// How long to wait after a container could not be dialled.
const REDIAL: Duration = Duration::from_millis(250);
/// Tells a client that its session goes on, and to connect again (IANA's registry of WebSocket close codes).
const SERVICE_RESTART: u16 = 1012;
/// How much later than its time a session is looked at: the timer that ends it runs once a second.
const OVERTIME: Duration = Duration::from_secs(3);

/// `GET /cdp?sessionId=..&token=..`
pub async fn connect_by_query(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let id = authorize(&app, request.uri(), request.headers(), None).await?;
    connect(&app, id, request).await
}

/// `GET /sessions/{id}/ws?token=..`
pub async fn connect_by_path(
    State(app): State<App>,
    SessionPath(id): SessionPath,
    request: Request,
) -> Result<Response, ApiError> {
    let id = authorize(&app, request.uri(), request.headers(), Some(&id)).await?;
    connect(&app, id, request).await
}

/// `GET /sessions/{id}/json/version`: what `connectOverCDP("http://..")` asks first. Answers when the
/// session's browser does, with a URL that leads back here.
pub async fn discover(
    State(app): State<App>,
    SessionPath(id): SessionPath,
    uri: Uri,
    headers: HeaderMap,
    http: Option<Extension<HttpPlace>>,
) -> Result<Json<DiscoverResponse>, ApiError> {
    let id = authorize(&app, &uri, &headers, Some(&id)).await?;
    let _place = place(&app, &id)?;
    if let Some(Extension(http)) = http {
        http.give_up();
    }
    let (session, details) = wait_until_ready(&app, &id).await?;
    let subject = Subject::Connect { session: id.clone(), user: session.user_id };
    let token = app.tokens.get(now_ms()).await?.mint(&subject, now_ms(), session.expires_at_ms);
    let mut version = details.version;
    version.remove("webSocketDebuggerUrl");
    let web_socket_debugger_url = app.addresses.connect_url(&headers, &id, &token);
    Ok(Json(DiscoverResponse { version, web_socket_debugger_url }))
}

/// A connection that is entered in the store, or may be: the answer can be lost, and Redis carry out what it was
/// asked long after. It is taken out when this is dropped, whether the client went away while it was parked, the
/// dial failed, or the last byte has been relayed.
struct Entered {
    app: App,
    session: SessionId,
    connection: ConnectionId,
    refused: bool,
    /// Whether its client was told that it is connected.
    let_in: bool,
}

impl Entered {
    fn new(app: &App, session: &SessionId) -> Self {
        Self {
            app: app.clone(),
            session: session.clone(),
            connection: ConnectionId::random(),
            refused: false,
            let_in: false,
        }
    }

    /// It is known not to be there.
    fn refused(mut self) {
        self.refused = true;
    }

    /// Its client has reached the browser, and it stays for as long as this lives.
    fn carried(mut self) -> Self {
        self.let_in = true;
        let mut carried = self.app.carried.lock().expect("not poisoned");
        carried.insert(self.connection.clone(), self.session.clone());
        drop(carried);
        self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.refused {
            return;
        }
        let (app, session, connection) = (self.app.clone(), self.session.clone(), self.connection.clone());
        let let_in = self.let_in;
        app.carried.lock().expect("not poisoned").remove(&connection);
        self.app.sockets.spawn(async move {
            // Until it is done: a connection left behind would keep its session alive to the end of its time.
            let taken_out = async || match let_in {
                true => lifecycle::disconnect(&app, &connection, Some(&session)).await.map(drop),
                false => app.store.back_out(&connection, &session, &app.limits, now_ms()).await,
            };
            while let Err(error) = taken_out().await {
                tracing::warn!(
                    session.id = %session, connection.id = %connection,
                    error = %Causes(&error), "connection could not be taken out"
                );
                tokio::select! {
                    () = sleep(RECHECK) => {}
                    // The next server finds this one lost, and its connections with it.
                    () = app.stopping.cancelled() => return,
                }
            }
        });
    }
}

async fn connect(app: &App, id: SessionId, mut request: Request) -> Result<Response, ApiError> {
    let upgrade = match Upgrade::from_request(&mut request) {
        Ok(upgrade) => upgrade,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    if app.draining.is_cancelled() {
        return Err(ApiError::stopping());
    }
    let place = place(app, &id)?;
    if let Some(http) = request.extensions().get::<HttpPlace>() {
        http.give_up();
    }
    let parked = Instant::now();
    let mut watch = app.events.session(&id);
    let (browser, entered, expires_at_ms) = reach(app, &id, &mut watch).await?;
    tracing::info!(
        session.id = %id, connection.id = %entered.connection,
        duration_ms = u64::try_from(parked.elapsed().as_millis()).unwrap_or(u64::MAX), "client connected"
    );
    let (response, client) = upgrade.accept();
    let app = app.clone();
    app.clone().sockets.spawn(async move {
        let client = match client.await {
            Ok(client) => client,
            // The client hung up before it read the answer.
            Err(error) => {
                tracing::debug!(error = %Causes(&error), "upgrade failed");
                return;
            }
        };
        let close = closing(&app, &id, &mut watch, expires_at_ms);
        let _open = app.metrics.connection();
        let report = splice(client, browser, splice_options(&app), close).await;
        tracing::info!(
            session.id = %id, connection.id = %entered.connection, bytes.to_client = report.bytes_to_client,
            bytes.to_browser = report.bytes_to_browser, ended_by = ?report.ended_by, "client disconnected"
        );
        drop((entered, place));
    });
    Ok(response)
}

/// Waits until the session's browser can be dialled, and dials it.
async fn reach(app: &App, id: &SessionId, watch: &mut SessionWatch) -> Result<(Leg, Entered, u64), ApiError> {
    let deadline = Instant::now() + app.connect_wait;
    loop {
        let entered = Entered::new(app, id);
        let pause = match app.store.connect(id, &entered.connection, &app.server_id, now_ms()).await? {
            Connect::Ready { address, secret, expires_at_ms, reached } => {
                let dialled = tokio::select! {
                    dialled = dial(&address, id, &secret) => dialled,
                    // Its container hung, and was given up: it is somewhere else from now on, or nowhere.
                    () = moved(watch) => continue,
                };
                match dialled {
                    Ok(browser) => {
                        if reached || app.store.reach(id, &entered.connection, now_ms()).await? {
                            return Ok((browser, entered.carried(), expires_at_ms));
                        }
                    }
                    // The container is about to be found lost, and the session to end or to be requeued.
                    Err(error) => tracing::warn!(
                        session.id = %id, error = %Causes(&error), "container could not be dialled"
                    ),
                }
                REDIAL
            }
            answer => {
                entered.refused();
                match answer {
                    Connect::Ended(reason) => return Err(gone(reason)),
                    Connect::Unknown => return Err(ApiError::session_not_found()),
                    Connect::Crowded => return Err(crowded()),
                    Connect::Ready { .. } | Connect::Waiting => RECHECK,
                }
            }
        };
        wait(app, watch, pause, deadline).await?;
    }
}

/// Resolves when the session is no longer where it was.
async fn moved(watch: &mut SessionWatch) {
    while !matches!(watch.next().await, SessionEvent::Requeued | SessionEvent::Ended(_)) {}
}

async fn dial(address: &str, id: &SessionId, secret: &str) -> Result<Leg, upgrade::DialError> {
    let secret = HeaderValue::from_str(secret).unwrap_or_else(|_| HeaderValue::from_static(""));
    let headers = [(HeaderName::from_static(CDP_SECRET_HEADER), secret)];
    upgrade::dial(address, &format!("/sessions/{id}/cdp"), &headers, DIAL_TIMEOUT).await
}

async fn wait_until_ready(app: &App, id: &SessionId) -> Result<(Session, Details), ApiError> {
    let deadline = Instant::now() + app.connect_wait;
    let mut watch = app.events.session(id);
    loop {
        match app.store.get(id).await? {
            None => return Err(ApiError::session_not_found()),
            Some((session, details)) => match (session.end_reason, session.ready) {
                (Some(reason), _) => return Err(gone(reason)),
                (None, true) => return Ok((session, details)),
                (None, false) => {}
            },
        }
        wait(app, &mut watch, RECHECK, deadline).await?;
    }
}

/// Parks until something happened, or may have.
async fn wait(app: &App, watch: &mut SessionWatch, pause: Duration, deadline: Instant) -> Result<(), ApiError> {
    let until = deadline.min(Instant::now() + pause);
    tokio::select! {
        // An end is read from the store, like everything else.
        _ = timeout_at(until, watch.next()) => {}
        () = app.draining.cancelled() => return Err(ApiError::stopping()),
    }
    if Instant::now() >= deadline {
        let message =
            format!("no browser was ready within {} seconds; the session still waits", app.connect_wait.as_secs());
        return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "session_not_ready", message).retry_after_ms(1_000));
    }
    Ok(())
}

/// How a client's socket and its browser's are put together.
pub fn splice_options(app: &App) -> SpliceOptions {
    // A container that was killed is found lost by its silence, by the next look that is taken.
    let reason_wait = Duration::from_millis(app.policy.lost_after_ms) + TICK * 3;
    SpliceOptions { reason_wait, ..SpliceOptions::default() }
}

/// Resolves when the session has ended, with what its clients are to be told; or when this server is to end.
pub async fn closing(app: &App, id: &SessionId, watch: &mut SessionWatch, expires_at_ms: u64) -> CloseFrame {
    let lifetime = Duration::from_millis(expires_at_ms.saturating_sub(now_ms())) + OVERTIME;
    let mut look_at = Instant::now() + lifetime;
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = sleep_until(look_at) => SessionEvent::Look,
            () = app.stopping.cancelled() => {
                return CloseFrame { code: SERVICE_RESTART, reason: Cow::Borrowed("the server is about to end: connect again") };
            }
        };
        let reason = match event {
            SessionEvent::Ended(reason) => reason,
            SessionEvent::Ready | SessionEvent::Requeued => continue,
            SessionEvent::Look => match app.store.get(id).await {
                Ok(Some((session, _))) if session.status != SessionStatus::Ended => {
                    look_at = Instant::now() + lifetime.max(OVERTIME);
                    continue;
                }
                Ok(Some((session, _))) => session.end_reason.unwrap_or(EndReason::Timeout),
                Ok(None) => EndReason::Timeout,
                // Redis is away; the socket is not: go on, and look again.
                Err(_) => {
                    sleep(RECHECK).await;
                    look_at = Instant::now();
                    continue;
                }
            },
        };
        let (code, text) = reason.close_code();
        return CloseFrame { code, reason: Cow::Borrowed(text) };
    }
}
