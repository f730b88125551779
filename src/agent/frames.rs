//! A client's WebSocket frames (RFC 6455, section 5) put together into whole messages, and unmasked. No I/O.
//!
//! A message is unmasked where it lies, and its frame's mask set to zero: it is the same message, and goes to the
//! browser without being masked again. Masks are for the caches on the way, of which there is none on one machine.

use std::ops::Range;

use crate::splice::CloseFrame;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What Chrome's DevTools take at most, too. It bounds what waits here for the end of a message.
pub const MAX_MESSAGE: usize = 100 * 1024 * 1024;
/// A buffer that a large message has left behind is not kept for the small ones.
const KEPT_BUFFER: usize = 256 * 1024;

/// Why nothing more is taken from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    Protocol(&'static str),
    TooLarge,
}

impl Violation {
    pub fn close_frame(self) -> CloseFrame {
        match self {
            Self::Protocol(what) => CloseFrame { code: 1002, reason: what.into() },
            Self::TooLarge => CloseFrame { code: 1009, reason: "the message has more than 100 MiB".into() },
        }
    }
}

/// What a client said, as the browser would get it.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Message {
        frame: &'a [u8],
        payload: &'a [u8],
    },
    /// A ping, a pong or a goodbye. Nothing may follow the last.
    Control {
        frame: &'a [u8],
        closes: bool,
    },
}

struct Header {
    first: u8,
    payload: Range<usize>,
    mask: Range<usize>,
}

/// Bytes in, pieces out.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Before it everything has become a piece.
    start: usize,
    /// The fragments so far, and the first one's opcode.
    fragments: Option<(u8, Vec<u8>)>,
    /// A message that was put together, as one frame.
    whole: Vec<u8>,
}

impl Frames {
    /// Where the next bytes are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BUFFER {
            self.bytes = Vec::new();
        }
        if !self.whole.is_empty() {
            self.whole = Vec::new();
        }
        &mut self.bytes
    }

    /// The next piece. `None` until more bytes have come.
    pub fn next(&mut self) -> Result<Option<Piece<'_>>, Violation> {
        loop {
            let Some(header) = header(&self.bytes[self.start..])? else { return Ok(None) };
            let (opcode, is_final) = (header.first & 0x0f, header.first & FINAL != 0);
            if opcode < CLOSE {
                let before = match (&self.fragments, opcode) {
                    (None, CONTINUATION) => return Err(Violation::Protocol("a fragment of no message")),
                    (Some(_), TEXT | BINARY) => return Err(Violation::Protocol("a message within a message")),
                    (fragments, _) => fragments.as_ref().map_or(0, |(_, bytes)| bytes.len()),
                };
                if header.payload.len() > MAX_MESSAGE - before {
                    return Err(Violation::TooLarge);
                }
            }
            let frame = self.start..self.start + header.payload.end;
            let Some(bytes) = self.bytes.get_mut(frame.clone()) else { return Ok(None) };
            let mask: [u8; 4] = bytes[header.mask.clone()].try_into().expect("four bytes");
            bytes[header.mask].fill(0);
            unmask(&mut bytes[header.payload.clone()], mask);
            self.start = frame.end;
            if opcode >= CLOSE {
                return Ok(Some(Piece::Control { frame: &self.bytes[frame], closes: opcode == CLOSE }));
            }
            if is_final && self.fragments.is_none() {
                let frame = &self.bytes[frame];
                return Ok(Some(Piece::Message { frame, payload: &frame[header.payload] }));
            }
            let (_, fragments) = self.fragments.get_or_insert_with(|| (opcode, Vec::new()));
            fragments.extend_from_slice(&self.bytes[frame][header.payload]);
            if is_final && let Some((opcode, payload)) = self.fragments.take() {
                self.whole = client_frame(opcode, &payload);
                let from = self.whole.len() - payload.len();
                return Ok(Some(Piece::Message { frame: &self.whole, payload: &self.whole[from..] }));
            }
        }
    }
}

/// The header, once it is all there.
fn header(bytes: &[u8]) -> Result<Option<Header>, Violation> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    let opcode = first & 0x0f;
    if first & 0x70 != 0 {
        return Err(Violation::Protocol("no extension was agreed on"));
    }
    if !matches!(opcode, CONTINUATION..=BINARY | CLOSE..=PONG) {
        return Err(Violation::Protocol("an unknown kind of frame"));
    }
    if second & MASKED == 0 {
        return Err(Violation::Protocol("a client must mask its frames"));
    }
    if opcode >= CLOSE && (first & FINAL == 0 || second & 0x7f > 125) {
        return Err(Violation::Protocol("a control frame is one frame of at most 125 bytes"));
    }
    let (length, at) = match second & 0x7f {
        126 => {
            let Some(length) = bytes.get(2..4) else { return Ok(None) };
            (u64::from(u16::from_be_bytes(length.try_into().expect("two bytes"))), 4)
        }
        127 => {
            let Some(length) = bytes.get(2..10) else { return Ok(None) };
            (u64::from_be_bytes(length.try_into().expect("eight bytes")), 10)
        }
        short => (u64::from(short), 2),
    };
    if length > MAX_MESSAGE as u64 {
        return Err(Violation::TooLarge);
    }
    if bytes.len() < at + 4 {
        return Ok(None);
    }
    // It fits: it is no more than the maximum.
    Ok(Some(Header { first, mask: at..at + 4, payload: at + 4..at + 4 + length as usize }))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask, mask].concat().try_into().expect("eight bytes"));
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        let unmasked = u64::from_ne_bytes((&*word).try_into().expect("eight bytes")) ^ wide;
        word.copy_from_slice(&unmasked.to_ne_bytes());
    }
    words.into_remainder().iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// A text for the browser.
pub fn for_browser(text: &str) -> Vec<u8> {
    client_frame(TEXT, text.as_bytes())
}

/// A text for the client.
pub fn for_client(text: &str) -> Vec<u8> {
    frame(TEXT, 0, text.as_bytes())
}

/// A goodbye for the client.
pub fn goodbye(close: &CloseFrame) -> Vec<u8> {
    frame(CLOSE, 0, &[&close.code.to_be_bytes()[..], close.reason.as_bytes()].concat())
}

fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(opcode, MASKED, payload)
}

fn frame(opcode: u8, masked: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(FINAL | opcode);
    match payload.len() {
        short @ ..=125 => frame.push(masked | short as u8),
        medium @ ..=0xffff => {
            frame.push(masked | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(masked | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    if masked != 0 {
        frame.extend([0; 4]);
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests;
