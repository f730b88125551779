//! A connection from `$connect` to `$disconnect`: what is told of it, and what comes of that.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::USER_AGENT;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Open, linger};
use super::integration::{Integration, Invoked};
use super::{Emulator, SEND_PATIENCE, gateway_id, random_wait, refusal};
use crate::error::ApiError;
use crate::ids::ConnectionId;
use crate::upgrade::Upgrade;

/// The longest URL, in characters.
const URL_CHARS: usize = 4_096;
const INTERNAL_ERROR: &str = "Internal server error";
const TIMED_OUT: &str = "Endpoint request timed out";

/// What answers a request: the sockets, and whom to tell.
#[derive(Clone)]
pub(super) struct Gateway {
    pub(super) emulator: Emulator,
    pub(super) integration: Arc<dyn Integration>,
    pub(super) sockets: TaskTracker,
    pub(super) stopping: CancellationToken,
}

/// What the gateway says of an event that came to nothing, to the letter. The id is the request's, which for a
/// message is one of its own.
fn failure(message: &str, connection: &ConnectionId) -> String {
    format!(r#"{{"message": "{message}", "connectionId":"{connection}", "requestId":"{}"}}"#, gateway_id())
}

/// A client wants a WebSocket.
pub(super) async fn connect(
    State(gateway): State<Gateway>,
    Path(stage): Path<String>,
    mut request: Request,
) -> Response {
    if stage != gateway.emulator.options().stage {
        return refusal(StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden");
    }
    // Documented is the limit, not what becomes of a URL beyond it.
    if request.uri().path_and_query().is_some_and(|all| all.as_str().len() > URL_CHARS) {
        return refusal(StatusCode::URI_TOO_LONG, "RequestEntityTooLargeException", "Request URI too long");
    }
    let upgrade = match Upgrade::from_request(&mut request) {
        Ok(upgrade) => upgrade,
        Err(not) => return not.into_response(),
    };
    // The function runs to its end whether or not the client waits for it, as it does on Lambda. So none of this
    // may be dropped with the request.
    let (answer, answered) = oneshot::channel();
    gateway.clone().sockets.spawn(async move { gateway.serve(upgrade, request, answer).await });
    // It answers, or has panicked.
    answered.await.unwrap_or_else(|_| ApiError::internal("a gateway connection broke off").into_response())
}

impl Gateway {
    /// A connection, from `$connect` to `$disconnect`.
    async fn serve(self, upgrade: Upgrade, request: Request, answer: oneshot::Sender<Response>) {
        let id: ConnectionId = gateway_id().parse().expect("base64 is an id");
        let source = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let user_agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (open, outbox) = Open::new(source, user_agent.to_owned());
        let (parts, _) = request.into_parts();
        let connected = {
            let (integration, id) = (self.integration.clone(), id.clone());
            self.invoke(async move { integration.connect(&id, &parts.uri, &parts.headers).await }).await
        };
        match connected {
            Invoked::Done(Ok(())) => {}
            Invoked::Done(Err(error)) => {
                // Any status but 2xx is the client's. Its body too, if the route has a route response.
                let _ = answer.send(error.into_response());
                return;
            }
            Invoked::Failed | Invoked::TimedOut => {
                // 504 is what a REST API answers then; of WebSocket APIs only the 502 is known.
                let (status, message) = match connected {
                    Invoked::TimedOut => (StatusCode::GATEWAY_TIMEOUT, TIMED_OUT),
                    _ => (StatusCode::BAD_GATEWAY, INTERNAL_ERROR),
                };
                let body = ([("content-type", "application/json")], failure(message, &id));
                let _ = answer.send((status, body).into_response());
                return;
            }
        }
        let (response, leg) = upgrade.accept();
        let leg = match answer.send(response) {
            Ok(()) => leg.await.ok(),
            Err(_) => None,
        };
        let Some(leg) = leg else {
            // It went away while it was being let in. What AWS does then is not documented.
            self.disconnected(&id).await;
            return;
        };
        let open = Arc::new(open);
        open.touch();
        self.emulator.open().insert(id.clone(), open.clone());
        tracing::info!(connection.id = %id, "gateway client connected");
        let (ending, socket) = self.carry(&id, &open, leg, outbox).await;
        tracing::info!(connection.id = %id, ended_by = ending, "gateway client disconnected");
        tokio::join!(self.disconnected(&id), linger(socket));
    }

    /// Each message is an invocation of its own, and they all run at the same time.
    pub(super) fn handle(&self, id: &ConnectionId, text: Utf8Bytes, in_hand: OwnedSemaphorePermit) {
        let (gateway, id) = (self.clone(), id.clone());
        self.sockets.spawn(async move {
            if let Some(up_to) = gateway.emulator.options().delay {
                sleep(random_wait(up_to)).await;
            }
            let invoked = {
                let (integration, id) = (gateway.integration.clone(), id.clone());
                gateway.invoke(async move {
                    let _in_hand = in_hand;
                    integration.message(&id, &gateway_id(), &text).await
                })
            };
            let message = match invoked.await {
                Invoked::Done(Ok(())) => return,
                Invoked::Done(Err(_)) | Invoked::Failed => INTERNAL_ERROR,
                Invoked::TimedOut => TIMED_OUT,
            };
            tracing::warn!(connection.id = %id, message, "a message came to nothing");
            gateway.emulator.post(&id, failure(message, &id).into(), SEND_PATIENCE).await;
        });
    }

    async fn disconnected(&self, id: &ConnectionId) {
        if self.emulator.options().lose_disconnect {
            return;
        }
        let invoked = {
            let (integration, id) = (self.integration.clone(), id.clone());
            self.invoke(async move { integration.disconnect(&id).await }).await
        };
        if !matches!(invoked, Invoked::Done(Ok(()))) {
            // It is not sent again.
            tracing::warn!(connection.id = %id, "the end of a gateway connection came to nothing");
        }
    }
}
