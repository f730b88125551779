//! The store's moves against a model of them, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};
use serde_json::Map;
use wallcrawler::container::FleetPolicy;
use wallcrawler::ids::{ConnectionId, ContainerId, Owner, ServerId, SessionId, UserId};
use wallcrawler::protocol::{
    ClaimRequest, ContainerPhase, HeldMessage, ProxyCredentials, ReadyRequest, WaitingConnection,
};
use wallcrawler::session::{EndReason, NewSession, SessionStatus};
use wallcrawler::store::{
    Connect, Created, Ended, EndedBy, Entered, Limits, Look, Lost, Outcome, Routed, Store, Used, Wanted, Whose,
};

use crate::audit::Contents;
use crate::world::{Redis, redis_command};

pub const START: u64 = 1_767_225_600_000;

pub fn limits() -> Limits {
    Limits {
        max_pending: 1_000_000,
        max_per_user: 0,
        creates_per_minute: 0,
        max_per_project: 0,
        project_creates_per_minute: 0,
        queue_wait_ms: 300_000,
        browser_wait_ms: 60_000,
        connect_wait_ms: 120_000,
        grace_ms: 10_000,
        retention_ms: 3_600_000,
        max_leases: 3,
    }
}

pub fn policy(max_containers: u64) -> FleetPolicy {
    FleetPolicy {
        sessions_per_container: 20,
        warm_slots: 0,
        min_containers: 0,
        max_containers,
        start_wait_ms: 30_000,
        idle_ms: 60_000,
        lost_after_ms: 15_000,
        blind_after_ms: 5_000,
    }
}

pub fn new_session(user: &str, keep_alive: bool) -> NewSession {
    NewSession {
        id: SessionId::random(),
        user_id: user.parse().expect("an id"),
        project: None,
        timeout_ms: 600_000,
        keep_alive,
        extension: None,
        browser_settings: Map::new(),
        proxy_credentials: Some(ProxyCredentials { username: "user".to_owned(), password: "secret".to_owned() }),
        user_metadata: Map::new(),
    }
}

/// How many sessions a project may have at once.
const PROJECT_MAX: u64 = 4;

/// The first look of a claim.
pub const FIRST: Look<'static> = Look { claim: "a claim", again: false, yield_for: Duration::ZERO };

pub fn claim_request(container: &ContainerId, max: u32, held: &[SessionId]) -> ClaimRequest {
    ClaimRequest {
        container_id: container.clone(),
        current_sessions: u32::try_from(held.len()).expect("few"),
        max_sessions: max,
        address: Some("127.0.0.1:9".to_owned()),
        wait_seconds: 0,
        session_ids: Some(held.to_vec()),
        proxy_bytes: BTreeMap::new(),
        phase: ContainerPhase::Serving,
        launched: false,
        task_arn: None,
        process: None,
        first: false,
    }
}

#[derive(Debug, Clone)]
enum Move {
    Create { user: u8, project: Option<u8>, keep_alive: bool },
    Claim { container: u8, max: u8, forgets: bool, draining: bool },
    Ready { session: u8 },
    Connect { session: u8 },
    Disconnect { session: u8, reached: bool },
    Enter { session: u8 },
    Message { session: u8, length: u8 },
    Deliver { session: u8, stranger: bool },
    Depart { session: u8 },
    Close { limit: u8 },
    Release { session: u8 },
    Ended { session: u8, stale: bool, stopped: bool },
    Lose { container: u8 },
    Leave { container: u8 },
    Drain { container: u8 },
    LoseServer,
    Pass { seconds: u16 },
    Purge,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (0..3u8, proptest::option::of(0..2u8), any::<bool>())
            .prop_map(|(user, project, keep_alive)| Move::Create { user, project, keep_alive }),
        6 => (0..4u8, 1..5u8, proptest::bool::weighted(0.2), proptest::bool::weighted(0.1))
            .prop_map(|(container, max, forgets, draining)| Move::Claim { container, max, forgets, draining }),
        6 => any::<u8>().prop_map(|session| Move::Ready { session }),
        5 => any::<u8>().prop_map(|session| Move::Connect { session }),
        4 => (any::<u8>(), proptest::bool::weighted(0.8)).prop_map(|(session, reached)| Move::Disconnect { session, reached }),
        4 => any::<u8>().prop_map(|session| Move::Enter { session }),
        5 => (any::<u8>(), 0..9u8).prop_map(|(session, length)| Move::Message { session, length }),
        3 => (any::<u8>(), proptest::bool::weighted(0.2))
            .prop_map(|(session, stranger)| Move::Deliver { session, stranger }),
        3 => any::<u8>().prop_map(|session| Move::Depart { session }),
        1 => (1..4u8).prop_map(|limit| Move::Close { limit }),
        2 => any::<u8>().prop_map(|session| Move::Release { session }),
        2 => (any::<u8>(), proptest::bool::weighted(0.3), any::<bool>())
            .prop_map(|(session, stale, stopped)| Move::Ended { session, stale, stopped }),
        2 => (0..4u8).prop_map(|container| Move::Lose { container }),
        1 => (0..4u8).prop_map(|container| Move::Leave { container }),
        1 => (0..4u8).prop_map(|container| Move::Drain { container }),
        1 => Just(Move::LoseServer),
        3 => prop_oneof![1..20u16, 50..400u16].prop_map(|seconds| Move::Pass { seconds }),
        1 => Just(Move::Purge),
    ];
    proptest::collection::vec(one, 1..60)
}

#[derive(Debug, Clone)]
struct Expected {
    id: SessionId,
    user: UserId,
    owner: Owner,
    status: SessionStatus,
    keep_alive: bool,
    lease: u64,
    claimed_at: u64,
    proxy_bytes: u64,
    container: Option<ContainerId>,
    ready: bool,
    reached: bool,
    connections: BTreeSet<ConnectionId>,
    /// Those whose sockets a gateway holds, with what is kept of their messages and how many they were sent.
    gateway: BTreeMap<ConnectionId, (Vec<HeldMessage>, u64)>,
    wait: Option<(u64, EndReason)>,
    expires_at: u64,
    purge_at: u64,
    reason: Option<EndReason>,
}

/// What the moves are meant to do, said again in the plainest way.
#[derive(Debug, Default)]
struct Model {
    now: u64,
    sessions: Vec<Expected>,
    /// In the order in which they are served: by turn, and within a turn as they came. Those put back to the head
    /// have turns before all others.
    queue: Vec<(i64, usize)>,
    /// The turn that is being served, and the one of each user's next session.
    turn: i64,
    turns: BTreeMap<UserId, i64>,
    before_all: i64,
    containers: BTreeMap<ContainerId, Vec<usize>>,
    draining: BTreeSet<ContainerId>,
    idle_since: BTreeMap<ContainerId, u64>,
    /// What a gateway is to close, and since when.
    closing: BTreeMap<ConnectionId, (EndReason, u64)>,
    /// How long each owner's ended sessions had a container.
    usage: BTreeMap<String, Used>,
}

impl Model {
    fn wait_for(&mut self, index: usize, at: Option<u64>, reason: EndReason) {
        let session = &mut self.sessions[index];
        session.wait = at.filter(|at| *at < session.expires_at).map(|at| (at, reason));
    }

    /// The last connection has ended.
    fn wait_for_clients(&mut self, index: usize) {
        let (session, now, limits) = (&self.sessions[index], self.now, limits());
        // Without a browser it waits for something else already.
        if session.keep_alive || !session.ready || !session.connections.is_empty() || !session.gateway.is_empty() {
            return;
        }
        let (at, reason) = if session.reached {
            (now + limits.grace_ms, EndReason::Disconnected)
        } else {
            (now + limits.connect_wait_ms, EndReason::NeverConnected)
        };
        self.wait_for(index, Some(at), reason);
    }

    fn join_queue(&mut self, index: usize) {
        let turn = self.turns.get(&self.sessions[index].user).copied().unwrap_or(0).max(self.turn);
        self.turns.insert(self.sessions[index].user.clone(), turn + 1);
        // Indexes grow as sessions are created.
        let at = self.queue.partition_point(|waiting| *waiting < (turn, index));
        self.queue.insert(at, (turn, index));
    }

    fn leave_queue(&mut self, index: usize) {
        let before = self.queue.len();
        self.queue.retain(|(_, waiting)| *waiting != index);
        if self.queue.len() == before {
            return;
        }
        let user = &self.sessions[index].user;
        if !self.queue.iter().any(|(_, waiting)| self.sessions[*waiting].user == *user) {
            self.turns.remove(user);
        }
        if self.queue.is_empty() {
            self.turn = 0;
        }
    }

    fn leave_container(&mut self, index: usize) {
        let container = self.sessions[index].container.clone();
        if let Some((id, held)) = container.and_then(|id| Some((id.clone(), self.containers.get_mut(&id)?))) {
            held.retain(|held| *held != index);
            if held.is_empty() {
                self.idle_since.insert(id, self.now);
            }
        }
    }

    fn end(&mut self, index: usize, reason: EndReason) {
        self.leave_queue(index);
        self.leave_container(index);
        let purge_at = self.now + limits().retention_ms;
        let session = &mut self.sessions[index];
        if session.status == SessionStatus::Active {
            self.usage.entry(session.owner.to_string()).or_default().container_ms += self.now - session.claimed_at;
        }
        session.status = SessionStatus::Ended;
        session.reason = Some(reason);
        session.ready = false;
        session.wait = None;
        session.connections.clear();
        session.purge_at = purge_at;
        let gateway = std::mem::take(&mut session.gateway);
        self.closing.extend(gateway.into_keys().map(|connection| (connection, (reason, self.now))));
    }

    fn lose_session(&mut self, index: usize, max_leases: u64) -> Outcome {
        let session = &self.sessions[index];
        if session.reached {
            self.end(index, EndReason::ContainerLost);
            return Outcome::Ended(EndReason::ContainerLost);
        }
        if session.lease >= max_leases {
            self.end(index, EndReason::FailedToStart);
            return Outcome::Ended(EndReason::FailedToStart);
        }
        self.leave_container(index);
        let session = &mut self.sessions[index];
        session.status = SessionStatus::Pending;
        session.container = None;
        session.ready = false;
        session.connections.clear();
        self.before_all -= 1;
        self.queue.insert(0, (self.before_all, index));
        let at = self.now + limits().queue_wait_ms;
        self.wait_for(index, Some(at), EndReason::QueueTimeout);
        Outcome::Requeued
    }

    fn lose(&mut self, container: &ContainerId) -> Option<BTreeMap<SessionId, Outcome>> {
        let mut held = self.containers.get(container)?.clone();
        // The one created first goes to the head of the queue last.
        held.sort_unstable_by(|a, b| b.cmp(a));
        let outcomes = held
            .into_iter()
            .map(|index| (self.sessions[index].id.clone(), self.lose_session(index, limits().max_leases)))
            .collect();
        self.containers.remove(container);
        self.draining.remove(container);
        self.idle_since.remove(container);
        Some(outcomes)
    }

    fn live_of(&self, owner: &Owner) -> u64 {
        self.sessions.iter().filter(|it| it.owner == *owner && it.status != SessionStatus::Ended).count() as u64
    }

    fn pick(&self, session: u8) -> Option<usize> {
        (!self.sessions.is_empty()).then(|| usize::from(session) % self.sessions.len())
    }
}

async fn apply(store: &Store, server: &ServerId, model: &mut Model, step: &Move) {
    let limits = limits();
    let policy = policy(0);
    let container_id = |number: u8| -> ContainerId { format!("ctr-{number}").parse().expect("an id") };
    let now = model.now;
    match step {
        Move::Create { user, project, keep_alive } => {
            let mut new = new_session(&format!("user_{user}"), *keep_alive);
            new.project = project.map(|project| format!("project_{project}").parse().expect("an id"));
            let limits = Limits { max_per_project: PROJECT_MAX, ..limits };
            let created =
                store.create(&new, None, &ContainerId::random(), &limits, &policy, now).await.expect("redis answers");
            if project.is_some() && model.live_of(&new.owner()) >= PROJECT_MAX {
                assert!(matches!(created, Created::Full(Whose::Project)), "{created:?}");
                return;
            }
            let Created::New { session, launch: None, .. } = created else { panic!("{created:?}") };
            let index = model.sessions.len();
            model.sessions.push(Expected {
                owner: new.owner(),
                id: new.id,
                user: new.user_id,
                status: SessionStatus::Pending,
                keep_alive: *keep_alive,
                lease: 0,
                claimed_at: 0,
                proxy_bytes: 0,
                container: None,
                ready: false,
                reached: false,
                connections: BTreeSet::new(),
                gateway: BTreeMap::new(),
                wait: None,
                expires_at: now + 600_000,
                purge_at: u64::MAX,
                reason: None,
            });
            model.join_queue(index);
            let place = model.queue.iter().position(|(_, waiting)| *waiting == index).expect("it waits");
            assert_eq!(session.queue_position, Some(place as u64 + 1));
            model.wait_for(index, Some(now + limits.queue_wait_ms), EndReason::QueueTimeout);
        }
        Move::Claim { container, max, forgets, draining } => {
            let id = container_id(*container);
            let known: Vec<usize> =
                if *forgets { Vec::new() } else { model.containers.get(&id).cloned().unwrap_or_default() };
            let held: Vec<SessionId> = known.iter().map(|index| model.sessions[*index].id.clone()).collect();
            let mut request = claim_request(&id, u32::from(*max), &held);
            // Of what it holds, or has ended there; and of others, which is not for it to say.
            for session in model.sessions.iter_mut().filter(|session| session.purge_at > now) {
                request.proxy_bytes.insert(session.id.clone(), session.proxy_bytes + 5);
                if session.container.as_ref() == Some(&id) {
                    session.proxy_bytes += 5;
                    model.usage.entry(session.owner.to_string()).or_default().proxy_bytes += 5;
                }
            }
            if *draining {
                request.phase = ContainerPhase::Draining;
                model.draining.insert(id.clone());
            }
            let claimed = store.claim(&request, FIRST, &limits, &policy, now).await.expect("redis answers");
            if !model.containers.contains_key(&id) {
                model.containers.insert(id.clone(), Vec::new());
                model.idle_since.insert(id.clone(), now);
            }
            let mut expected = BTreeSet::new();
            let mut held_there = model.containers[&id].clone();
            held_there.sort_unstable_by(|a, b| b.cmp(a));
            for index in held_there {
                if !known.contains(&index) {
                    if model.sessions[index].ready {
                        model.lose_session(index, limits.max_leases);
                    } else {
                        expected.insert((model.sessions[index].id.clone(), model.sessions[index].lease));
                    }
                }
            }
            let occupied = model.containers[&id].len().max(held.len() + expected.len());
            let mut room = usize::from(*max).saturating_sub(occupied);
            if model.draining.contains(&id) {
                room = 0;
            }
            for _ in 0..room {
                let Some((turn, index)) = model.queue.first().copied() else { break };
                model.turn = model.turn.max(turn);
                model.leave_queue(index);
                let session = &mut model.sessions[index];
                session.status = SessionStatus::Active;
                session.container = Some(id.clone());
                session.lease += 1;
                session.claimed_at = now;
                expected.insert((session.id.clone(), session.lease));
                model.containers.get_mut(&id).expect("registered").push(index);
                model.wait_for(index, Some(now + limits.browser_wait_ms), EndReason::FailedToStart);
            }
            assert_eq!(
                claimed
                    .sessions
                    .into_iter()
                    .map(|(session, details)| (session.id, details.lease))
                    .collect::<BTreeSet<_>>(),
                expected
            );
            assert_eq!(claimed.drain, model.draining.contains(&id));
            assert!(claimed.end.is_empty());
        }
        Move::Ready { session } => {
            let Some(index) = model.pick(*session) else { return };
            let expected = model.sessions[index].clone();
            let container = expected.container.clone().unwrap_or_else(|| container_id(0));
            let report = ReadyRequest { lease: expected.lease, cdp_secret: "s".repeat(16), version: Map::new() };
            let ready = store.ready(&expected.id, &container, &report, &limits, now).await.expect("redis answers");
            assert_eq!(ready.is_some(), expected.status == SessionStatus::Active);
            let Some(readied) = ready else { return };
            let mut waiting = readied.waiting;
            waiting.sort_by(|a, b| a.connection_id.cmp(&b.connection_id));
            let kept = |(id, (messages, _)): (&ConnectionId, &(Vec<HeldMessage>, u64))| WaitingConnection {
                connection_id: id.clone(),
                messages: messages.clone(),
            };
            assert_eq!(waiting, expected.gateway.iter().map(kept).collect::<Vec<_>>(), "also when it is repeated");
            if !expected.ready {
                model.sessions[index].ready = true;
                let wanted = !expected.keep_alive && expected.gateway.is_empty();
                let at = wanted.then_some(now + limits.connect_wait_ms);
                model.wait_for(index, at, EndReason::NeverConnected);
            }
        }
        Move::Connect { session } => {
            let Some(index) = model.pick(*session) else { return };
            let connection = ConnectionId::random();
            let id = model.sessions[index].id.clone();
            let connect = store.connect(&id, &connection, server, now).await.expect("redis answers");
            let expected = &mut model.sessions[index];
            match connect {
                Connect::Ready { reached, .. } => {
                    assert_eq!(reached, expected.reached);
                    assert!(expected.ready && expected.status == SessionStatus::Active);
                    expected.connections.insert(connection);
                    expected.wait = None;
                }
                Connect::Waiting => assert!(!expected.ready && expected.status != SessionStatus::Ended),
                Connect::Ended(reason) => assert_eq!(Some(reason), expected.reason),
                Connect::Unknown => assert!(expected.purge_at <= now),
                Connect::Crowded => panic!("there are not so many"),
            }
        }
        Move::Disconnect { session, reached } => {
            let Some(index) = model.pick(*session) else { return };
            let Some(connection) = model.sessions[index].connections.first().cloned() else { return };
            let id = model.sessions[index].id.clone();
            if *reached {
                assert!(store.reach(&id, &connection, now).await.expect("redis answers"));
                model.sessions[index].reached = true;
            }
            let told = store.disconnect(&connection, Some(&id), &limits, now).await.expect("redis answers");
            assert!(told.is_none(), "no container has to be told of a socket of ours");
            assert!(!store.reach(&id, &connection, now).await.expect("redis answers"), "it is no longer there");
            let expected = &mut model.sessions[index];
            expected.connections.remove(&connection);
            model.wait_for_clients(index);
        }
        Move::Enter { session } => {
            let Some(index) = model.pick(*session) else { return };
            let connection = ConnectionId::random();
            let id = model.sessions[index].id.clone();
            let entered = store.enter(&id, &connection, now).await.expect("redis answers");
            let expected = &mut model.sessions[index];
            match entered {
                Entered::Now(route) => {
                    assert_ne!(expected.status, SessionStatus::Ended);
                    assert_eq!(route.map(|route| route.session), expected.ready.then_some(id));
                    expected.gateway.insert(connection, (Vec::new(), 0));
                    if expected.ready {
                        expected.wait = None;
                    }
                }
                Entered::Ended(reason) => assert_eq!(Some(reason), expected.reason),
                Entered::Unknown => assert!(expected.purge_at <= now),
                Entered::Crowded => panic!("there are not so many"),
            }
        }
        Move::Message { session, length } => {
            let unknown = store.route(&ConnectionId::random(), "m", "{}", false).await.expect("redis answers");
            assert!(matches!(unknown, Routed::Unknown));
            let Some(index) = model.pick(*session) else { return };
            let expected = &mut model.sessions[index];
            let Some((connection, (kept, _))) = expected.gateway.iter_mut().next_back() else { return };
            let message = HeldMessage { message_id: format!("m{now}"), text: "é".repeat(usize::from(*length)) };
            let route = async |again| store.route(connection, &message.message_id, &message.text, again).await;
            let routed = route(false).await.expect("redis answers");
            // Asked again it is the same answer, and nothing is kept twice.
            assert_eq!(format!("{routed:?}"), format!("{:?}", route(true).await.expect("redis answers")));
            match routed {
                Routed::To { route, settled } => {
                    assert!(expected.ready && route.session == expected.id);
                    assert_eq!(settled, expected.reached);
                }
                Routed::Held => assert!(!expected.ready),
                other => panic!("{other:?}"),
            }
            if !expected.reached {
                kept.push(message);
            }
        }
        Move::Deliver { session, stranger } => {
            let Some(index) = model.pick(*session) else { return };
            let expected = &mut model.sessions[index];
            let Some((connection, (kept, delivered))) = expected.gateway.iter_mut().next_back() else { return };
            let holder = expected.container.clone().filter(|_| !stranger);
            let container = holder.clone().unwrap_or_else(|| "ctr-stranger".parse().expect("an id"));
            let answer = store.deliver(connection, &container).await.expect("redis answers");
            assert_eq!(answer, holder.map(|_| *delivered));
            if answer.is_some() {
                kept.clear();
                *delivered += 1;
                expected.reached = true;
                assert!(store.delivered(connection, *delivered).await.expect("redis answers"));
            }
        }
        Move::Depart { session } => {
            let Some(index) = model.pick(*session) else { return };
            let Some((connection, _)) = model.sessions[index].gateway.pop_last() else { return };
            let told = store.disconnect(&connection, None, &limits, now).await.expect("redis answers");
            let expected = &model.sessions[index];
            assert_eq!(told.map(|route| route.session), expected.ready.then(|| expected.id.clone()));
            assert!(!store.delivered(&connection, 1).await.expect("redis answers"), "it is no longer there");
            assert!(store.disconnect(&connection, None, &limits, now).await.expect("redis answers").is_none());
            model.wait_for_clients(index);
        }
        Move::Close { limit } => {
            let closing = store.closing(&[], u64::from(*limit)).await.expect("redis answers");
            assert_eq!(closing.len(), usize::from(*limit).min(model.closing.len()));
            let next = store.closing(&closing, 1_000).await.expect("redis answers");
            for (connection, reason) in closing {
                assert_eq!(model.closing.remove(&connection).map(|(reason, _)| reason), Some(reason));
            }
            let left = model.closing.iter().map(|(connection, (reason, _))| (connection.clone(), *reason));
            assert_eq!(next.into_iter().collect::<BTreeMap<_, _>>(), left.collect());
        }
        Move::Release { session } => {
            let Some(index) = model.pick(*session) else { return };
            let expected = model.sessions[index].clone();
            // Somebody else, its user without its project, and a project or user that is called as its owner.
            let stranger = Owner::User("user_stranger".parse().expect("an id"));
            let (user, named) = (Owner::User(expected.user.clone()), expected.owner.id());
            let namesakes = [Owner::User(named.parse().expect("an id")), Owner::Project(named.parse().expect("an id"))];
            for other in [stranger, user].into_iter().chain(namesakes).filter(|other| *other != expected.owner) {
                let refused = store.end(&expected.id, EndedBy::Owner(&other), EndReason::Released, &limits, now).await;
                assert!(matches!(refused, Ok(Ended::Unknown)));
            }
            let ended =
                store.end(&expected.id, EndedBy::Owner(&expected.owner), EndReason::Released, &limits, now).await;
            match ended.expect("redis answers") {
                Ended::Now(_) => {
                    assert_ne!(expected.status, SessionStatus::Ended);
                    model.end(index, EndReason::Released);
                }
                Ended::Already(session) => assert_eq!(session.end_reason, expected.reason),
                Ended::Requeued => panic!("its owner has ended it"),
                Ended::Unknown => assert!(expected.purge_at <= now),
            }
        }
        Move::Ended { session, stale, stopped } => {
            let Some(index) = model.pick(*session) else { return };
            let expected = model.sessions[index].clone();
            let Some(container) = &expected.container else { return };
            let lease = if *stale { expected.lease.wrapping_sub(1) } else { expected.lease };
            let by = EndedBy::Holder { container, lease };
            let reason = if *stopped { EndReason::ContainerLost } else { EndReason::BrowserCrashed };
            match store.end(&expected.id, by, reason, &limits, now).await.expect("redis answers") {
                Ended::Now(session) => {
                    assert!(!stale && expected.status == SessionStatus::Active);
                    if *stopped {
                        let outcome = model.lose_session(index, u64::MAX);
                        assert_eq!(Some(outcome), session.end_reason.map(Outcome::Ended));
                    } else {
                        model.end(index, reason);
                    }
                }
                Ended::Requeued => {
                    assert!(!stale && *stopped);
                    assert_eq!(model.lose_session(index, u64::MAX), Outcome::Requeued);
                }
                Ended::Already(_) => assert!(!stale && expected.status == SessionStatus::Ended),
                Ended::Unknown => assert!(*stale || expected.purge_at <= now),
            }
        }
        Move::Lose { container } => {
            let id = container_id(*container);
            let lost = store.lose_container(&id, "lost", None, &limits, now).await.expect("redis answers");
            match model.lose(&id) {
                Some(expected) => {
                    let Lost::Now(outcomes) = lost else { panic!("{lost:?}") };
                    assert_eq!(outcomes.into_iter().collect::<BTreeMap<_, _>>(), expected);
                }
                None => assert_eq!(lost, Lost::Unknown),
            }
        }
        Move::Leave { container } => {
            let id = container_id(*container);
            let request = ClaimRequest { phase: ContainerPhase::Leaving, ..claim_request(&id, 1, &[]) };
            store.claim(&request, FIRST, &limits, &policy, now).await.expect("redis answers");
            model.lose(&id);
        }
        Move::Drain { container } => {
            let id = container_id(*container);
            let drained = store.drain(&id, Some(policy.idle_ms), &policy, now).await.expect("redis answers");
            if drained {
                assert!(model.containers[&id].is_empty(), "a busy container is never drained");
                assert!(model.idle_since[&id] + policy.idle_ms <= now);
                assert!(model.draining.insert(id));
            }
        }
        Move::LoseServer => {
            loop {
                match store.lose_server(server, None, 2, now).await.expect("redis answers") {
                    Lost::Now(connections) if !connections.is_empty() => {
                        for (connection, session) in connections {
                            store.disconnect(&connection, Some(&session), &limits, now).await.expect("redis answers");
                        }
                    }
                    _ => break,
                }
            }
            for index in 0..model.sessions.len() {
                if !std::mem::take(&mut model.sessions[index].connections).is_empty() {
                    model.wait_for_clients(index);
                }
            }
        }
        Move::Pass { seconds } => {
            model.now += u64::from(*seconds) * 1_000;
            let now = model.now;
            let expired = store.expire(&limits, 1_000, now).await.expect("redis answers");
            let mut expected = BTreeMap::new();
            for index in 0..model.sessions.len() {
                let session = model.sessions[index].clone();
                if session.status == SessionStatus::Ended {
                    continue;
                }
                let reason = match session.wait {
                    Some((at, reason)) if at <= now => reason,
                    _ if session.expires_at <= now => EndReason::Timeout,
                    _ => continue,
                };
                expected.insert(session.id.clone(), reason);
                model.end(index, reason);
            }
            assert_eq!(expired.into_iter().collect::<BTreeMap<_, _>>(), expected);
            // By then the gateway has closed it by itself.
            model.closing.retain(|_, (_, since)| *since > now - 7_200_000);
        }
        Move::Purge => {
            store.purge(1_000, now).await.expect("redis answers");
        }
    }
}

/// Every sequence of moves leaves the store as the model says, and everything in it fits together.
#[test]
fn the_moves_do_what_the_model_says_in_any_order() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let _context = runtime.enter();
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let client = runtime.block_on(redis.client());
    let server = ServerId::random();
    let mut runner = TestRunner::new(ProptestConfig { cases: 200, max_shrink_iters: 400, ..ProptestConfig::default() });
    let outcome = runner.run(&moves(), |steps| {
        runtime.block_on(async {
            redis_command(&client, &["FLUSHDB"]).await;
            let mut model = Model { now: START, ..Model::default() };
            for step in &steps {
                apply(&store, &server, &mut model, step).await;
            }
            let contents = Contents::read(&client).await;
            contents.check();
            let queue: Vec<String> =
                model.queue.iter().map(|(_, index)| model.sessions[*index].id.to_string()).collect();
            assert_eq!(contents.queue(), queue);
            for (connection, (kept, _)) in model.sessions.iter().flat_map(|session| &session.gateway) {
                let list = contents.lists.get(&format!("connection:{connection}:messages"));
                assert_eq!(list.map_or(0, Vec::len), kept.len() * 2, "an id and a text for each message that is kept");
            }
            let users = (0..3).map(|user| Owner::User(format!("user_{user}").parse().expect("an id")));
            let projects = (0..2).map(|project| Owner::Project(format!("project_{project}").parse().expect("an id")));
            for owner in users.chain(projects) {
                let used = store.usage(&owner).await.expect("redis answers");
                let expected = model.usage.get(&owner.to_string()).copied().unwrap_or_default();
                assert_eq!(used, expected, "what {owner} has used");
                for status in [SessionStatus::Pending, SessionStatus::Active] {
                    let wanted = Wanted { status: Some(status), ..Wanted::default() };
                    let (listed, _) = store.list(&owner, &wanted, 100, None).await.expect("redis answers");
                    let listed: BTreeSet<SessionId> = listed.into_iter().map(|session| session.id).collect();
                    let theirs = model.sessions.iter().filter(|it| it.owner == owner && it.status == status);
                    assert_eq!(listed, theirs.map(|it| it.id.clone()).collect(), "what {owner} has that is {status:?}");
                }
            }
            for expected in &model.sessions {
                match store.get(&expected.id).await.expect("redis answers") {
                    Some((session, _)) => {
                        assert_eq!(session.status, expected.status);
                        assert_eq!(session.end_reason, expected.reason);
                        let connections = expected.connections.len() + expected.gateway.len();
                        assert_eq!(session.active_connections, connections as u64);
                        assert_eq!(session.proxy_bytes, expected.proxy_bytes);
                        if expected.status == SessionStatus::Active {
                            assert_eq!(session.container_id, expected.container);
                            assert_eq!(session.ready, expected.ready);
                        }
                    }
                    None => assert!(expected.purge_at <= model.now),
                }
            }
            // Let everything end, and be forgotten: nothing may be left but what belongs to nobody.
            let end = model.now + 10_000_000;
            for number in 0..4 {
                let id: ContainerId = format!("ctr-{number}").parse().expect("an id");
                store.lose_container(&id, "lost", None, &limits(), model.now).await.expect("redis answers");
            }
            store.expire(&limits(), 1_000, end).await.expect("redis answers");
            store.purge(1_000, end + limits().retention_ms).await.expect("redis answers");
            let closing = store.closing(&[], 1_000).await.expect("redis answers");
            store.closing(&closing, 1_000).await.expect("redis answers");
            let _ = store.lose_server(&server, None, 1_000, end).await.expect("redis answers");
            let left = Contents::read(&client).await;
            // What was used stays accounted for.
            assert!(left.hashes.keys().all(|key| ["fleet", "usage"].contains(&key.as_str())), "{left:?}");
            assert!(left.sets.is_empty() && left.sorted.is_empty() && left.lists.is_empty(), "{left:?}");
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
