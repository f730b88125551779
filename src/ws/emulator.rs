//! Plays API Gateway's WebSocket API and its `@connections` API on this process's own port, so that what will run
//! behind the real one can be tried and tested without it. It is strict: where the real one refuses, so does this
//! one, and where what the real one does is not known, this one does what is harder for us.
//!
//! What it is not for: it is no way into production. It checks the form of a signature but not its secret, so
//! whoever reaches the port can post to any connection whose id they know. The configuration allows it in
//! development only.
//!
//! Where the behaviour comes from, in short (each place says the rest):
//! - limits and close code 1009: docs.aws.amazon.com, "Quotas for configuring and running a WebSocket API";
//! - binary messages, code 1003: the same, "Binary media types for WebSocket APIs";
//! - idle, code 1001 "Going away": a recorded `$disconnect` event, 604 s after its `$connect`;
//! - `DELETE`, code 1000 "Connection Closed Normally": boto/boto3 issue 3789;
//! - `$connect` that throws: 502; that answers anything but 2xx: that status: recorded with wscat by several people;
//! - what a client is told of a failed message: Kludex/mangum issue 128, aws/chalice issue 1406.

mod connection;
mod gateway;
mod integration;
mod management;
mod sigv4;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::rand;
use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::future::BoxFuture;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ids::ConnectionId;
use crate::protocol::{GATEWAY_CALL_SECONDS, GATEWAY_MESSAGE_BYTES};
use crate::push::{Push, PushError, Pushed};

use connection::Open;
use gateway::Gateway;
pub use integration::Integration;

/// How long a send waits for a slow client before it fails, as a client of AWS that tries again would.
const SEND_PATIENCE: Duration = Duration::from_secs(2);

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What the real one does not let be changed, but a test must, and what it does on its own account.
#[derive(Debug, Clone)]
pub struct EmulatorOptions {
    pub stage: String,
    /// A connection without a message in either direction for this long is closed.
    pub idle: Duration,
    /// A connection is closed when it is this old.
    pub age: Duration,
    /// The longest the integration may take over one event.
    pub call: Duration,
    /// Each message's handling begins after a random wait of up to this, so that messages overtake each other.
    pub delay: Option<Duration>,
    /// Tell nobody that a client has gone: "$disconnect is a best-effort event" (AWS).
    pub lose_disconnect: bool,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        Self {
            stage: "prod".to_owned(),
            idle: Duration::from_secs(10 * 60),
            age: Duration::from_secs(2 * 60 * 60),
            call: Duration::from_secs(GATEWAY_CALL_SECONDS),
            delay: None,
            lose_disconnect: false,
        }
    }
}

/// The gateway. Cheap to clone: every clone is the same one.
#[derive(Clone)]
pub struct Emulator(Arc<Inner>);

struct Inner {
    options: EmulatorOptions,
    open: Mutex<HashMap<ConnectionId, Arc<Open>>>,
}

/// What became of a message for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Posted {
    Sent,
    Gone,
    /// The client reads too slowly.
    Full,
}

/// Why a message was not sent although its connection is there. The names are those of `@connections`.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("PayloadTooLargeException: the message is larger than {GATEWAY_MESSAGE_BYTES} bytes")]
    TooLarge,
    #[error("LimitExceededException: the client reads too slowly")]
    Full,
}

impl Emulator {
    pub fn new(options: EmulatorOptions) -> Self {
        Self(Arc::new(Inner { options, open: Mutex::default() }))
    }

    /// Where clients connect and the `@connections` API is: `/gateway/{stage}`. `integration` gets the events, the
    /// sockets are tasks of `sockets`, and end when `stopping` is cancelled.
    pub fn routes<S: Clone + Send + Sync + 'static>(
        &self,
        integration: Arc<dyn Integration>,
        sockets: TaskTracker,
        stopping: CancellationToken,
    ) -> Router<S> {
        let gateway = Gateway { emulator: self.clone(), integration, sockets, stopping };
        Router::new()
            .route("/gateway/{stage}", any(gateway::connect))
            .route("/gateway/{stage}/", any(gateway::connect))
            // `@connections` may come encoded.
            .route("/gateway/{stage}/{connections}/{connectionId}", any(management::manage))
            .with_state(gateway)
    }

    fn options(&self) -> &EmulatorOptions {
        &self.0.options
    }

    fn open(&self) -> MutexGuard<'_, HashMap<ConnectionId, Arc<Open>>> {
        self.0.open.lock().expect("not poisoned")
    }

    fn find(&self, id: &ConnectionId) -> Option<Arc<Open>> {
        self.open().get(id).cloned()
    }

    /// From now on nothing can be posted to it.
    fn forget(&self, id: &ConnectionId) -> Option<Arc<Open>> {
        self.open().remove(id)
    }

    async fn post(&self, id: &ConnectionId, text: Utf8Bytes, patience: Duration) -> Posted {
        match self.find(id) {
            Some(open) => open.post(text, patience).await,
            None => Posted::Gone,
        }
    }

    /// Whether there was anything to close.
    fn delete(&self, id: &ConnectionId) -> bool {
        let open = self.forget(id);
        if let Some(open) = &open {
            open.leave.cancel();
        }
        open.is_some()
    }
}

impl Push for Emulator {
    fn send<'a>(&'a self, connection: &'a ConnectionId, text: &'a str) -> BoxFuture<'a, Result<Pushed, PushError>> {
        Box::pin(async move {
            let refused = |cause: Refused| PushError { action: "sending to a client", cause: Box::new(cause) };
            if text.len() > GATEWAY_MESSAGE_BYTES {
                return Err(refused(Refused::TooLarge));
            }
            match self.post(connection, text.into(), SEND_PATIENCE).await {
                Posted::Sent => Ok(Pushed::Sent),
                Posted::Gone => Ok(Pushed::Gone),
                Posted::Full => Err(refused(Refused::Full)),
            }
        })
    }

    fn close<'a>(&'a self, connection: &'a ConnectionId) -> BoxFuture<'a, Result<(), PushError>> {
        Box::pin(async move {
            self.delete(connection);
            Ok(())
        })
    }
}

/// An id as the gateway makes them, of connections, messages and requests: 11 bytes in the base64 of URLs, with the
/// padding that has to be encoded in a path (`L0SM9cOFvHcCIhw=`, `HXT_RfBnPHcCIIg=`).
fn gateway_id() -> String {
    let mut bytes = [0u8; 11];
    rand::fill(&mut bytes).expect("the operating system has randomness");
    URL_SAFE.encode(bytes)
}

fn random_wait(up_to: Duration) -> Duration {
    let mut bytes = [0u8; 4];
    rand::fill(&mut bytes).expect("the operating system has randomness");
    up_to.mul_f64(f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

/// A refusal of the gateway's own, in the form its refusals have.
fn refusal(status: StatusCode, error_type: &'static str, message: &str) -> Response {
    let body = serde_json::json!({ "message": message }).to_string();
    let mut response = (status, [("content-type", "application/json")], body).into_response();
    response.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static(error_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_such_that_a_path_has_to_encode_them() {
        let id = gateway_id();
        assert_eq!((id.len(), id.ends_with('=')), (16, true), "{id}");
        assert!(id.parse::<ConnectionId>().is_ok_and(|id| id.in_path().ends_with("%3D")));
        assert_ne!(id, gateway_id());
    }

    #[test]
    fn a_random_wait_is_never_longer_than_it_may_be() {
        let up_to = Duration::from_millis(40);
        let waits: Vec<Duration> = (0..200).map(|_| random_wait(up_to)).collect();
        assert!(waits.iter().all(|wait| *wait <= up_to));
        assert!(waits.iter().max() > waits.iter().min());
    }
}
