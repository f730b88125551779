//! Client connections, whatever carries them.
//!
//! [`proxy`] holds the sockets itself. Where a gateway holds them, what happens on one comes as three events, which
//! are the same whoever plays the gateway (`gateway` or `emulator`), and goes to the session's container; what its
//! browser says comes back by [`deliver`]. Who only watches is no client ([`live`]).

#[cfg(feature = "native")]
pub mod emulator;
#[cfg(feature = "lambda")]
pub mod gateway;
pub mod live;
#[cfg(feature = "native")]
pub mod proxy;
#[cfg(feature = "native")]
pub mod watch;

use std::time::Duration;

use axum::extract::Query;
use axum::http::header::USER_AGENT;
use axum::http::{HeaderMap, StatusCode, Uri};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::auth::{bearer, verify_token};
use crate::causes::Causes;
use crate::clock::now_ms;
use crate::container_client::{ANSWER_TIMEOUT, Answered};
use crate::error::ApiError;
use crate::ids::{ConnectionId, ContainerId, SessionId};
use crate::lifecycle;
#[cfg(feature = "native")]
use crate::places::{NoPlace, Place};
use crate::protocol::{DeliverRequest, GATEWAY_CALL_SECONDS, HELD_BYTES, HELD_MESSAGES};
use crate::push::{Push, PushError, Pushed};
use crate::session::{EndReason, MAX_CONNECTIONS};
use crate::store::{Entered, Routed, StoreError};
use crate::tokens::{Subject, TokenError};

/// How long a message is tried to be brought to its container, which may be about to be found lost.
const BRING: Duration = Duration::from_secs(15);
const BRING_PAUSE: Duration = Duration::from_millis(250);
/// How long one delivery goes on sending. What is left then its container sends again.
const DELIVER: Duration = Duration::from_secs(15);
/// When one who found no place may look again.
const CROWDED_RETRY_MS: u64 = 5_000;
#[cfg(feature = "native")]
const FULL_RETRY_MS: u64 = 1_000;

// With the last attempt, and a margin, within the time the gateway has.
const _: () = assert!(BRING.as_secs() + ANSWER_TIMEOUT.as_secs() + 5 < GATEWAY_CALL_SECONDS);
const _: () = assert!(DELIVER.as_secs() + 10 < GATEWAY_CALL_SECONDS);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectQuery {
    /// If it is said, the token must be this session's.
    session_id: Option<SessionId>,
    token: Option<String>,
}

/// The session that the token, in the query or in `Authorization: Bearer`, opens. If the URL names a session, it must
/// be that one.
async fn authorize(
    app: &App,
    uri: &Uri,
    headers: &HeaderMap,
    in_path: Option<&SessionId>,
) -> Result<SessionId, ApiError> {
    let Query(query) = Query::<ConnectQuery>::try_from_uri(uri)
        .map_err(|_| ApiError::invalid("sessionId and token: must each be given at most once, and be valid"))?;
    let Some(token) = query.token.as_deref().or_else(|| bearer(headers)) else {
        return Err(ApiError::unauthorized(
            "missing_token",
            "send the session's token as ?token= or Authorization: Bearer",
        ));
    };
    let named = in_path.or(query.session_id.as_ref());
    match verify_token(app, token).await? {
        Subject::Connect { session, .. } if named.is_none_or(|id| *id == session) => Ok(session),
        Subject::Connect { .. } => Err(ApiError::session_not_found()),
        _ => Err(TokenError::Invalid.into()),
    }
}

fn gone(reason: EndReason) -> ApiError {
    ApiError::new(StatusCode::GONE, "session_ended", format!("the session has ended: {}", reason.close_code().1))
}

/// A client wants to connect (`$connect`). A refusal is what the client's upgrade is answered with.
///
/// It is not held until there is a browser, as a native socket is: a gateway waits half a minute at most. What the
/// client sends is kept instead.
pub async fn on_connect(app: &App, connection: &ConnectionId, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let user_agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    if user_agent.starts_with("Playwright/") {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "client_not_supported",
            "Playwright cannot work through an API Gateway WebSocket: it sends its scripts in one frame of 340 KB, and \
             the gateway closes a connection at 32 KB. Have the service's operator set CDP_ENDPOINT or ALB_DNS_NAME, \
             so that sessions get a direct connectUrl; or use Puppeteer or Stagehand",
        ));
    }
    let id = authorize(app, uri, headers, None).await?;
    let route = match app.store.enter(&id, connection, now_ms()).await? {
        Entered::Now(route) => route,
        Entered::Ended(reason) => return Err(gone(reason)),
        Entered::Unknown => return Err(ApiError::session_not_found()),
        Entered::Crowded => return Err(crowded()),
    };
    tracing::info!(session.id = %id, connection.id = %connection, ready = route.is_some(), "client connected");
    if let Some(route) = route {
        // So that the container knows of the client before it says anything, and finds out if it goes. If that
        // fails, the client's first message will open it, or find the session elsewhere.
        if let Err(error) = app.containers.open(&route, connection).await {
            tracing::warn!(
                session.id = %id, connection.id = %connection, error = %Causes(&error),
                "the container was not told of a connection"
            );
        }
    }
    Ok(())
}

/// A place for a socket of the session's, or for whoever is held until it is ready.
#[cfg(feature = "native")]
fn place(app: &App, session: &SessionId) -> Result<Place, ApiError> {
    app.places.take(session).map_err(|none| match none {
        NoPlace::OfSession => crowded(),
        NoPlace::AtAll => {
            let message = "this server carries as many sockets as it may";
            // Behind a balancer, the next attempt leads elsewhere.
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_sockets", message).retry_after_ms(FULL_RETRY_MS)
        }
    })
}

/// 429: what is connected already has to leave first.
pub fn crowded() -> ApiError {
    let message = format!("the session has {MAX_CONNECTIONS} connections, and takes no more");
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_connections", message).retry_after_ms(CROWDED_RETRY_MS)
}

/// A client has sent a message (`$default`). `message_id` is the gateway's name for it.
///
/// # Errors
/// When it could neither be brought to the browser nor the client be told.
pub async fn on_message(app: &App, connection: &ConnectionId, message_id: &str, text: &str) -> Result<(), ApiError> {
    match bring(app, connection, message_id, text).await {
        Ok(Brought::Taken) => Ok(()),
        Ok(Brought::ConnectionOver) => {
            hang_up(app, connection).await;
            Ok(())
        }
        Ok(Brought::Full) => {
            let message = format!(
                "the session has no browser yet, and no more than {HELD_MESSAGES} messages or {HELD_BYTES} bytes are \
                 kept until it has one"
            );
            answer_with_error(app, connection, text, &message).await
        }
        Ok(Brought::Unreachable) => {
            answer_with_error(app, connection, text, "the container that runs the session's browser does not answer")
                .await
        }
        Err(error) => {
            tracing::error!(
                connection.id = %connection, error = %Causes(&error), "a message could not be brought"
            );
            answer_with_error(app, connection, text, "the session store is not available").await
        }
    }
}

/// What became of a client's message.
enum Brought {
    /// The container has it, or will get it.
    Taken,
    Full,
    Unreachable,
    /// The session has ended, or its browser has closed this connection.
    ConnectionOver,
}

async fn bring(app: &App, connection: &ConnectionId, message_id: &str, text: &str) -> Result<Brought, StoreError> {
    let deadline = Instant::now() + BRING;
    let mut kept = false;
    loop {
        let route = match app.known.route(connection) {
            Some(route) => route,
            None => {
                let routed = app.store.route(connection, message_id, text, kept).await?;
                kept = true;
                match routed {
                    Routed::To { route, settled } => {
                        if settled {
                            app.known.settled(connection, &route);
                        }
                        route
                    }
                    Routed::Held => return Ok(Brought::Taken),
                    Routed::Full => return Ok(Brought::Full),
                    Routed::Unknown => return Ok(Brought::ConnectionOver),
                }
            }
        };
        match app.containers.bring(&route, connection, message_id, text).await {
            Ok(Answered::Done) => return Ok(Brought::Taken),
            Ok(Answered::Closed) => return Ok(Brought::ConnectionOver),
            // Its session is ending, or its container about to be found lost: the store will know.
            Ok(Answered::Elsewhere) => {}
            Err(error) => tracing::warn!(
                session.id = %route.session, connection.id = %connection, error = %Causes(&error),
                "a message was not brought"
            ),
        }
        app.known.forget(connection);
        if Instant::now() + BRING_PAUSE >= deadline {
            return Ok(Brought::Unreachable);
        }
        sleep(BRING_PAUSE).await;
    }
}

/// The client waits for an answer to its command, so it gets one.
async fn answer_with_error(app: &App, connection: &ConnectionId, text: &str, message: &str) -> Result<(), ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Command {
        id: u64,
        session_id: Option<String>,
    }
    let Ok(command) = serde_json::from_str::<Command>(text) else {
        // Nothing that could be answered.
        return Ok(());
    };
    let mut answer = json!({ "id": command.id, "error": { "code": -32_000, "message": message } });
    if let Some(session) = command.session_id {
        answer["sessionId"] = Value::from(session);
    }
    match push(app)?.send(connection, &answer.to_string()).await {
        Ok(Pushed::Sent) => Ok(()),
        Ok(Pushed::Gone) => {
            hang_up(app, connection).await;
            Ok(())
        }
        Err(error) => Err(not_pushed(error)),
    }
}

fn push(app: &App) -> Result<&dyn Push, ApiError> {
    app.push.as_deref().ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "no_gateway",
            "this server carries no gateway connections: WEBSOCKET_API_ID is not set",
        )
    })
}

fn not_pushed(error: PushError) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "gateway_unavailable", "the gateway did not take the message")
        .retry_after_ms(500)
        .caused_by(error)
}

/// Ends a connection that leads nowhere any more.
async fn hang_up(app: &App, connection: &ConnectionId) {
    if let Ok(push) = push(app)
        && let Err(error) = push.close(connection).await
    {
        tracing::warn!(
            connection.id = %connection, error = %Causes(&error), "a connection could not be closed"
        );
    }
    // A gateway that closes tells so, but not always.
    if let Err(error) = on_disconnect(app, connection).await {
        tracing::warn!(connection.id = %connection, %error, "a connection could not be taken out");
    }
}

/// A client has gone (`$disconnect`), or was found gone.
pub async fn on_disconnect(app: &App, connection: &ConnectionId) -> Result<(), ApiError> {
    app.known.forget(connection);
    let Some(route) = lifecycle::disconnect(app, connection, None).await? else { return Ok(()) };
    tracing::info!(session.id = %route.session, connection.id = %connection, "client disconnected");
    // If it does not hear of it now, it will find the client gone by itself.
    if let Err(error) = app.containers.close(&route, connection).await {
        tracing::warn!(
            session.id = %route.session, connection.id = %connection, error = %Causes(&error),
            "the container was not told of a client's end"
        );
    }
    Ok(())
}

/// What a session's browser says to a gateway client. Returns how many of the messages are with the client now, from
/// the first on.
///
/// # Errors
/// 410 when the client is gone, or the container does not hold its session; 503 when not even one could be sent.
pub async fn deliver(
    app: &App,
    container: &ContainerId,
    connection: &ConnectionId,
    request: &DeliverRequest,
) -> Result<usize, ApiError> {
    let push = push(app)?;
    let deadline = Instant::now() + DELIVER;
    let mut sent = 0;
    if request.again || !app.known.is_held_by(connection, container) {
        let before = app.store.deliver(connection, container).await?.ok_or_else(ApiError::connection_gone)?;
        app.known.held_by(connection, container);
        if request.again {
            let skip = usize::try_from(before.saturating_sub(request.first)).unwrap_or(usize::MAX);
            sent = skip.min(request.messages.len());
        }
    }
    let already = sent;
    let mut failed = None;
    for message in request.messages.iter().skip(already).map(|message| RawValue::get(message)) {
        if Instant::now() >= deadline {
            break;
        }
        match push.send(connection, message).await {
            Ok(Pushed::Sent) => sent += 1,
            Ok(Pushed::Gone) => {
                on_disconnect(app, connection).await?;
                return Err(ApiError::connection_gone());
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if sent > already {
        match app.store.delivered(connection, request.first + sent as u64).await {
            Ok(true) => {}
            Ok(false) => {
                app.known.forget(connection);
                return Err(ApiError::connection_gone());
            }
            // It matters only if the answer to this is lost, too.
            Err(error) => tracing::warn!(
                connection.id = %connection, error = %Causes(&error),
                "what was delivered could not be noted"
            ),
        }
    }
    match failed {
        Some(error) if sent == 0 => Err(not_pushed(error)),
        Some(error) => {
            tracing::warn!(
                connection.id = %connection, sent, error = %Causes(&error),
                "not all could be delivered"
            );
            Ok(sent)
        }
        None => Ok(sent),
    }
}
