//! What Chrome says to a gateway client: queued, and delivered by one request after the other, so that it arrives in
//! order. What comes while a request is under way goes with the next.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::agent::api::{Api, ApiError, Backoff};
use crate::causes::Causes;
use crate::ids::ConnectionId;
use crate::protocol::{BATCH_BYTES, BATCH_MESSAGES, DeliverRequest};

/// What may wait for one client, and be under way to it.
const QUEUED_MESSAGES: usize = 256;
const QUEUED_BYTES: usize = 4 << 20;
/// An event that no client knows, and so every client ignores.
const KEEP_ALIVE: &str = r#"{"method":"WallCrawler.keepAlive","params":{}}"#;

struct Queued {
    message: Box<RawValue>,
    /// Its bytes, of those that may be queued.
    room: OwnedSemaphorePermit,
}

pub struct Outbox {
    messages: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
}

pub fn outbox() -> (Outbox, Delivery) {
    let (messages, queue) = mpsc::channel(QUEUED_MESSAGES);
    let room = Arc::new(Semaphore::new(QUEUED_BYTES));
    let batch = DeliverRequest { first: 0, again: false, messages: Vec::new() };
    (Outbox { messages, room }, Delivery { queue, next: None, batch, batch_room: Vec::new() })
}

impl Outbox {
    /// Waits until there is room for it. Its reader being gone is not told: then nobody wants it.
    pub async fn push(&self, message: Box<RawValue>) {
        let bytes = u32::try_from(message.get().len().min(QUEUED_BYTES)).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(&self.room).acquire_many_owned(bytes).await {
            let _ = self.messages.send(Queued { message, room }).await;
        }
    }
}

/// Why nothing more can be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undeliverable {
    /// There is no such client any more.
    Gone,
    /// The control plane refuses the requests, and will not take them the next time either.
    Refused,
}

pub struct Delivery {
    queue: mpsc::Receiver<Queued>,
    /// Taken from the queue, and too large for the batch that was filled.
    next: Option<Queued>,
    batch: DeliverRequest,
    batch_room: Vec<Option<OwnedSemaphorePermit>>,
}

impl Delivery {
    /// Delivers until the outbox is dropped and empty.
    pub async fn run(mut self, api: &Api, connection: &ConnectionId, idle_beat: Duration) -> Result<(), Undeliverable> {
        let mut backoff = Backoff::default();
        loop {
            if !self.fill(idle_beat).await {
                return Ok(());
            }
            match api.deliver(connection, &self.batch).await {
                Ok(answer) => {
                    if self.delivered(answer.delivered) {
                        backoff = Backoff::default();
                    }
                    if !self.batch.messages.is_empty() {
                        sleep(backoff.next_wait()).await;
                    }
                }
                Err(ApiError::Gone(_)) => return Err(Undeliverable::Gone),
                Err(error) if is_final(&error) => {
                    tracing::error!(connection.id = %connection, error = %error, "nothing is delivered any more");
                    return Err(Undeliverable::Refused);
                }
                Err(error) => {
                    if backoff.failures() == 0 {
                        tracing::warn!(connection.id = %connection, error = %Causes(&error), "a delivery failed");
                    }
                    self.batch.again = true;
                    sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    /// Puts into the batch what there is; if there is nothing, waits for the first. Whether there is something.
    async fn fill(&mut self, idle_beat: Duration) -> bool {
        // What may have been delivered already is sent again as it was.
        if self.batch.again {
            return true;
        }
        if self.batch.messages.is_empty() && self.next.is_none() {
            match timeout(idle_beat, self.queue.recv()).await {
                Ok(Some(first)) => self.next = Some(first),
                Ok(None) => return false,
                Err(_) => {
                    let beat = RawValue::from_string(KEEP_ALIVE.to_owned()).expect("it is JSON");
                    self.batch.messages.push(beat);
                    self.batch_room.push(None);
                }
            }
        }
        let mut bytes: usize = self.batch.messages.iter().map(|message| message.get().len()).sum();
        while self.batch.messages.len() < BATCH_MESSAGES {
            let Some(queued) = self.next.take().or_else(|| self.queue.try_recv().ok()) else { break };
            bytes += queued.message.get().len();
            if bytes > BATCH_BYTES && !self.batch.messages.is_empty() {
                self.next = Some(queued);
                break;
            }
            self.batch.messages.push(queued.message);
            self.batch_room.push(Some(queued.room));
        }
        true
    }

    /// The first so many of the batch are with the client. Whether that is any.
    fn delivered(&mut self, count: usize) -> bool {
        let count = count.min(self.batch.messages.len());
        self.batch.messages.drain(..count);
        self.batch_room.drain(..count);
        self.batch.first += u64::try_from(count).unwrap_or(u64::MAX);
        // However many it is, now it is known.
        self.batch.again = false;
        count > 0
    }
}

/// Whether the same request would be refused again: it, or its sender, is wrong.
fn is_final(error: &ApiError) -> bool {
    match error {
        ApiError::Refused(_) => true,
        ApiError::Status(status) => {
            status.is_client_error() && !matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        }
        ApiError::Gone(_) | ApiError::Transport(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::protocol::GATEWAY_MESSAGE_BYTES;

    fn message(bytes: usize) -> Box<RawValue> {
        RawValue::from_string(format!("\"{}\"", "x".repeat(bytes - 2))).expect("JSON")
    }

    /// Whether a message is taken at once.
    fn has_room(outbox: &Outbox, bytes: usize) -> bool {
        // Tokio makes a task pause after some hundred messages.
        tokio::task::unconstrained(outbox.push(message(bytes))).now_or_never().is_some()
    }

    async fn filled(delivery: &mut Delivery) -> (u64, usize) {
        assert!(delivery.fill(Duration::from_secs(60)).await);
        (delivery.batch.first, delivery.batch.messages.len())
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_number_and_in_bytes_until_it_was_delivered() {
        let (outbox, mut delivery) = outbox();
        for n in 0..QUEUED_MESSAGES {
            assert!(has_room(&outbox, 10), "{n}");
        }
        assert!(!has_room(&outbox, 10));
        assert_eq!(filled(&mut delivery).await, (0, BATCH_MESSAGES));
        assert!(has_room(&outbox, 10));

        let (outbox, mut delivery) = super::outbox();
        for n in 0..QUEUED_BYTES / GATEWAY_MESSAGE_BYTES {
            assert!(has_room(&outbox, GATEWAY_MESSAGE_BYTES), "{n}");
        }
        assert_eq!(filled(&mut delivery).await, (0, BATCH_BYTES / GATEWAY_MESSAGE_BYTES));
        assert!(!has_room(&outbox, 10), "it is not delivered yet");
        assert!(delivery.delivered(1));
        assert!(has_room(&outbox, 10));
    }

    #[tokio::test]
    async fn a_batch_keeps_to_its_bounds_and_one_that_may_have_arrived_stays_as_it_is() {
        let (outbox, mut delivery) = outbox();
        for bytes in [BATCH_BYTES - 100, 100, 10, 10] {
            outbox.push(message(bytes)).await;
        }
        assert_eq!(filled(&mut delivery).await, (0, 2));
        delivery.batch.again = true;
        assert!(delivery.delivered(1));
        assert_eq!(filled(&mut delivery).await, (1, 3), "what is left, and what has come");
        delivery.batch.again = true;
        outbox.push(message(10)).await;
        assert_eq!(filled(&mut delivery).await, (1, 3));
        assert!(!delivery.delivered(0));
        assert!(delivery.delivered(100), "no more than there are");
        assert_eq!(filled(&mut delivery).await, (4, 1));
        outbox.push(message(BATCH_BYTES + 1)).await;
        assert!(delivery.delivered(1));
        outbox.push(message(10)).await;
        assert_eq!(filled(&mut delivery).await, (5, 1), "one that is too large goes alone");
        drop(outbox);
        assert!(delivery.delivered(1));
        assert_eq!(filled(&mut delivery).await, (6, 1));
        assert!(delivery.delivered(1));
        assert!(!delivery.fill(Duration::from_secs(60)).await, "nothing is left, and nothing can come");
    }

    #[test]
    fn what_is_wrong_with_the_request_is_not_tried_again() {
        let status = |status: u16| ApiError::Status(StatusCode::from_u16(status).expect("a status"));
        for again in [408, 429, 500, 502, 503, 504] {
            assert!(!is_final(&status(again)), "{again}");
        }
        for refused in [400, 413, 422] {
            assert!(is_final(&status(refused)), "{refused}");
        }
    }
}
