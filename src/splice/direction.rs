//! One direction of a splice: bytes are read at one socket and written to another before more are read.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::cursor::FrameCursor;

/// The most that is read at once, and so the most that waits in memory for a slow reader.
pub(super) const BUFFER: usize = 256 * 1024;
/// What is read at once until a direction proves busy: large enough for nearly every message, and small
/// enough to stay in the processor's second-level cache.
const FIRST_READ: usize = 64 * 1024;
/// A rest up to this size is copied out, so that a reader who is slow by one message does not keep a buffer.
const SMALL_REST: usize = 16 * 1024;
/// How many reads a direction may do before the other connections of this thread get their turn.
const READS_PER_TURN: usize = 8;

thread_local! {
    /// A buffer is only held between a read and the write that follows it, within one poll. So each thread
    /// needs one, however many connections it serves; those of stalled readers come on top.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

fn take_buffer() -> Box<[u8]> {
    SCRATCH.take().unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

fn give_buffer_back(buffer: Box<[u8]>) {
    if buffer.len() == BUFFER {
        SCRATCH.set(Some(buffer));
    }
}

/// How a direction's source came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceEnd {
    /// It sent a close frame, which was passed on (or discarded, when nobody was left to get it).
    Closed,
    /// The end of the stream, or an error, without a close frame.
    Gone,
}

/// Bytes that were read and could not be written yet.
#[derive(Default)]
struct Rest {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Rest {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn clear(&mut self) {
        give_buffer_back(std::mem::take(self).buffer);
    }
}

pub(super) struct Direction {
    /// Follows what was *written*, so that it tells whether the receiver stands between two frames.
    cursor: FrameCursor,
    rest: Rest,
    busy: bool,
    discards: bool,
    moved: bool,
    written_bytes: u64,
}

impl Direction {
    /// `read_ahead` was read from the source before; it goes first.
    pub(super) fn new(read_ahead: &Bytes) -> Self {
        let rest = Rest { buffer: read_ahead.as_ref().into(), start: 0, end: read_ahead.len() };
        Self { cursor: FrameCursor::default(), rest, busy: false, discards: false, moved: false, written_bytes: 0 }
    }

    /// Everything written to the receiver, pings and close frames of our own included.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Whether a frame of our own may be put in here.
    pub(super) fn is_between_frames(&self) -> bool {
        self.rest.is_empty() && self.cursor.is_between_frames() && !self.cursor.has_closed() && !self.discards
    }

    /// Whether anything was written since this was last asked.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// From now on bytes are read and followed, and written nowhere: the receiver is gone.
    pub(super) fn discard(&mut self) {
        self.discards = true;
        self.cursor.follow(self.rest.bytes());
        self.rest.clear();
    }

    /// Puts a frame in. Only between frames.
    pub(super) fn put_in(&mut self, frame: &[u8]) {
        debug_assert!(self.is_between_frames());
        self.rest = Rest { buffer: frame.into(), start: 0, end: frame.len() };
    }

    /// Relays until the source ends. Nothing is read while something waits to be written: that is the
    /// back-pressure, and why the end of the source is only seen once everything before it has left.
    pub(super) fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<SourceEnd> {
        for _ in 0..READS_PER_TURN {
            ready!(self.poll_flush(cx, to));
            if self.cursor.has_closed() {
                return Poll::Ready(SourceEnd::Closed);
            }
            let limit = if self.busy { BUFFER } else { FIRST_READ };
            let mut buffer = take_buffer();
            let read = match poll_read(cx, from, &mut buffer[..limit]) {
                Poll::Pending => {
                    give_buffer_back(buffer);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(_)) => 0,
            };
            if read == 0 {
                give_buffer_back(buffer);
                return Poll::Ready(SourceEnd::Gone);
            }
            self.busy = read >= FIRST_READ;
            self.rest = Rest { buffer, start: 0, end: read };
            // Written at once: the socket is nearly always writable, and if not this says so.
        }
        // There may be more to read, but it is the others' turn.
        ready!(self.poll_flush(cx, to));
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what waits. A receiver that takes nothing any more turns the direction into one that discards:
    /// what the source still says is read all the same, so that its close frame or its end is seen.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> Poll<()> {
        if !self.rest.is_empty() {
            if self.discards {
                self.discard();
                return Poll::Ready(());
            }
            let mut stalled = false;
            while !self.rest.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, self.rest.bytes()) {
                    Poll::Ready(Ok(written)) if written > 0 => self.wrote(written),
                    Poll::Ready(_) => self.discard(),
                    Poll::Pending => {
                        stalled = true;
                        break;
                    }
                }
            }
            if stalled {
                if self.rest.buffer.len() > SMALL_REST && self.rest.bytes().len() <= SMALL_REST {
                    let small: Box<[u8]> = self.rest.bytes().into();
                    self.rest.clear();
                    self.rest = Rest { start: 0, end: small.len(), buffer: small };
                }
                return Poll::Pending;
            }
            self.rest.clear();
        }
        Poll::Ready(())
    }

    /// Relays to the end of the frame that has begun, and not a byte further. `false`: it will not come.
    pub(super) fn poll_finish_frame(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<bool> {
        loop {
            if !self.rest.is_empty() {
                let mut ahead = self.cursor.clone();
                let whole = if ahead.is_between_frames() { 0 } else { ahead.follow_to_boundary(self.rest.bytes()) };
                self.rest.end = self.rest.start + whole;
                if self.rest.is_empty() {
                    self.rest.clear();
                }
            }
            ready!(self.poll_flush(cx, to));
            if self.discards {
                return Poll::Ready(false);
            }
            if self.cursor.is_between_frames() {
                return Poll::Ready(true);
            }
            let mut buffer = take_buffer();
            match poll_read(cx, from, &mut buffer) {
                Poll::Ready(Ok(read)) if read > 0 => self.rest = Rest { buffer, start: 0, end: read },
                ended => {
                    give_buffer_back(buffer);
                    return ended.map(|_| false);
                }
            }
        }
    }

    fn wrote(&mut self, written: usize) {
        self.cursor.follow(&self.rest.buffer[self.rest.start..self.rest.start + written]);
        self.rest.start += written;
        self.written_bytes += written as u64;
        self.moved = true;
    }
}

fn poll_read(cx: &mut Context<'_>, from: &mut TcpStream, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}
