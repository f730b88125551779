//! All that the store can do, each at least once.

use serde_json::Map;
use wallcrawler::ids::{ConnectionId, ContainerId, Owner, ServerId, SessionId};
use wallcrawler::protocol::ReadyRequest;
use wallcrawler::session::EndReason;
use wallcrawler::store::{
    Connect, Created, Ended, EndedBy, Entered, Idempotency, Lost, NotComing, Outcome, Routed, Store, StoreError, Used,
    Wanted,
};

use crate::model::{FIRST, START, claim_request, limits, new_session, policy};

pub fn report() -> ReadyRequest {
    ReadyRequest { lease: 1, cdp_secret: "0123456789abcdef".to_owned(), version: Map::new() }
}

pub fn connection(name: &str) -> ConnectionId {
    name.parse().expect("an id")
}

/// With a start of `container` reserved, if there is none yet.
pub async fn create(store: &Store, container: &ContainerId) -> Result<SessionId, StoreError> {
    let new = new_session("user_1", false);
    let idempotency = Idempotency::Key { key: new.id.to_string(), body: "body".to_owned() };
    match store.create(&new, Some(&idempotency), container, &limits(), &policy(1), START).await? {
        Created::New { session, .. } => Ok(session.id),
        other => panic!("{other:?}"),
    }
}

/// Has sessions live and end in all ways, and leaves none that lives.
pub async fn make_all(store: &Store) {
    let container = ContainerId::random();
    let server = ServerId::random();
    let limits = limits();
    store.ping().await.expect("redis answers");
    let [direct, gateway, expiring, lost] = {
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(create(store, &container).await.expect("redis answers"));
        }
        <[SessionId; 4]>::try_from(ids).expect("four")
    };
    assert!(store.give_back(&container, NotComing::Failed("it failed"), START - 1_000).await.expect("redis answers"));
    assert_eq!(
        store.reserve(std::slice::from_ref(&container), &policy(1), START).await.expect("redis answers").len(),
        1
    );

    // A client of a gateway comes before there is a browser, one of ours after.
    let (early, ours) = (connection("early"), connection("ours"));
    let entered = store.enter(&gateway, &early, START).await.expect("redis answers");
    assert!(matches!(entered, Entered::Now(None)), "{entered:?}");
    let routed = store.route(&early, "1", "{}", false).await.expect("redis answers");
    assert!(matches!(routed, Routed::Held), "{routed:?}");
    let claimed = store.claim(&claim_request(&container, 3, &[]), FIRST, &limits, &policy(1), START).await;
    let held: Vec<SessionId> =
        claimed.expect("redis answers").sessions.into_iter().map(|(session, _)| session.id).collect();
    assert_eq!(held, [direct.clone(), gateway.clone(), expiring.clone()]);
    for id in [&direct, &gateway] {
        let ready = store.ready(id, &container, &report(), &limits, START).await.expect("redis answers");
        assert_eq!(ready.expect("ready").waiting.len(), usize::from(id == &gateway));
    }
    assert_eq!(store.deliver(&early, &container).await.expect("redis answers"), Some(0));
    assert!(store.delivered(&early, 1).await.expect("redis answers"));
    store.beat_server(&server, START).await.expect("redis answers");
    let connect = store.connect(&direct, &ours, &server, START).await.expect("redis answers");
    assert!(matches!(connect, Connect::Ready { .. }), "{connect:?}");
    assert!(store.reach(&direct, &ours, START).await.expect("redis answers"));

    assert!(store.get(&direct).await.expect("redis answers").is_some());
    let user = Owner::User("user_1".parse().expect("an id"));
    let (listed, _) = store.list(&user, &Wanted::default(), 10, None).await.expect("redis answers");
    assert!(listed.len() >= 4);
    store.record(&serde_json::json!({ "at": "now" }), START).await.expect("redis answers");
    assert_eq!(store.show_fleet(START).await.expect("redis answers").1.len(), 1);
    assert_eq!(store.snapshot(5_000, START).await.expect("redis answers").containers.len(), 1);
    assert!(!store.drain(&container, Some(60_000), &policy(1), START).await.expect("redis answers"), "it is busy");

    end_all(store, &container, &server, [&direct, &gateway, &expiring, &lost]).await;
}

/// Each in another way. What `make_all` has begun is over then.
async fn end_all(store: &Store, container: &ContainerId, server: &ServerId, ids: [&SessionId; 4]) {
    let [direct, gateway, expiring, lost] = ids;
    let limits = limits();
    let Lost::Now(carried) = store.lose_server(server, None, 10, START).await.expect("redis answers") else {
        panic!("the server is known");
    };
    assert_eq!(carried.len(), 1);
    store.disconnect(&carried[0].0, Some(direct), &limits, START).await.expect("redis answers");
    assert_eq!(store.lose_server(server, None, 10, START).await.expect("redis answers"), Lost::Now(Vec::new()));
    let user = Owner::User("user_1".parse().expect("an id"));
    let ended = store.end(gateway, EndedBy::Owner(&user), EndReason::Released, &limits, START).await;
    assert!(matches!(ended, Ok(Ended::Now(_))), "{ended:?}");
    let closing = store.closing(&[], 10).await.expect("redis answers");
    assert_eq!(closing, [(connection("early"), EndReason::Released)]);
    assert!(store.closing(&closing, 10).await.expect("redis answers").is_empty());
    assert_eq!(store.usage(&user).await.expect("redis answers"), Used::default(), "it had its container for no time");
    // Its client never came back, and its browser never came up.
    let expired = store.expire(&limits, 10, START + 61_000).await.expect("redis answers");
    let reasons: Vec<_> =
        [direct, expiring].into_iter().map(|id| expired.iter().find(|(other, _)| other == id)).collect();
    assert_eq!(reasons.into_iter().flatten().count(), 2, "{expired:?}");

    let claim = claim_request(container, 1, &[]);
    let claimed = store.claim(&claim, FIRST, &limits, &policy(1), START).await.expect("redis answers");
    assert_eq!(claimed.sessions.len(), 1, "the last of them");
    assert!(store.ready(lost, container, &report(), &limits, START).await.expect("redis answers").is_some());
    let of_last = connection("of-last");
    store.enter(lost, &of_last, START).await.expect("redis answers");
    assert!(store.delivered(&of_last, 1).await.expect("redis answers"));
    let Lost::Now(outcomes) =
        store.lose_container(container, "lost", None, &limits, START).await.expect("redis answers")
    else {
        panic!("the container is known");
    };
    // Until somebody has reached it, it may be served by another.
    assert_eq!(outcomes, [(lost.clone(), Outcome::Requeued)]);
    let container = ContainerId::random();
    store.claim(&claim_request(&container, 1, &[]), FIRST, &limits, &policy(1), START).await.expect("redis answers");
    let holder = EndedBy::Holder { container: &container, lease: 2 };
    let ended = store.end(lost, holder, EndReason::BrowserCrashed, &limits, START).await.expect("redis answers");
    assert!(matches!(ended, Ended::Now(_)), "{ended:?}");
    store.closing(&[(of_last, EndReason::BrowserCrashed)], 10).await.expect("redis answers");
    let idle = START + 61_000;
    assert!(store.drain(&container, Some(60_000), &policy(1), idle).await.expect("redis answers"));
    store.lose_container(&container, "lost", None, &limits, idle).await.expect("redis answers");
    assert!(store.purge(10, idle + limits.retention_ms + 1).await.expect("redis answers") >= 4);
}
