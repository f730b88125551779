//! The direct data plane: two sockets that have both done a WebSocket handshake become one connection. Bytes
//! pass as they are, without a limit on messages; only frame headers are followed, so that a ping or a close
//! frame can be put between two frames. Who may connect to what, and why a session ends, is decided elsewhere.

mod cursor;
mod direction;
mod liveness;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::rand;
use futures_util::future::{Either, join, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};

pub use cursor::FrameCursor;
use direction::{Direction, SourceEnd};
use liveness::Liveness;

use crate::upgrade::Leg;

/// RFC 6455, section 7.4.1: the server cannot go on.
const INTERNAL_ERROR: u16 = 1011;
/// RFC 6455, section 5.5: a control frame holds at most 125 bytes, and the code takes two.
const MAX_REASON: usize = 123;
/// An unmasked ping without a payload.
const PING: [u8; 2] = [0x89, 0];

/// What a close frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    pub code: u16,
    /// At most 123 bytes arrive; what is longer is cut.
    pub reason: Cow<'static, str>,
}

#[derive(Debug, Clone)]
pub struct SpliceOptions {
    /// How long nothing may have been sent to the client before it gets a ping. It may come half as much time
    /// later, because one coarse timer is cheaper than one that every message sets anew.
    pub ping_after: Duration,
    /// How long the session's end is waited for when the browser's side broke off without a word.
    pub reason_wait: Duration,
    /// How long each step of closing may take: the end of a frame, the peer's answer, the peer's hanging up.
    pub close_wait: Duration,
}

impl Default for SpliceOptions {
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(20),
            reason_wait: Duration::from_secs(2),
            close_wait: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    Client,
    Browser,
    /// The session's end.
    Close,
}

/// What became of a spliced connection. The bytes are those of frames, headers and our own frames included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpliceReport {
    pub bytes_to_client: u64,
    pub bytes_to_browser: u64,
    pub ended_by: EndedBy,
}

/// Relays until one side ends or `close` resolves, then closes both sides in order. It always ends: after
/// `close` within about three times `close_wait`. Dropping it drops both sockets.
pub async fn splice(
    client: Leg,
    browser: Leg,
    options: SpliceOptions,
    close: impl Future<Output = CloseFrame>,
) -> SpliceReport {
    let mut close = pin!(close);
    let mut pulse = Pulse::new(options.ping_after);
    let mut relay = Relay::new(client, browser);
    let event = poll_fn(|cx| relay.poll_event(cx, close.as_mut(), &mut pulse)).await;
    let ended_by = match event {
        Event::Client(end) => {
            relay.client_ended(end, &options).await;
            EndedBy::Client
        }
        Event::Browser(SourceEnd::Closed) => {
            relay.browser_closed(&options).await;
            EndedBy::Browser
        }
        Event::Browser(SourceEnd::Gone) => {
            relay.browser_gone(&options, close).await;
            EndedBy::Browser
        }
        Event::Close(frame) => {
            relay.close(&frame, &options).await;
            EndedBy::Close
        }
    };
    SpliceReport {
        bytes_to_client: relay.to_client.written_bytes(),
        bytes_to_browser: relay.to_browser.written_bytes(),
        ended_by,
    }
}

enum Event {
    Client(SourceEnd),
    Browser(SourceEnd),
    Close(CloseFrame),
}

struct Relay {
    client: TcpStream,
    browser: TcpStream,
    to_client: Direction,
    to_browser: Direction,
    client_liveness: Liveness,
    browser_liveness: Liveness,
}

impl Relay {
    fn new(client: Leg, browser: Leg) -> Self {
        liveness::keep_alive(&client.stream);
        liveness::keep_alive(&browser.stream);
        Self {
            to_browser: Direction::new(&client.read_ahead),
            to_client: Direction::new(&browser.read_ahead),
            client: client.stream,
            browser: browser.stream,
            client_liveness: Liveness::default(),
            browser_liveness: Liveness::default(),
        }
    }

    /// Relays both ways. Everything that can be polled is polled at every wake-up: that costs less than to
    /// find out who woke it.
    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        close: Pin<&mut impl Future<Output = CloseFrame>>,
        pulse: &mut Pulse,
    ) -> Poll<Event> {
        if let Poll::Ready(end) = self.to_browser.poll_relay(cx, &mut self.client, &mut self.browser) {
            return Poll::Ready(Event::Client(end));
        }
        if let Poll::Ready(end) = self.to_client.poll_relay(cx, &mut self.browser, &mut self.client) {
            return Poll::Ready(Event::Browser(end));
        }
        // After the bytes: a browser that has just said goodbye itself is taken at its word.
        if let Poll::Ready(frame) = close.poll(cx) {
            return Poll::Ready(Event::Close(frame));
        }
        loop {
            let ping_due = ready!(pulse.poll_beat(cx, &mut self.to_client));
            if self.client_liveness.has_vanished(&self.client) {
                return Poll::Ready(Event::Client(SourceEnd::Gone));
            }
            if self.browser_liveness.has_vanished(&self.browser) {
                return Poll::Ready(Event::Browser(SourceEnd::Gone));
            }
            if ping_due && self.to_client.is_between_frames() {
                self.to_client.put_in(&PING);
                // If it cannot leave now, the direction goes on with it.
                let _ = self.to_client.poll_flush(cx, &mut self.client);
                // A ping does not put off the next one.
                self.to_client.take_moved();
            }
        }
    }

    /// The client has hung up, or has said that it will.
    async fn client_ended(&mut self, end: SourceEnd, options: &SpliceOptions) {
        if end == SourceEnd::Closed {
            // The browser's answer is the second half of the closing handshake.
            let answer = poll_fn(|cx| self.to_client.poll_relay(cx, &mut self.browser, &mut self.client));
            let _ = timeout(options.close_wait, answer).await;
        }
        self.hang_up(options).await;
    }

    /// The browser has said goodbye, and the client has heard it: one close frame is enough, whatever the
    /// session's end has to say.
    async fn browser_closed(&mut self, options: &SpliceOptions) {
        let answer = poll_fn(|cx| self.to_browser.poll_relay(cx, &mut self.client, &mut self.browser));
        let _ = timeout(options.close_wait, answer).await;
        self.hang_up(options).await;
    }

    /// The browser's side broke off. Why will be known in a moment, when the session has ended.
    async fn browser_gone(&mut self, options: &SpliceOptions, reason: Pin<&mut impl Future<Output = CloseFrame>>) {
        if !self.to_client.is_between_frames() {
            return;
        }
        self.to_browser.discard();
        let reason = timeout(options.reason_wait, reason);
        let farewell = poll_fn(|cx| self.to_browser.poll_relay(cx, &mut self.client, &mut self.browser));
        let frame = match select(pin!(reason), pin!(farewell)).await {
            Either::Left((Ok(frame), _)) => frame,
            Either::Left((Err(_), _)) | Either::Right((SourceEnd::Closed, _)) => {
                CloseFrame { code: INTERNAL_ERROR, reason: "the browser's connection was lost".into() }
            }
            Either::Right((SourceEnd::Gone, _)) => return,
        };
        self.close_client(&frame, options).await;
    }

    /// The session has ended while both sides were there.
    async fn close(&mut self, frame: &CloseFrame, options: &SpliceOptions) {
        let boundary = poll_fn(|cx| self.to_client.poll_finish_frame(cx, &mut self.browser, &mut self.client));
        let reached = timeout(options.close_wait, boundary).await.unwrap_or(false);
        if self.to_browser.is_between_frames() {
            self.to_browser.put_in(&encode(frame, Some(random_mask())));
            // Once: the browser is about to be ended anyway.
            poll_fn(|cx| Poll::Ready(self.to_browser.poll_flush(cx, &mut self.browser).is_ready())).await;
        }
        self.to_browser.discard();
        let _ = self.browser.shutdown().await;
        if reached {
            self.close_client(frame, options).await;
        }
    }

    /// Sends the client its close frame, unless it has had one, and waits for the answer.
    async fn close_client(&mut self, frame: &CloseFrame, options: &SpliceOptions) {
        if self.to_client.is_between_frames() {
            self.to_client.put_in(&encode(frame, None));
        }
        let sent = poll_fn(|cx| self.to_client.poll_flush(cx, &mut self.client));
        if timeout(options.close_wait, sent).await.is_err() {
            return;
        }
        // It may have hung up or said goodbye already; then this is over at once.
        let answer = poll_fn(|cx| self.to_browser.poll_relay(cx, &mut self.client, &mut self.browser));
        let _ = timeout(options.close_wait, answer).await;
        let _ = self.client.shutdown().await;
    }

    /// Nothing is left to say on either side.
    async fn hang_up(&mut self, options: &SpliceOptions) {
        join(linger(&mut self.client, options.close_wait), linger(&mut self.browser, options.close_wait)).await;
    }
}

/// Ends a connection so that what was sent last still arrives: a socket that is dropped with unread bytes in
/// it resets the connection, and the peer's system may then throw away what its program has not read yet.
async fn linger(stream: &mut TcpStream, wait: Duration) {
    let hung_up = async {
        stream.shutdown().await?;
        // Read for its end only. Small, because the buffer is part of every connection's memory.
        let mut ignored = [0; 256];
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(wait, hung_up).await;
}

/// The one timer of a connection. It beats twice in the time after which a ping is due.
struct Pulse {
    sleep: Pin<Box<Sleep>>,
    step: Duration,
    ping_after: Duration,
    quiet: Duration,
}

impl Pulse {
    fn new(ping_after: Duration) -> Self {
        let step = (ping_after / 2).clamp(Duration::from_millis(1), Duration::from_secs(30));
        Self { sleep: Box::pin(sleep(step)), step, ping_after, quiet: Duration::ZERO }
    }

    /// Ready at each beat, with whether the client has had nothing for long enough to get a ping.
    fn poll_beat(&mut self, cx: &mut Context<'_>, to_client: &mut Direction) -> Poll<bool> {
        ready!(self.sleep.as_mut().poll(cx));
        self.sleep.as_mut().reset(Instant::now() + self.step);
        self.quiet = if to_client.take_moved() { Duration::ZERO } else { self.quiet + self.step };
        let ping_due = self.quiet >= self.ping_after;
        if ping_due {
            self.quiet = Duration::ZERO;
        }
        Poll::Ready(ping_due)
    }
}

fn random_mask() -> [u8; 4] {
    let mut mask = [0; 4];
    rand::fill(&mut mask).expect("the operating system has randomness");
    mask
}

/// The frame as a server sends it, or masked, as a client must.
fn encode(frame: &CloseFrame, mask: Option<[u8; 4]>) -> Vec<u8> {
    let cut = (0..=MAX_REASON.min(frame.reason.len())).rev().find(|at| frame.reason.is_char_boundary(*at));
    let reason = &frame.reason[..cut.unwrap_or(0)];
    let mut payload = frame.code.to_be_bytes().to_vec();
    payload.extend(reason.as_bytes());
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let mut encoded = vec![0x88, mask_bit | u8::try_from(payload.len()).expect("at most 125 bytes")];
    if let Some(mask) = mask {
        encoded.extend(mask);
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    encoded.extend(payload);
    encoded
}
