//! The sessions this container holds: from the moment a claim handed them out until their end is
//! acknowledged, or the control plane itself said that it is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::egress::Carried;
use crate::ids::SessionId;
use crate::session::EndReason;

/// Why a session's browser is to be killed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The control plane no longer wants it, or there is nobody left to tell.
    Silently,
    /// The container gives it up; the control plane must be told why.
    Reporting(EndReason),
}

struct Life {
    lease: u64,
    stop: watch::Sender<Option<Stop>>,
    starting: bool,
    /// What goes through its browser's proxies, and how much of it the control plane knows of.
    carried: Carried,
    told: u64,
}

#[derive(Default)]
struct Table {
    /// By session and by lease: an old incarnation that is being killed keeps its slot beside its successor.
    lives: HashMap<(SessionId, u64), Life>,
    /// What went through the proxies of those that are gone, until the control plane knows of it.
    carried: BTreeMap<SessionId, u64>,
}

#[derive(Clone)]
pub struct Held {
    table: Arc<Mutex<Table>>,
    changed: Arc<watch::Sender<u64>>,
    max: usize,
}

/// One session's place in the table; leaving it frees the slot, also when its task panicked.
pub struct Seat {
    held: Held,
    key: (SessionId, u64),
    pub stop: watch::Receiver<Option<Stop>>,
}

impl Held {
    pub fn new(max: u32) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        Self { table: Arc::default(), changed: Arc::new(watch::channel(0).0), max }
    }

    /// A seat for a claimed session; `None` if this very incarnation, or a newer one, has one already.
    /// An older incarnation is told to go.
    pub fn seat(&self, session: &SessionId, lease: u64) -> Option<Seat> {
        let mut table = self.lock();
        if table.lives.iter().any(|((id, _), life)| id == session && life.lease >= lease) {
            return None;
        }
        let (stop, stopped) = watch::channel(None);
        for (_, life) in table.lives.iter().filter(|((id, _), _)| id == session) {
            tell(life, Stop::Silently);
        }
        let key = (session.clone(), lease);
        let life = Life { lease, stop, starting: true, carried: Carried::default(), told: 0 };
        table.lives.insert(key.clone(), life);
        Some(Seat { held: self.clone(), key, stop: stopped })
    }

    /// Whether there was anything to stop.
    pub fn stop(&self, session: &SessionId, how: Stop) -> bool {
        let table = self.lock();
        let mut lives = table.lives.iter().filter(|((id, _), _)| id == session).peekable();
        let any = lives.peek().is_some();
        lives.for_each(|(_, life)| tell(life, how));
        any
    }

    pub fn stop_all(&self, how: Stop) {
        self.lock().lives.values().for_each(|life| tell(life, how));
    }

    /// Each session once, whatever the number of its incarnations; without those that the control plane has
    /// ended: it need not be asked again while their browsers are being killed.
    pub fn session_ids(&self) -> Vec<SessionId> {
        let over = |life: &Life| *life.stop.borrow() == Some(Stop::Silently);
        let table = self.lock();
        let mut ids: Vec<SessionId> =
            table.lives.iter().filter(|(_, life)| !over(life)).map(|((id, _), _)| id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// How much went through whose proxies so far, where it is more than the control plane knows of.
    pub fn proxy_bytes(&self) -> BTreeMap<SessionId, u64> {
        let table = self.lock();
        let mut untold = table.carried.clone();
        for ((session, _), life) in &table.lives {
            note(&mut untold, session, life);
        }
        untold
    }

    /// The control plane knows of this now.
    pub fn told(&self, bytes: &BTreeMap<SessionId, u64>) {
        let mut table = self.lock();
        table.carried.retain(|session, carried| bytes.get(session).is_none_or(|told| told < carried));
        for ((session, _), life) in &mut table.lives {
            life.told = bytes.get(session).copied().unwrap_or(0).max(life.told);
        }
    }

    pub fn len(&self) -> usize {
        self.lock().lives.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn free_slots(&self) -> usize {
        self.max.saturating_sub(self.len())
    }

    pub fn any_starting(&self) -> bool {
        self.lock().lives.values().any(|life| life.starting)
    }

    /// Changes whenever a seat was left.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of two incarnations of one session, only one has had clients.
fn note(untold: &mut BTreeMap<SessionId, u64>, session: &SessionId, life: &Life) {
    let carried = life.carried.bytes();
    if carried > life.told {
        let most = untold.entry(session.clone()).or_default();
        *most = carried.max(*most);
    }
}

/// The first word stands, except that silence overrules a report: the control plane has moved on.
fn tell(life: &Life, how: Stop) {
    life.stop.send_if_modified(|stop| {
        let new = stop.is_none() || (how == Stop::Silently && *stop != Some(Stop::Silently));
        if new {
            *stop = Some(how);
        }
        new
    });
}

impl Seat {
    pub fn session(&self) -> &SessionId {
        &self.key.0
    }

    pub fn lease(&self) -> u64 {
        self.key.1
    }

    /// Its end is known: the control plane need not be asked about it any more.
    pub fn reported(&self) {
        if let Some(life) = self.held.lock().lives.get(&self.key) {
            tell(life, Stop::Silently);
        }
    }

    /// It has a browser, and so proxies.
    pub fn carries(&self, carried: &Carried) {
        if let Some(life) = self.held.lock().lives.get_mut(&self.key) {
            life.carried = carried.clone();
        }
    }

    /// Its browser is there, or never will be.
    pub fn started(&self) {
        if let Some(life) = self.held.lock().lives.get_mut(&self.key) {
            life.starting = false;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.held.lock();
        if let Some(life) = table.lives.remove(&self.key) {
            note(&mut table.carried, self.session(), &life);
        }
        drop(table);
        self.held.changed.send_modify(|changes| *changes += 1);
    }
}

/// Waits until it is to stop for any reason; for ever, if it never is.
pub async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop) {
        Some(stop) => stop,
        // The table is gone without a word; the task that waits here goes with it.
        None => std::future::pending().await,
    }
}

/// Waits until nobody wants to hear of it any more.
pub async fn silenced(stop: &mut watch::Receiver<Option<Stop>>) {
    if stop.wait_for(|stop| *stop == Some(Stop::Silently)).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_lease_pushes_the_older_incarnation_out_and_an_older_one_is_ignored() {
        let held = Held::new(3);
        let session = SessionId::random();
        let old = held.seat(&session, 4).expect("free");
        assert!(held.seat(&session, 4).is_none(), "the same answer twice");
        assert!(held.seat(&session, 3).is_none(), "an answer overtaken by a newer one");
        let new = held.seat(&session, 5).expect("newer");
        assert_eq!(*old.stop.borrow(), Some(Stop::Silently));
        assert_eq!(*new.stop.borrow(), None);
        assert_eq!((held.session_ids().len(), held.free_slots()), (1, 1));
        drop(old);
        assert_eq!((held.session_ids(), held.free_slots()), (vec![session], 2));
    }

    #[test]
    fn silence_overrules_a_report_and_not_the_other_way_round() {
        let held = Held::new(1);
        let seat = held.seat(&SessionId::random(), 1).expect("free");
        held.stop_all(Stop::Reporting(EndReason::ContainerLost));
        held.stop_all(Stop::Silently);
        held.stop_all(Stop::Reporting(EndReason::ContainerLost));
        assert_eq!(*seat.stop.borrow(), Some(Stop::Silently));
    }

    #[test]
    fn leaving_a_seat_is_news() {
        let held = Held::new(1);
        let news = held.changes();
        drop(held.seat(&SessionId::random(), 1));
        assert!(news.has_changed().expect("open"));
        assert!(held.is_empty());
    }

    /// Taken out: what a seat that is left leaves, and whose count was told.
    #[test]
    fn what_was_carried_is_told_until_it_is_known_also_of_those_that_are_gone() {
        let held = Held::new(2);
        let (mine, other) = (SessionId::random(), SessionId::random());
        let (seat, silent) = (held.seat(&mine, 1).expect("free"), held.seat(&other, 1).expect("free"));
        let carried = Carried::default();
        seat.carries(&carried);
        silent.carries(&Carried::default());
        assert_eq!(held.proxy_bytes(), BTreeMap::new(), "nothing is nothing to tell");
        carried.add(5);
        let told = held.proxy_bytes();
        assert_eq!(told, BTreeMap::from([(mine.clone(), 5)]));
        carried.add(2);
        held.told(&told);
        assert_eq!(held.proxy_bytes(), BTreeMap::from([(mine.clone(), 7)]), "what has come since");
        held.told(&held.proxy_bytes());
        assert_eq!(held.proxy_bytes(), BTreeMap::new());
        carried.add(1);
        drop((seat, silent));
        let last = held.proxy_bytes();
        assert_eq!(last, BTreeMap::from([(mine.clone(), 8)]));
        held.told(&told);
        assert_eq!(held.proxy_bytes(), last, "an older word");
        held.told(&last);
        assert_eq!(held.proxy_bytes(), BTreeMap::new());
    }
}
