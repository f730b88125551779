//! Client connections, whatever carries them.
//!
//! [`proxy`] holds the sockets itself. Where a gateway holds them, what happens on one comes as three events, which
//! are the same whoever plays the gateway.

#[cfg(feature = "native")]
pub mod emulator;
#[cfg(feature = "native")]
pub mod proxy;

use axum::http::{HeaderMap, Uri};

use crate::app::App;
use crate::error::ApiError;
use crate::ids::ConnectionId;

/// A client wants to connect (`$connect`). A refusal is what the client's upgrade is answered with.
pub async fn on_connect(
    _app: &App,
    _connection: &ConnectionId,
    _uri: &Uri,
    _headers: &HeaderMap,
) -> Result<(), ApiError> {
    todo!()
}

/// A client has sent a message (`$default`). `message_id` is the gateway's name for it.
pub async fn on_message(
    _app: &App,
    _connection: &ConnectionId,
    _message_id: &str,
    _text: &str,
) -> Result<(), ApiError> {
    todo!()
}

/// A client has gone (`$disconnect`).
pub async fn on_disconnect(_app: &App, _connection: &ConnectionId) -> Result<(), ApiError> {
    todo!()
}
