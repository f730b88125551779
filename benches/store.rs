//! What the moves of a session cost in a store that holds few sessions, many, and very many: the same code, the same
//! Redis server, in turns, so that whatever else the machine does happens to all of them.
//!
//!     cargo bench --bench store

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Map;
use wallcrawler::clock::now_ms;
use wallcrawler::container::FleetPolicy;
use wallcrawler::ids::{ConnectionId, ContainerId, Owner, ServerId, SessionId, UserId};
use wallcrawler::private_redis::PrivateRedis;
use wallcrawler::protocol::{ClaimRequest, ContainerPhase};
use wallcrawler::session::{EndReason, NewSession};
use wallcrawler::store::{Created, EndedBy, Limits, Look, Store};

/// How many sessions live beside those that are measured: half of them wait, half are served.
const SIZES: [usize; 3] = [100, 10_000, 100_000];
const USERS: usize = 50;
const ROUNDS: usize = 60;
/// Of each move, in each round.
const MOVES: usize = 20;
const SESSIONS_PER_CONTAINER: u32 = 200;

fn limits() -> Limits {
    Limits {
        max_pending: 10_000_000,
        max_per_user: 0,
        creates_per_minute: 0,
        max_per_project: 0,
        project_creates_per_minute: 0,
        queue_wait_ms: 3_600_000,
        browser_wait_ms: 3_600_000,
        connect_wait_ms: 3_600_000,
        grace_ms: 10_000,
        retention_ms: 0,
        max_leases: 3,
    }
}

fn policy() -> FleetPolicy {
    FleetPolicy {
        sessions_per_container: u64::from(SESSIONS_PER_CONTAINER),
        warm_slots: 0,
        min_containers: 0,
        max_containers: 0,
        start_wait_ms: 30_000,
        idle_ms: 60_000,
        lost_after_ms: 15_000,
        blind_after_ms: 5_000,
    }
}

fn user(number: usize) -> UserId {
    format!("user_{}", number % USERS).parse().expect("an id")
}

async fn create(store: &Store, owner: &UserId) -> SessionId {
    let new = NewSession {
        id: SessionId::random(),
        user_id: owner.clone(),
        project: None,
        timeout_ms: 3_600_000,
        keep_alive: false,
        extension: None,
        browser_settings: Map::new(),
        proxy_credentials: None,
        user_metadata: Map::new(),
    };
    match store.create(&new, None, &ContainerId::random(), &limits(), &policy(), now_ms()).await {
        Ok(Created::New { session, .. }) => session.id,
        other => panic!("{other:?}"),
    }
}

/// Claims one session more than `held`.
async fn claim(store: &Store, container: &ContainerId, held: u32, more: u32) -> Vec<SessionId> {
    let request = ClaimRequest {
        container_id: container.clone(),
        current_sessions: held,
        max_sessions: held + more,
        proxy_bytes: BTreeMap::new(),
        address: Some("127.0.0.1:9".to_owned()),
        wait_seconds: 0,
        session_ids: None,
        phase: ContainerPhase::Serving,
        launched: false,
        task_arn: None,
        process: None,
        first: false,
    };
    let look = Look { claim: "a claim", again: false, yield_for: Duration::ZERO };
    let claimed = store.claim(&request, look, &limits(), &policy(), now_ms()).await.expect("redis answers");
    claimed.sessions.into_iter().map(|(session, _)| session.id).collect()
}

/// A store of its own on the shared server, with so many sessions in it.
async fn populate(redis: &PrivateRedis, size: usize) -> Store {
    let store = Store::open(&redis.endpoint(), &format!("bench{size}:")).expect("a store");
    let mut tasks = Vec::new();
    for lane in 0..8 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for number in (lane..size).step_by(8) {
                create(&store, &user(number)).await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    let mut served = 0;
    while served < size / 2 {
        let more = u32::try_from((size / 2 - served).min(SESSIONS_PER_CONTAINER as usize)).expect("few");
        served += claim(&store, &ContainerId::random(), 0, more).await.len();
    }
    store
}

async fn timed<T>(all: &mut Vec<f64>, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let done = work.await;
    all.push(started.elapsed().as_secs_f64() * 1_000_000.0);
    done
}

const NAMES: [&str; 5] = ["create", "get", "claim", "connect", "end"];

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let dir = std::env::temp_dir().join(format!("wallcrawler-bench-{}", std::process::id()));
    let redis = PrivateRedis::start(&dir).await.expect("redis-server is installed");
    let mut stores = Vec::new();
    for size in SIZES {
        stores.push(populate(&redis, size).await);
    }
    let mut figures: [[Vec<f64>; NAMES.len()]; SIZES.len()] = Default::default();
    let server = ServerId::random();
    // One that is always there, so that a claim does not also register it.
    let container: ContainerId = "ctr-bench".parse().expect("an id");
    for round in 0..=ROUNDS {
        for (store, figures) in stores.iter().zip(&mut figures) {
            let [created, got, claimed, connected, ended] = figures;
            for number in 0..MOVES {
                let owner = user(number);
                let id = timed(created, create(store, &owner)).await;
                timed(got, store.get(&id)).await.expect("redis answers").expect("it is there");
                let work = timed(claimed, claim(store, &container, 0, 1)).await;
                timed(connected, store.connect(&id, &ConnectionId::random(), &server, now_ms()))
                    .await
                    .expect("redis answers");
                // What was claimed is somebody else's session, as others waited before it: both end, and as many live
                // as before.
                let end = async |id: &SessionId, by: &UserId| {
                    store
                        .end(id, EndedBy::Owner(&Owner::User(by.clone())), EndReason::Released, &limits(), now_ms())
                        .await
                };
                timed(ended, end(&id, &owner)).await.expect("redis answers");
                for other in work {
                    let owner = store.get(&other).await.expect("redis answers").map(|(session, _)| session.user_id);
                    if let Some(owner) = owner {
                        end(&other, &owner).await.expect("redis answers");
                        create(store, &owner).await;
                    }
                }
            }
            if round == 0 {
                // It loads the scripts.
                figures.iter_mut().for_each(Vec::clear);
            }
        }
    }
    println!(
        "\n{} calls of each, microseconds, p50 (in brackets: to that with {} sessions)\n",
        ROUNDS * MOVES,
        SIZES[0]
    );
    println!("| {:<10} | {} |", "", SIZES.map(|size| format!("{size:>8} sessions")).join(" | "));
    for (index, name) in NAMES.iter().enumerate() {
        let medians = figures.each_mut().map(|all| {
            all[index].sort_unstable_by(f64::total_cmp);
            all[index][all[index].len() / 2]
        });
        let cells = medians.map(|median| format!("{median:>8.0} ({:>4.2})  ", median / medians[0]));
        println!("| {name:<10} | {} |", cells.join(" | "));
    }
    redis.stop().await;
}
