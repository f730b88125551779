//! The gateway clients of a session: their sockets are held by API Gateway, and each of their messages comes here
//! as an HTTP request of its own ([`routes`]). Each has a socket of its own to the session's Chrome (`carry`), and
//! what Chrome says on it goes back as requests to the control plane (`delivery`).
//!
//! [`resequencer`] puts their messages back in order, [`fit`] deals with what API Gateway does not carry.

mod carry;
mod delivery;
pub mod fit;
pub mod resequencer;
pub mod routes;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::carry::Carrier;
use super::api::Api;
use super::filter::Door;
use super::relay::LAST_WORDS;
use crate::ids::{ConnectionId, SessionId};
use crate::protocol::{HeldMessage, WaitingConnection};

/// After so long without a message for a client it is sent one: API Gateway closes a socket that was idle for ten
/// minutes, and whether it is still there at all is only found out so, should its `$disconnect` have been lost.
pub const IDLE_BEAT: Duration = Duration::from_secs(60);
/// How many connections that were closed are remembered in a session. What could still come for one comes within a
/// minute.
const CLOSED: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");
/// Messages of one client on their way to Chrome, of at most 128 KB each.
const INBOUND: usize = 32;
/// How long a message may wait for a place among them. Who brings it has 29 s in all.
const INBOUND_WAIT: Duration = Duration::from_secs(5);

/// Why a message or a connection was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the connection is closed")]
    Closed,
    #[error("the session's browser does not answer")]
    Unreachable,
    #[error("the session's browser does not take messages as fast as they come")]
    Busy,
}

/// The gateway clients of one session. They end with it.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

struct Inner {
    session: SessionId,
    door: Door,
    api: Api,
    idle_beat: Duration,
    /// The session is over.
    over: CancellationToken,
    tasks: TaskTracker,
    table: Mutex<Table>,
}

struct Table {
    open: HashMap<ConnectionId, Open>,
    /// Lambdas overtake each other, so a client's last message may come after it was said to be gone. It must not
    /// open a new socket.
    closed: LruCache<ConnectionId, ()>,
}

#[derive(Clone)]
struct Open {
    inbound: mpsc::Sender<HeldMessage>,
    dialled: watch::Receiver<Dialled>,
    gone: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialled {
    NotYet,
    Answered,
    Failed,
}

impl Clients {
    pub fn new(session: SessionId, door: Door, api: Api, idle_beat: Duration) -> Self {
        let table = Mutex::new(Table { open: HashMap::new(), closed: LruCache::new(CLOSED) });
        let (over, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self(Arc::new(Inner { session, door, api, idle_beat, over, tasks, table }))
    }

    /// Opens the connection's socket to Chrome, if it is not open.
    pub async fn open(&self, connection: &ConnectionId) -> Result<(), Refused> {
        self.inbound(connection).await.map(drop)
    }

    /// Takes a message of a client, once if it comes more than once.
    pub async fn take(&self, connection: &ConnectionId, message: HeldMessage) -> Result<(), Refused> {
        let inbound = self.inbound(connection).await?;
        match timeout(INBOUND_WAIT, inbound.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Refused::Closed),
            Err(_) => Err(Refused::Busy),
        }
    }

    /// The client is gone.
    pub fn close(&self, connection: &ConnectionId) {
        let mut table = self.lock();
        table.closed.put(connection.clone(), ());
        if let Some(open) = table.open.remove(connection) {
            open.gone.cancel();
        }
    }

    /// Takes those that came before the browser did, with what they have said. Does not wait for any of it.
    pub fn welcome(&self, waiting: Vec<WaitingConnection>) {
        for WaitingConnection { connection_id, messages } in waiting {
            let clients = self.clone();
            self.0.tasks.spawn(async move {
                let taken = async {
                    let inbound = clients.inbound(&connection_id).await?;
                    for message in messages {
                        inbound.send(message).await.map_err(|_| Refused::Closed)?;
                    }
                    Ok::<_, Refused>(())
                };
                if let Err(refused) = taken.await {
                    let session = &clients.0.session;
                    tracing::info!(session.id = %session, connection.id = %connection_id, why = %refused,
                        "a waiting client was not connected");
                }
            });
        }
    }

    /// The session is over: what Chrome has said may still be delivered, for a moment.
    pub fn session_over(&self) {
        self.0.over.cancel();
    }

    /// Waits for that moment to pass. To be called when the session is over and its browser is dead.
    pub async fn all_ended(&self) {
        self.0.tasks.close();
        // Each sees to it by itself; a browser that died while it was dialled may take longer.
        let _ = timeout(2 * LAST_WORDS, self.0.tasks.wait()).await;
    }

    /// Where the connection's messages go, as soon as its browser has answered.
    async fn inbound(&self, connection: &ConnectionId) -> Result<mpsc::Sender<HeldMessage>, Refused> {
        let mut open = self.open_or_dial(connection)?;
        match open.dialled.wait_for(|dialled| *dialled != Dialled::NotYet).await.map(|dialled| *dialled) {
            Ok(Dialled::Answered) => Ok(open.inbound),
            // Its task has ended before it had dialled.
            Err(_) => Err(Refused::Closed),
            Ok(_) => Err(Refused::Unreachable),
        }
    }

    fn open_or_dial(&self, connection: &ConnectionId) -> Result<Open, Refused> {
        let mut table = self.lock();
        if self.0.over.is_cancelled() || table.closed.contains(connection) {
            return Err(Refused::Closed);
        }
        if let Some(open) = table.open.get(connection) {
            return Ok(open.clone());
        }
        let (inbound, messages) = mpsc::channel(INBOUND);
        let (dialling, dialled) = watch::channel(Dialled::NotYet);
        let open = Open { inbound, dialled, gone: CancellationToken::new() };
        table.open.insert(connection.clone(), open.clone());
        let carrier = Carrier { clients: self.clone(), connection: connection.clone(), gone: open.gone.clone() };
        self.0.tasks.spawn(carrier.run(dialling, messages));
        Ok(open)
    }

    /// Nothing came of it: it may be tried again.
    fn forget(&self, connection: &ConnectionId) {
        self.lock().open.remove(connection);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
