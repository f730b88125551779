//! What other processes did, as it happens. Each script tells of its move on one Redis channel; here it
//! wakes whoever waits for just that: a parked client, a waiting claim, an open socket.
//!
//! A message can be lost (the connection to Redis breaks). So nothing correct rests on one: after a gap
//! everybody is woken to look again, and who waits for work looks again by itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fred::interfaces::{ClientLike, EventInterface};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::StoreError;
use super::connection::Subscriber;
use crate::ids::{ContainerId, SessionId};
use crate::session::EndReason;

/// How long the connection rests after it has given up, which it does only where trying again looks useless.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// How often it is made sure that there would be something to hear.
const PROBE: Duration = Duration::from_secs(5);

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent {
    /// Nothing has been told yet, or something may have been missed: look at the session itself.
    Look,
    Ready,
    Requeued,
    Ended(EndReason),
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    Pending,
    Session(SessionId, SessionEvent, Option<ContainerId>),
    Drain(ContainerId),
}

/// The waiting rooms of one process.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Rooms>);

#[derive(Debug, Default)]
struct Rooms {
    work: Mutex<WorkRoom>,
    sessions: Mutex<HashMap<SessionId, watch::Sender<SessionEvent>>>,
    containers: Mutex<HashMap<ContainerId, (Arc<Notify>, usize)>>,
}

/// The claims that wait for work, by how many sessions their containers hold and then by who came first.
#[derive(Debug, Default)]
struct WorkRoom {
    seats: BTreeMap<SeatKey, Arc<Notify>>,
    seated: u64,
    /// There was work when nobody waited for it.
    early: bool,
}

type SeatKey = (u32, Reverse<u64>);

/// A waiting claim's place. Whoever was woken and leaves without having noticed passes it on.
struct Seat {
    events: Events,
    key: SeatKey,
    noticed: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let was_woken = self.events.0.work.lock().expect("not poisoned").seats.remove(&self.key).is_none();
        if was_woken && !self.noticed {
            self.events.wake_for_work();
        }
    }
}

impl Events {
    /// Waits until a session may have entered the queue. Wakes one waiter, not all of them: who finds more
    /// work than it can take has the next one woken. The one whose container holds most comes first, so that the others
    /// become idle when there is less to do.
    pub async fn work(&self, held: u32) {
        let notify = Arc::new(Notify::new());
        let mut seat = {
            let mut room = self.0.work.lock().expect("not poisoned");
            if std::mem::take(&mut room.early) {
                return;
            }
            let key = (held, Reverse(room.seated));
            room.seated += 1;
            room.seats.insert(key, notify.clone());
            Seat { events: self.clone(), key, noticed: false }
        };
        notify.notified().await;
        seat.noticed = true;
    }

    fn wake_for_work(&self) {
        let mut room = self.0.work.lock().expect("not poisoned");
        match room.seats.pop_last() {
            Some((_, notify)) => notify.notify_one(),
            None => room.early = true,
        }
    }

    pub fn session(&self, id: &SessionId) -> SessionWatch {
        let mut rooms = self.0.sessions.lock().expect("not poisoned");
        let receiver = rooms.entry(id.clone()).or_insert_with(|| watch::Sender::new(SessionEvent::Look)).subscribe();
        SessionWatch { receiver: Some(receiver), id: id.clone(), events: self.clone() }
    }

    pub fn container(&self, id: &ContainerId) -> ContainerWatch {
        let mut rooms = self.0.containers.lock().expect("not poisoned");
        let (notify, watchers) = rooms.entry(id.clone()).or_default();
        *watchers += 1;
        ContainerWatch { notify: notify.clone(), id: id.clone(), events: self.clone() }
    }

    fn tell(&self, message: Message) {
        match message {
            Message::Pending => self.wake_for_work(),
            Message::Drain(container) => self.wake_container(&container),
            Message::Session(id, event, container) => {
                if let Some(sender) = self.0.sessions.lock().expect("not poisoned").get(&id) {
                    sender.send_replace(event);
                }
                if let Some(container) = container {
                    self.wake_container(&container);
                }
            }
        }
    }

    fn wake_container(&self, id: &ContainerId) {
        if let Some((notify, _)) = self.0.containers.lock().expect("not poisoned").get(id) {
            notify.notify_one();
        }
    }

    /// Something may have been missed.
    fn look_again(&self) {
        for sender in self.0.sessions.lock().expect("not poisoned").values() {
            sender.send_replace(SessionEvent::Look);
        }
        for (notify, _) in self.0.containers.lock().expect("not poisoned").values() {
            notify.notify_one();
        }
        self.wake_for_work();
    }

    /// Passes on what Redis tells, for as long as the process lives.
    pub async fn follow(self, endpoint: String, prefix: String) -> Result<(), StoreError> {
        let subscriber = Subscriber::new(&endpoint, &prefix)?;
        let client = subscriber.client();
        let mut messages = client.message_rx();
        let mut reconnects = client.reconnect_rx();
        let mut changes = client.cluster_change_rx();
        let mut connection = client.connect();
        let mut probe = interval_at(Instant::now() + PROBE, PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Ok(message) => match message.value.as_str().as_deref().map(read) {
                        Some(Some(message)) => self.tell(message),
                        _ => tracing::warn!("an event that nobody here understands: is another version running?"),
                    },
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "events came faster than they could be passed on");
                        self.look_again();
                    }
                    Err(RecvError::Closed) => break,
                },
                // The first connection is one of them.
                Ok(_) | Err(RecvError::Lagged(_)) = reconnects.recv() => self.listen(&subscriber).await,
                // A cluster's node that leaves it takes the subscription along, and none need come in its place.
                Ok(_) | Err(RecvError::Lagged(_)) = changes.recv() => self.listen(&subscriber).await,
                _ = &mut connection => {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    connection = client.connect();
                }
                _ = probe.tick() => subscriber.probe().await,
            }
        }
        let _ = client.quit().await;
        Ok(())
    }

    /// First the ears, then the look: what happens in between would be missed.
    async fn listen(&self, subscriber: &Subscriber) {
        subscriber.subscribe().await;
        self.look_again();
    }
}

/// `pending`, `ready ID`, `requeued ID`, `ended ID REASON CONTAINER|-`, `drain CONTAINER`.
fn read(text: &str) -> Option<Message> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let message = match kind {
        "pending" => Message::Pending,
        "drain" => Message::Drain(words.next()?.parse().ok()?),
        _ => {
            let id = words.next()?.parse().ok()?;
            match kind {
                "ready" => Message::Session(id, SessionEvent::Ready, None),
                "requeued" => Message::Session(id, SessionEvent::Requeued, None),
                "ended" => {
                    let reason = words.next()?.parse().ok()?;
                    Message::Session(id, SessionEvent::Ended(reason), words.next()?.parse().ok())
                }
                _ => return None,
            }
        }
    };
    words.next().is_none().then_some(message)
}

/// What happens to one session from now on.
#[derive(Debug)]
pub struct SessionWatch {
    receiver: Option<watch::Receiver<SessionEvent>>,
    id: SessionId,
    events: Events,
}

impl SessionWatch {
    /// The next thing that happens; of several only the last.
    pub async fn next(&mut self) -> SessionEvent {
        let receiver = self.receiver.as_mut().expect("taken only by drop");
        match receiver.changed().await {
            Ok(()) => *receiver.borrow_and_update(),
            // The room is closed only after its last watcher has left.
            Err(_) => SessionEvent::Look,
        }
    }
}

impl Drop for SessionWatch {
    fn drop(&mut self) {
        let mut rooms = self.events.0.sessions.lock().expect("not poisoned");
        self.receiver = None;
        if rooms.get(&self.id).is_some_and(|sender| sender.receiver_count() == 0) {
            rooms.remove(&self.id);
        }
    }
}

/// What concerns one container from now on.
#[derive(Debug)]
pub struct ContainerWatch {
    notify: Arc<Notify>,
    id: ContainerId,
    events: Events,
}

impl ContainerWatch {
    pub async fn next(&self) {
        self.notify.notified().await;
    }
}

impl Drop for ContainerWatch {
    fn drop(&mut self) {
        let mut rooms = self.events.0.containers.lock().expect("not poisoned");
        if let Some((_, watchers)) = rooms.get_mut(&self.id) {
            *watchers -= 1;
            if *watchers == 0 {
                rooms.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scripts_tell_is_understood_and_nothing_else() {
        let id: SessionId = "ses_1".parse().expect("an id");
        assert_eq!(read("pending"), Some(Message::Pending));
        assert_eq!(read("ready ses_1"), Some(Message::Session(id.clone(), SessionEvent::Ready, None)));
        assert_eq!(
            read("ended ses_1 timeout -"),
            Some(Message::Session(id.clone(), SessionEvent::Ended(EndReason::Timeout), None))
        );
        assert_eq!(
            read("ended ses_1 released ctr_1"),
            Some(Message::Session(id, SessionEvent::Ended(EndReason::Released), "ctr_1".parse().ok()))
        );
        for text in ["", "ready", "ready x", "ended ses_1", "ended ses_1 bored -", "pending now", "hello ses_1"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    /// Polls once, and says whether it is done.
    fn poll(future: &mut std::pin::Pin<Box<impl Future<Output = ()>>>) -> bool {
        use futures_util::FutureExt as _;
        future.as_mut().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_fullest_is_woken_first_then_who_came_first_and_nobody_twice() {
        let events = Events::default();
        let mut waiting: Vec<_> = [0, 3, 7, 3].into_iter().map(|held| Box::pin(events.work(held))).collect();
        assert!(waiting.iter_mut().all(|work| !poll(work)));
        let mut order = Vec::new();
        for _ in 0..4 {
            events.tell(Message::Pending);
            let woken = (0..4).find(|at| !order.contains(at) && poll(&mut waiting[*at]));
            order.extend(woken);
        }
        assert_eq!(order, [2, 1, 3, 0]);
    }

    #[tokio::test]
    async fn work_that_came_early_is_not_missed_and_who_leaves_passes_it_on() {
        let events = Events::default();
        events.tell(Message::Pending);
        assert!(poll(&mut Box::pin(events.work(0))), "it was there before");
        let (mut first, mut second) = (Box::pin(events.work(5)), Box::pin(events.work(1)));
        assert!(!poll(&mut first) && !poll(&mut second));
        events.tell(Message::Pending);
        // The claim has ended otherwise before it noticed.
        drop(first);
        assert!(poll(&mut second));
        assert!(!poll(&mut Box::pin(events.work(0))), "once is enough");
        assert!(events.0.work.lock().expect("not poisoned").seats.is_empty(), "nobody is left");
    }

    #[tokio::test]
    async fn a_watcher_hears_of_its_own_session_only_and_leaves_nothing_behind() {
        let events = Events::default();
        let (one, other): (SessionId, SessionId) = (SessionId::random(), SessionId::random());
        let mut watch = events.session(&one);
        events.tell(Message::Session(other, SessionEvent::Ready, None));
        events.tell(Message::Session(one.clone(), SessionEvent::Ended(EndReason::Timeout), None));
        assert_eq!(watch.next().await, SessionEvent::Ended(EndReason::Timeout));
        let second = events.session(&one);
        drop(watch);
        assert_eq!(events.0.sessions.lock().expect("not poisoned").len(), 1);
        drop(second);
        assert!(events.0.sessions.lock().expect("not poisoned").is_empty());
    }
}
