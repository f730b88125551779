//! What is said between a session's browser and its clients, for who asks for the session's log. While it is said it is only
//! copied, into so much memory and no more: what was said last is kept. What it means is found out when somebody asks
//! ([`read`]).
//!
//! It is its owner's, with all that they type into pages. Nothing of it is for the log of this process.

mod read;
mod ring;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use self::ring::{PART, Ring, Said};
use crate::browser_settings::is_logged;
use crate::ids::SessionId;

/// Of one session: 2 MiB in all, of which some are for what tells which pages there are. It is said once, and needed for as long
/// as they are talked about.
const PARTS: usize = 28;
const ATTACHED_PARTS: usize = 4;
const _: () = assert!((PARTS + ATTACHED_PARTS) * PART == 2 << 20 && HEAD + TAIL < PART / 4);
/// Of a message that is larger than both together. Clients and browsers write what it is about first, and in which of the
/// protocol's sessions it was said first or last.
const HEAD: usize = 7 * 1024;
const TAIL: usize = 1024;

/// How Chrome begins to tell of something new that can be talked to.
const ATTACHED: &[u8] = br#"{"method":"Target.attachedToTarget","#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    Client,
    Browser,
}

/// The log of one session. Clones are one.
#[derive(Clone, Default)]
pub struct Logs(Option<Arc<Kept>>);

struct Kept {
    connections: AtomicU32,
    rings: Mutex<Rings>,
}

struct Rings {
    all: Ring,
    attached: Ring,
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logs")
    }
}

impl Logs {
    /// Of a session with these settings: it may want none.
    pub fn of(settings: &Map<String, Value>) -> Self {
        let rings = || Rings { all: Ring::new(PARTS), attached: Ring::new(ATTACHED_PARTS) };
        let kept = || Arc::new(Kept { connections: AtomicU32::new(0), rings: Mutex::new(rings()) });
        Self(is_logged(settings).then(kept))
    }

    /// Listens to another connection of a client.
    pub fn listen(&self) -> Ear {
        let connection = self.0.as_ref().map_or(0, |kept| kept.connections.fetch_add(1, Ordering::Relaxed));
        Ear { kept: self.0.clone(), connection, pieces: Pieces::default() }
    }

    /// As a JSON list of [`SessionLog`](crate::session_log::SessionLog), oldest first, of at most so many bytes: what is newest
    /// is in it. Takes some milliseconds. `None`: nothing was said.
    pub fn read(&self, session: &SessionId, most: usize) -> Option<Vec<u8>> {
        let kept = self.0.as_ref()?;
        let (all, attached) = {
            let rings = kept.lock();
            (rings.all.copy(), rings.attached.copy())
        };
        (!all.is_empty()).then(|| read::entries(&all, &attached, session, most))
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What listens to one connection.
pub struct Ear {
    kept: Option<Arc<Kept>>,
    connection: u32,
    /// Of what the browser is saying.
    pieces: Pieces,
}

/// The same connection, and not in the middle of a message.
impl Clone for Ear {
    fn clone(&self) -> Self {
        Self { kept: self.kept.clone(), connection: self.connection, pieces: Pieces::default() }
    }
}

impl Ear {
    /// One that keeps nothing.
    pub fn deaf() -> Self {
        Logs::default().listen()
    }

    pub fn is_deaf(&self) -> bool {
        self.kept.is_none()
    }

    /// A whole message.
    pub fn hear(&self, by: Speaker, message: &[u8], at_ms: u64) {
        let (head, tail) = ends(message);
        self.keep(by, message.len(), head, tail, at_ms);
    }

    /// The next piece of what the browser says, and whether it is the last one of a message.
    pub fn hear_piece(&mut self, piece: &[u8], is_last: bool, at_ms: u64) {
        if is_last && self.pieces.length == 0 {
            return self.hear(Speaker::Browser, piece, at_ms);
        }
        self.pieces.add(piece);
        if is_last {
            let Pieces { length, kept } = std::mem::take(&mut self.pieces);
            let (head, tail) = ends(&kept);
            self.keep(Speaker::Browser, length, head, tail, at_ms);
        }
    }

    fn keep(&self, by: Speaker, length: usize, head: &[u8], tail: &[u8], at_ms: u64) {
        let Some(kept) = &self.kept else { return };
        let said = Said { by, connection: self.connection, at_ms, length, head, tail };
        let mut rings = kept.lock();
        if by == Speaker::Browser && head.starts_with(ATTACHED) {
            rings.attached.push(&said);
        }
        rings.all.push(&said);
    }
}

/// What is kept of a message: all of it as its head, or a head and a tail.
fn ends(message: &[u8]) -> (&[u8], &[u8]) {
    if message.len() <= HEAD + TAIL {
        return (message, &[]);
    }
    (&message[..HEAD], &message[message.len() - TAIL..])
}

/// A message that comes in pieces: as much of it as is needed to know its ends.
#[derive(Default)]
struct Pieces {
    length: usize,
    kept: Vec<u8>,
}

impl Pieces {
    fn add(&mut self, piece: &[u8]) {
        self.length += piece.len();
        let (first, rest) = piece.split_at(piece.len().min(HEAD.saturating_sub(self.kept.len())));
        self.kept.extend_from_slice(first);
        self.kept.extend_from_slice(&rest[rest.len().saturating_sub(TAIL + 1)..]);
        // Not with each piece, which may be a byte. One byte more than fits tells that it does not fit.
        if self.kept.len() > HEAD + 4 * TAIL {
            self.kept.drain(HEAD..self.kept.len() - TAIL - 1);
        }
    }
}
