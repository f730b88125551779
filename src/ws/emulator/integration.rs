//! What is behind the gateway, and how it is called.

use std::future::Future;

use axum::http::{HeaderMap, Uri};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::gateway::Gateway;
use crate::app::App;
use crate::error::ApiError;
use crate::ids::ConnectionId;
use crate::ws;

/// What is told of the clients, as AWS tells a function. An error of `message` is a function that has failed.
pub trait Integration: Send + Sync + 'static {
    /// `$connect`. An error is what the client's upgrade is answered with.
    fn connect<'a>(
        &'a self,
        connection: &'a ConnectionId,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> BoxFuture<'a, Result<(), ApiError>>;

    /// `$default`.
    fn message<'a>(
        &'a self,
        connection: &'a ConnectionId,
        message_id: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<(), ApiError>>;

    /// `$disconnect`.
    fn disconnect<'a>(&'a self, connection: &'a ConnectionId) -> BoxFuture<'a, Result<(), ApiError>>;
}

impl Integration for App {
    fn connect<'a>(
        &'a self,
        connection: &'a ConnectionId,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(ws::on_connect(self, connection, uri, headers))
    }

    fn message<'a>(
        &'a self,
        connection: &'a ConnectionId,
        message_id: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(ws::on_message(self, connection, message_id, text))
    }

    fn disconnect<'a>(&'a self, connection: &'a ConnectionId) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(ws::on_disconnect(self, connection))
    }
}

/// How an invocation went.
#[derive(Debug)]
pub(super) enum Invoked {
    Done(Result<(), ApiError>),
    /// It broke off without an answer.
    Failed,
    TimedOut,
}

impl Gateway {
    /// Waits for the integration as long as the gateway would. What takes longer goes on all the same: a function
    /// is not stopped because nobody waits for it any more.
    pub(super) async fn invoke(&self, work: impl Future<Output = Result<(), ApiError>> + Send + 'static) -> Invoked {
        match timeout(self.emulator.options().call, self.sockets.spawn(work)).await {
            Ok(Ok(result)) => Invoked::Done(result),
            Ok(Err(_)) => Invoked::Failed,
            Err(_) => Invoked::TimedOut,
        }
    }
}
