//! One open connection: its frames, its limits, and what waits to be sent on it.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::SplitStream;
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::Posted;
use super::gateway::Gateway;
use crate::clock::now_ms;
use crate::ids::ConnectionId;
use crate::protocol::{GATEWAY_FRAME_BYTES, GATEWAY_MESSAGE_BYTES};
use crate::upgrade::Leg;

/// How much may wait for a client to read it. AWS has such a limit ("the WebSocket client side buffer is full")
/// and does not say what it is.
const WAITING_BYTES: u32 = 1024 * 1024;
/// How much of one client may be in the hands of the integration at a time. With more, no more is read of it.
const IN_HAND_BYTES: u32 = 8 * 1024 * 1024;
/// What a message weighs besides its text.
const MESSAGE_OVERHEAD: u32 = 256;
/// How long saying goodbye may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// AWS's own are not known. A small one makes partial frames likely.
const READ_BUFFER_BYTES: usize = 8 * 1024;

const _: () = assert!(GATEWAY_MESSAGE_BYTES < WAITING_BYTES as usize && WAITING_BYTES < IN_HAND_BYTES);

fn weight(text: &Utf8Bytes) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX).saturating_add(MESSAGE_OVERHEAD)
}

pub(super) enum Outgoing {
    /// With the room it takes while it waits.
    Text(Utf8Bytes, OwnedSemaphorePermit),
    Close(CloseFrame),
}

/// What others see of a connection.
pub(super) struct Open {
    outbox: UnboundedSender<Outgoing>,
    /// Bounds the outbox, in bytes.
    room: Arc<Semaphore>,
    /// Somebody wants it closed.
    pub(super) leave: CancellationToken,
    /// It is over.
    gone: CancellationToken,
    active: Mutex<(Instant, u64)>,
    pub(super) connected_at_ms: u64,
    pub(super) source_ip: Option<IpAddr>,
    pub(super) user_agent: String,
}

impl Open {
    pub(super) fn new(source_ip: Option<IpAddr>, user_agent: String) -> (Self, UnboundedReceiver<Outgoing>) {
        let (outbox, waiting) = unbounded_channel();
        let connected_at_ms = now_ms();
        let open = Self {
            outbox,
            room: Arc::new(Semaphore::new(WAITING_BYTES as usize)),
            leave: CancellationToken::new(),
            gone: CancellationToken::new(),
            active: Mutex::new((Instant::now(), connected_at_ms)),
            connected_at_ms,
            source_ip,
            user_agent,
        };
        (open, waiting)
    }

    fn active(&self) -> (Instant, u64) {
        *self.active.lock().expect("not poisoned")
    }

    pub(super) fn touch(&self) {
        *self.active.lock().expect("not poisoned") = (Instant::now(), now_ms());
    }

    pub(super) fn last_active_at_ms(&self) -> u64 {
        self.active().1
    }

    /// Puts a message behind those that wait already.
    pub(super) async fn post(&self, text: Utf8Bytes, patience: Duration) -> Posted {
        let room = self.room.clone().acquire_many_owned(weight(&text));
        let room = tokio::select! {
            biased;
            () = self.gone.cancelled() => return Posted::Gone,
            room = timeout(patience, room) => match room {
                Ok(room) => room.expect("never closed"),
                Err(_) => return Posted::Full,
            },
        };
        self.touch();
        match self.outbox.send(Outgoing::Text(text, room)) {
            Ok(()) => Posted::Sent,
            Err(_) => Posted::Gone,
        }
    }

    /// Resolves when nothing has passed for so long. Pings are no messages.
    async fn idle(&self, limit: Duration) {
        loop {
            let due = self.active().0 + limit;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Why a connection ends.
enum Ending {
    ByClient,
    /// Without a word.
    Lost,
    Close(&'static str, CloseFrame),
}

fn close(why: &'static str, code: u16, reason: &'static str) -> Ending {
    Ending::Close(why, CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) })
}

impl Gateway {
    /// Carries a connection until it is over: what ended it, and the socket to be rid of.
    pub(super) async fn carry(
        &self,
        id: &ConnectionId,
        open: &Arc<Open>,
        leg: Leg,
        outbox: UnboundedReceiver<Outgoing>,
    ) -> (&'static str, TcpStream) {
        let limits = WebSocketConfig::default()
            .max_frame_size(Some(GATEWAY_FRAME_BYTES))
            .max_message_size(Some(GATEWAY_MESSAGE_BYTES))
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0);
        let socket =
            WebSocketStream::from_partially_read(leg.stream, leg.read_ahead.to_vec(), Role::Server, Some(limits)).await;
        let (mut sink, mut stream) = socket.split();
        let options = self.emulator.options();
        let why = {
            let mut writer = pin!(write(&mut sink, outbox));
            let ending = tokio::select! {
                ending = self.read(id, open, &mut stream) => ending,
                _ = &mut writer => Ending::Lost,
                () = open.leave.cancelled() => close("deleted", 1000, "Connection Closed Normally"),
                () = open.idle(options.idle) => close("idle", 1001, "Going away"),
                // That this code is the same is an assumption.
                () = sleep(options.age) => close("age", 1001, "Going away"),
                () = self.stopping.cancelled() => close("stopping", 1001, "Going away"),
            };
            self.emulator.forget(id);
            match ending {
                Ending::ByClient => {
                    // Reading on sends the answer to its goodbye.
                    let _ = timeout(CLOSE_PATIENCE, async { while let Some(Ok(_)) = stream.next().await {} }).await;
                    "client"
                }
                Ending::Lost => "lost",
                Ending::Close(why, frame) => {
                    // After what was taken for the client before.
                    let _ = open.outbox.send(Outgoing::Close(frame));
                    let _ = timeout(CLOSE_PATIENCE, &mut writer).await;
                    why
                }
            }
        };
        open.gone.cancel();
        (why, sink.reunite(stream).expect("two halves of one").into_inner())
    }

    async fn read(
        &self,
        id: &ConnectionId,
        open: &Open,
        stream: &mut SplitStream<WebSocketStream<TcpStream>>,
    ) -> Ending {
        let in_hand = Arc::new(Semaphore::new(IN_HAND_BYTES as usize));
        loop {
            match stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    open.touch();
                    let room = in_hand.clone().acquire_many_owned(weight(&text)).await.expect("never closed");
                    self.handle(id, text, room);
                }
                Some(Ok(Message::Binary(_))) => return close("binary", 1003, ""),
                Some(Ok(Message::Close(_))) => return Ending::ByClient,
                // Answered on the way, and nobody else's business.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(Error::Capacity(_))) => return close("too_big", 1009, "Message too big"),
                Some(Err(Error::Utf8(_))) => return close("not_text", 1007, ""),
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => return Ending::Lost,
                Some(Err(Error::Protocol(_))) => return close("protocol", 1002, ""),
                Some(Err(_)) | None => return Ending::Lost,
            }
        }
    }
}

/// Writes what waits, one after the other, until it has said goodbye.
async fn write(
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
    mut outbox: UnboundedReceiver<Outgoing>,
) -> Result<(), Error> {
    while let Some(outgoing) = outbox.recv().await {
        match outgoing {
            Outgoing::Text(text, _room) => {
                for frame in frames(text) {
                    sink.feed(Message::Frame(frame)).await?;
                }
                sink.flush().await?;
            }
            Outgoing::Close(frame) => return sink.send(Message::Close(Some(frame))).await,
        }
    }
    Ok(())
}

/// The frames of a message: none is larger than those that are taken ("messages larger than 32 KB must be split
/// into multiple frames ... this applies to @connections commands").
fn frames(text: Utf8Bytes) -> Vec<Frame> {
    let mut rest = Bytes::from(text);
    let mut frames = Vec::new();
    loop {
        let kind = if frames.is_empty() { Data::Text } else { Data::Continue };
        let last = rest.len() <= GATEWAY_FRAME_BYTES;
        let part = if last { std::mem::take(&mut rest) } else { rest.split_to(GATEWAY_FRAME_BYTES) };
        frames.push(Frame::message(part, OpCode::Data(kind), last));
        if last {
            return frames;
        }
    }
}

/// Lets the client read what was said last. A socket that is dropped with something unread in it is reset, and the
/// goodbye may be lost with it.
pub(super) async fn linger(mut socket: TcpStream) {
    let _ = timeout(CLOSE_PATIENCE, async {
        socket.shutdown().await?;
        let mut rest = [0u8; 4096];
        while socket.read(&mut rest).await? > 0 {}
        Ok::<(), std::io::Error>(())
    })
    .await;
}
