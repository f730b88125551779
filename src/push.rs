//! Sending to clients whose sockets somebody else holds: API Gateway, or what plays it locally.

use futures_util::future::BoxFuture;

use crate::ids::ConnectionId;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Whoever holds the socket took it.
    Sent,
    /// There is no such connection, or no longer.
    Gone,
}

/// A message could not be handed over, and it is not because its connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("{action} failed")]
pub struct PushError {
    pub action: &'static str,
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Who holds the sockets. A connection can be sent to only after its `$connect` was answered: before that it
/// is `Gone`.
pub trait Push: Send + Sync {
    /// Sends one text message of at most [`crate::protocol::GATEWAY_MESSAGE_BYTES`]. Two sends to one connection
    /// arrive in order if the second begins after the first has been answered.
    fn send<'a>(&'a self, connection: &'a ConnectionId, text: &'a str) -> BoxFuture<'a, Result<Pushed, PushError>>;

    /// Closes a connection. One that is not there is closed already.
    fn close<'a>(&'a self, connection: &'a ConnectionId) -> BoxFuture<'a, Result<(), PushError>>;
}
