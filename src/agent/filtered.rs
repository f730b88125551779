//! Two sockets, a client's and its browser's, made one connection on which the client is listened to: whole messages
//! go to the browser, or are answered in its place. What the browser says passes as it comes; only its frames'
//! headers are followed, so that an answer can be put between two messages, and each be heard ([`logs`](super::logs)).
//!
//! At most one message waits here in each connection, besides one buffer for either direction: nothing is read
//! while something cannot be written.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

use super::filter::{Filter, Verdict};
use super::frames::{self, Frames, Piece};
use super::logs::{Ear, Speaker};
use crate::clock::now_ms;
use crate::splice::FrameCursor;
use crate::upgrade::Leg;

/// Few system calls for large messages, and still in the processor's second-level cache.
const BUFFER: usize = 64 * 1024;
/// From this size on a message is written by itself, and not copied to those before it.
const LARGE: usize = 16 * 1024;
/// Answers that wait for the browser to have finished its sentence. With more of them nothing is read.
const ANSWERS: usize = 16;
/// How long a client that broke the rules of WebSocket has to hear why.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the client is told in the browser's place.
enum Answer {
    Frame(Vec<u8>),
    /// Nothing follows.
    Goodbye(Vec<u8>),
}

/// Relays until both sides have ended.
///
/// # Errors
/// When one of the sockets broke.
pub async fn relay(client: &mut Leg, browser: &mut Leg, filter: &Filter, ear: Ear) -> io::Result<()> {
    let (from_client, to_client) = client.stream.split();
    let (from_browser, to_browser) = browser.stream.split();
    let (answers, answered) = channel(ANSWERS);
    let heard = Listener { cursor: FrameCursor::default(), ear: ear.clone() };
    let up =
        Up { from: from_client, to: to_browser, frames: Frames::default(), ready: Vec::new(), filter, ear, answers };
    let down = Down { from: from_browser, to: to_client, heard, answered, answer: None };
    tokio::try_join!(up.run(&client.read_ahead), down.run(&browser.read_ahead))?;
    Ok(())
}

struct Up<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    frames: Frames,
    /// To be written.
    ready: Vec<u8>,
    filter: &'a Filter,
    ear: Ear,
    answers: Sender<Answer>,
}

impl Up<'_> {
    async fn run(mut self, read_ahead: &[u8]) -> io::Result<()> {
        self.frames.buffer().extend_from_slice(read_ahead);
        while self.pass().await? {
            let buffer = self.frames.buffer();
            buffer.reserve(BUFFER);
            if self.from.read_buf(buffer).await? == 0 {
                break;
            }
        }
        self.to.shutdown().await
    }

    /// Passes on what is there. `false`: there will be nothing more.
    async fn pass(&mut self) -> io::Result<bool> {
        loop {
            let (frame, closes) = match self.frames.next() {
                Ok(None) => break,
                Ok(Some(Piece::Control { frame, closes })) => (frame, closes),
                Ok(Some(Piece::Message { frame, payload })) => {
                    self.ear.hear(Speaker::Client, payload, now_ms());
                    match self.filter.judge_bytes(payload) {
                        Verdict::Pass => (frame, false),
                        Verdict::Rewrite(text) => {
                            self.ready.extend(frames::for_browser(&text));
                            continue;
                        }
                        Verdict::Refuse(text) => {
                            self.ear.hear(Speaker::Browser, text.as_bytes(), now_ms());
                            // It is gone when the browser is; then nobody needs an answer.
                            let _ = self.answers.send(Answer::Frame(frames::for_client(&text))).await;
                            continue;
                        }
                    }
                }
                Err(violation) => {
                    let goodbye = frames::goodbye(&violation.close_frame());
                    flush(&mut self.to, &mut self.ready).await?;
                    let _ = self.answers.send(Answer::Goodbye(goodbye)).await;
                    // With something unread in it the socket would be reset, and the goodbye lost.
                    let _ = timeout(FAREWELL, copy(&mut self.from, &mut sink())).await;
                    return Ok(false);
                }
            };
            if frame.len() < LARGE {
                self.ready.extend_from_slice(frame);
            } else {
                flush(&mut self.to, &mut self.ready).await?;
                self.to.write_all(frame).await?;
            }
            if closes {
                flush(&mut self.to, &mut self.ready).await?;
                copy(&mut self.from, &mut sink()).await?;
                return Ok(false);
            }
        }
        flush(&mut self.to, &mut self.ready).await?;
        Ok(true)
    }
}

async fn flush(to: &mut WriteHalf<'_>, ready: &mut Vec<u8>) -> io::Result<()> {
    to.write_all(ready).await?;
    if ready.capacity() > 2 * BUFFER {
        *ready = Vec::new()
    } else {
        ready.clear()
    }
    Ok(())
}

/// Follows the browser's frames, and hears the messages in them.
struct Listener {
    cursor: FrameCursor,
    ear: Ear,
}

impl Listener {
    fn follow(&mut self, mut bytes: &[u8]) {
        if self.ear.is_deaf() {
            return self.cursor.follow(bytes);
        }
        let now_ms = now_ms();
        while !bytes.is_empty() {
            bytes = &bytes[self.follow_to_boundary(bytes, now_ms)..];
        }
    }

    fn follow_to_boundary(&mut self, bytes: &[u8], now_ms: u64) -> usize {
        let payload = self.cursor.follow_frame(bytes);
        let end = payload.end;
        if self.cursor.is_of_message() {
            self.ear.hear_piece(&bytes[payload], self.cursor.is_between_messages(), now_ms);
        }
        end
    }
}

struct Down<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    /// Follows what was written.
    heard: Listener,
    answered: Receiver<Answer>,
    answer: Option<Answer>,
}

impl Down<'_> {
    async fn run(mut self, read_ahead: &[u8]) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut goes_on = self.pass(read_ahead).await?;
        while goes_on {
            let may_answer = self.answer.is_none() && self.heard.cursor.is_between_messages();
            goes_on = tokio::select! {
                Some(answer) = self.answered.recv(), if may_answer => {
                    self.answer = Some(answer);
                    self.pass(&[]).await?
                }
                read = self.from.read(&mut buffer) => match read? {
                    0 => false,
                    read => self.pass(&buffer[..read]).await?,
                },
            };
        }
        self.to.shutdown().await
    }

    /// Writes the browser's bytes, and the answers as soon as they may be put in. `false`: nothing may follow.
    async fn pass(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        loop {
            if self.answer.is_none() {
                self.answer = self.answered.try_recv().ok();
            }
            if self.answer.is_none() {
                self.heard.follow(bytes);
                self.to.write_all(bytes).await?;
                return Ok(true);
            }
            let mut end = 0;
            while end < bytes.len() && !self.heard.cursor.is_between_messages() {
                end += self.heard.follow_to_boundary(&bytes[end..], now_ms());
            }
            self.to.write_all(&bytes[..end]).await?;
            bytes = &bytes[end..];
            if !self.heard.cursor.is_between_messages() {
                return Ok(true);
            }
            if self.heard.cursor.has_closed() {
                self.answer = None;
                continue;
            }
            match self.answer.take() {
                Some(Answer::Frame(frame)) => self.to.write_all(&frame).await?,
                Some(Answer::Goodbye(frame)) => {
                    self.to.write_all(&frame).await?;
                    return Ok(false);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
