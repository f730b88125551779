//! The fleet of Fargate tasks, on a stand-in for ECS that speaks its protocol.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aws_sdk_ecs::types::{AssignPublicIp, LaunchType};
use serde_json::{Value, json};
use wallcrawler::app::App;
use wallcrawler::clock::now_ms;
use wallcrawler::config::Config;
use wallcrawler::container::LaunchSpec;
use wallcrawler::fleet::Fleet as _;
use wallcrawler::fleet::ecs::EcsFleet;
use wallcrawler::ids::ContainerId;
use wallcrawler::routes::events::{Invocation, take_event};
use wallcrawler::scaling::{self, Wait};

use crate::audit::Contents;
use crate::moto::{Fault, Moto, variable};
use crate::world::{Redis, World, claimed, config, eventually, redis_command};

fn fleet(moto: &Moto, config: &Config) -> EcsFleet {
    EcsFleet::with_access(config.ecs.clone().expect("configured"), &config.deployment(), &moto.access)
}

/// A control plane whose containers are tasks.
async fn world(moto: &Moto, vars: &[(&str, &str)]) -> World {
    let redis = Redis::start();
    let config = config(&redis, &[&moto.vars(), vars].concat());
    let fleet = fleet(moto, &config);
    World::with_fleet(redis, config, Box::new(fleet)).await
}

/// As if the pause after failed starts were over.
async fn pause_over(world: &World) {
    redis_command(&world.redis.client().await, &["HDEL", "fleet", "holdUntil", "throttledUntil", "listedAt"]).await;
}

/// A look that asks the fleet, however short ago that was asked, and however lately a start has failed.
async fn look(world: &World) -> scaling::Plan {
    pause_over(world).await;
    *world.app.listed.lock().expect("not poisoned") = (0, None);
    scaling::tick(&world.app).await.expect("redis answers")
}

async fn contents(world: &World) -> Contents {
    Contents::read(&world.redis.client().await).await
}

async fn reserved(world: &World) -> BTreeSet<String> {
    let contents = contents(world).await;
    contents.check();
    contents.sorted.get("containers-starting").into_iter().flatten().map(|(id, _)| id.clone()).collect()
}

async fn create_many(world: &World, count: usize) {
    let created =
        futures_util::future::join_all((0..count).map(async |_| world.client("key-one").create().await)).await;
    assert_eq!(created.into_iter().collect::<BTreeSet<_>>().len(), count);
}

/// A container that was launched comes, and takes what there is room for.
async fn come(world: &World, id: &str, max: u32) -> Value {
    let request = json!({
        "containerId": id, "currentSessions": 0, "maxSessions": max, "sessionIds": [], "address": "127.0.0.1:9",
        "launched": true,
    });
    world.container(id).post("/sessions/claim", &request).await.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_creates_at_once_start_ten_tasks() {
    let moto = Moto::start().await;
    let world = world(&moto, &[("MAX_CONTAINERS", "50"), ("MAX_SESSIONS_PER_CONTAINER", "20")]).await;
    create_many(&world, 200).await;
    assert_eq!(moto.run_tasks().len(), 10);
    assert_eq!(moto.containers().await, reserved(&world).await.into_iter().collect::<Vec<_>>());
    assert!(look(&world).await.is_idle(), "and a look starts no more");
    assert_eq!(moto.run_tasks().len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_tasks_are_started_than_there_may_be_and_the_rest_waits() {
    let moto = Moto::start().await;
    let world = world(&moto, &[("MAX_CONTAINERS", "5"), ("MAX_SESSIONS_PER_CONTAINER", "20")]).await;
    create_many(&world, 200).await;
    let plan = look(&world).await;
    assert_eq!((moto.run_tasks().len(), plan.start), (5, 0));
    let mut served = 0;
    for id in moto.containers().await {
        served += claimed(&come(&world, &id, 20).await).len();
    }
    assert_eq!((served, contents(&world).await.queue().len()), (100, 100));
}

#[tokio::test]
async fn a_task_is_told_what_every_container_is_told_and_where_it_belongs() {
    let moto = Moto::start().await;
    let special = [("ASSIGN_PUBLIC_IP", "true"), ("WARM_BROWSERS", "3"), ("HEARTBEAT_SECONDS", "7")];
    let world = world(&moto, &special).await;
    world.client("key-one").create().await;
    let asked = moto.run_tasks().remove(0);
    let environment = asked["overrides"]["containerOverrides"][0]["environment"].as_array().expect("variables");
    let told: Vec<(&str, &str)> = environment
        .iter()
        .map(|variable| (variable["name"].as_str().expect("a name"), variable["value"].as_str().expect("a value")))
        .collect();
    let id = told[0].1;
    let token = told[1].1;
    assert_eq!(
        told,
        [
            ("CONTAINER_ID", id),
            ("CONTAINER_TOKEN", token),
            ("CONTAINER_LAUNCHED", "true"),
            ("API_ENDPOINT", "https://api.example.com/prod"),
            ("MAX_SESSIONS", "20"),
            ("WARM_BROWSERS", "3"),
            ("HEARTBEAT_SECONDS", "7"),
        ]
    );
    assert_eq!(asked["overrides"]["containerOverrides"][0]["name"], "browser");
    assert_eq!((&asked["count"], &asked["clientToken"]), (&json!(1), &json!(id)));
    assert_eq!(asked["tags"], json!([{"key": "wallcrawler:container", "value": id}]));
    assert!(asked["startedBy"].as_str().is_some_and(|by| by.starts_with("wallcrawler-")), "{asked}");
    assert_eq!(asked["launchType"], LaunchType::Fargate.as_str());
    let network = &asked["networkConfiguration"]["awsvpcConfiguration"];
    assert_eq!(network["assignPublicIp"], AssignPublicIp::Enabled.as_str());
    assert_eq!(network["securityGroups"], json!(["sg-12345678"]));
    // What it was given opens the door for it, as far as it was launched for. (Taken out: the cap in `claim_sessions`,
    // and whoever holds one container's token gets everybody's sessions.)
    create_many(&world, 29).await;
    let request = json!({"containerId": id, "currentSessions": 0, "maxSessions": 1_000, "launched": false});
    let caller = world.client("none").with("authorization", format!("Bearer {token}"));
    assert_eq!(claimed(&caller.post("/sessions/claim", &request).await.body).len(), 20);
    let container = contents(&world).await.hashes.remove(&format!("container:{id}")).expect("registered");
    assert_eq!((container["maxSessions"].as_str(), container["launched"].as_str()), ("20", "1"));
}

/// moto refuses them for what they are: it knows no Fargate without its launch type. What was asked for is enough here.
#[tokio::test]
async fn capacity_providers_take_the_place_of_the_launch_type() {
    let moto = Moto::start().await;
    moto.next_run_tasks([Some(Fault::NotPlaced)]);
    let world = world(&moto, &[("ECS_CAPACITY_PROVIDERS", "FARGATE_SPOT:4,FARGATE:1")]).await;
    world.client("key-one").create().await;
    let asked = moto.run_tasks().remove(0);
    let strategy = json!([
        {"capacityProvider": "FARGATE_SPOT", "weight": 4}, {"capacityProvider": "FARGATE", "weight": 1},
    ]);
    assert_eq!((&asked["capacityProviderStrategy"], asked.get("launchType")), (&strategy, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_lost_while_every_second_launch_fails_and_no_task_is_left_over() {
    let moto = Moto::start().await;
    let world = world(&moto, &[("MAX_CONTAINERS", "10"), ("MAX_SESSIONS_PER_CONTAINER", "20")]).await;
    let faults = [Fault::ServerError, Fault::Throttled, Fault::NotPlaced, Fault::Cut, Fault::AnswerLost];
    moto.next_run_tasks(faults.iter().cycle().take(30).flat_map(|fault| [Some(*fault), None]));
    create_many(&world, 200).await;
    for _ in 0..10 {
        if reserved(&world).await.len() == 10 {
            break;
        }
        look(&world).await;
    }
    let reserved = reserved(&world).await;
    let running = moto.containers().await;
    assert_eq!(reserved.len(), 10);
    assert!(reserved.iter().all(|id| running.contains(id)), "each reservation has its task");
    assert!(running.len() > 10, "some answers were lost, and their tasks came: {running:?}");
    let mut served = BTreeSet::new();
    for id in &reserved {
        served.extend(claimed(&come(&world, id, 20).await));
    }
    assert_eq!((served.len(), contents(&world).await.queue().len()), (200, 0));
    // One of the tasks that came in vain asks for work, and is told to go; the others say nothing.
    let vain = running.iter().find(|id| !reserved.contains(*id)).expect("one too many");
    assert_eq!(come(&world, vain, 20).await["drain"], true);
    assert!(look(&world).await.stop.is_empty(), "they may still be on their way");
    moto.age_tasks(Duration::from_secs(121));
    unwatched_no_more(&world).await;
    assert_eq!(look(&world).await.stop.len(), running.len() - 10);
    assert_eq!(moto.containers().await, reserved.into_iter().collect::<Vec<_>>());
    assert!(look(&world).await.is_idle());
    contents(&world).await.check();
}

/// As if there had been looks all the time.
async fn unwatched_no_more(world: &World) {
    let redis = world.redis.client().await;
    redis_command(
        &redis,
        &["HSET", "fleet", "watchedSince", &(now_ms() - 60_000).to_string(), "lookedAt", &now_ms().to_string()],
    )
    .await;
}

#[tokio::test]
async fn however_a_launch_fails_its_reservation_is_given_back_counted_and_explained_and_its_session_waits() {
    let moto = Moto::start().await;
    for (fault, kind, why) in [
        (Fault::ServerError, "other", "ServerException"),
        (Fault::Throttled, "throttled", ""),
        (Fault::Denied, "denied", "AccessDeniedException"),
        (Fault::NotPlaced, "no_capacity", "Capacity is unavailable"),
        (Fault::Cut, "no_answer", "the connection failed"),
        (Fault::AnswerLost, "no_answer", "the connection failed"),
        (Fault::Silence, "no_answer", "in time"),
    ] {
        let world = world(&moto, &[]).await;
        moto.next_run_tasks([Some(fault)]);
        let client = world.client("key-one");
        let id = client.create().await;
        assert_eq!(reserved(&world).await.len(), 0, "{fault:?}");
        let session = client.get(&format!("/sessions/{id}")).await.body;
        assert_eq!((&session["status"], &session["queuePosition"]), (&json!("pending"), &json!(1)), "{fault:?}");
        let counted: Vec<_> = world.app.metrics.untold_failures().into_iter().collect();
        assert_eq!(counted, [(kind, 1)], "{fault:?}");
        let failed = world.app.store.snapshot(5_000, now_ms()).await.expect("redis answers").failed_starts;
        // That too much was asked says nothing of the container.
        let (attempts, paused) = if fault == Fault::Throttled { (0, false) } else { (1, true) };
        assert_eq!((failed.attempts, failed.hold_until_ms > 0), (attempts, paused), "{fault:?}");
        assert_eq!(failed.throttled_until_ms > 0, !paused, "{fault:?}");
        assert!(failed.last_why.contains(why), "{fault:?}: {}", failed.last_why);
        assert_eq!(look(&world).await.start, 1, "{fault:?}: the next look tries again");
        assert_eq!(world.app.metrics.containers_started.get(), 1, "{fault:?}");
    }
}

/// Taken out: the flag in `execute`, and all forty are asked for.
#[tokio::test]
async fn an_ecs_of_which_too_much_is_asked_is_left_alone_for_a_moment_and_no_failure_is_noted() {
    let moto = Moto::start().await;
    let vars = [("MAX_CONTAINERS", "50"), ("MAX_SESSIONS_PER_CONTAINER", "1")];
    let world = world(&moto, &vars).await;
    moto.next_run_tasks([Some(Fault::Throttled)]);
    create_many(&world, 1).await;
    create_many(&world, 39).await;
    assert_eq!(moto.run_tasks().len(), 1, "creates that come later ask for none");

    moto.next_run_tasks((0..3).map(|_| None).chain((0..40).map(|_| Some(Fault::Throttled))));
    assert_eq!(look(&world).await.start, 40);
    let batch = moto.run_tasks().len() - 1;
    assert!((4..=13).contains(&batch), "three were taken, and no more were under way than ten: {batch}");
    assert_eq!(reserved(&world).await.len(), 3);
    let paused = scaling::tick(&world.app).await.expect("redis answers");
    assert!(
        matches!(paused.waiting_for.as_slice(), [Wait::Start { .. }, Wait::Throttled { for_ms: 1..=2_000, .. }]),
        "{paused:?}"
    );

    // However often it happens, the pause is no longer.
    for _ in 0..5 {
        moto.next_run_tasks((0..40).map(|_| Some(Fault::Throttled)));
        look(&world).await;
    }
    let failed = world.app.store.snapshot(5_000, now_ms()).await.expect("redis answers").failed_starts;
    assert_eq!((failed.attempts, failed.hold_until_ms), (0, 0));
    assert!(failed.throttled_until_ms <= now_ms() + 2_000);
    moto.next_run_tasks([]);
    look(&world).await;
    assert_eq!(reserved(&world).await.len(), 40);
    contents(&world).await.check();
}

/// Taken out: the pause in `events::look`, and it is one look.
#[tokio::test]
async fn on_lambda_a_start_that_failed_is_tried_again_when_the_pause_is_over_and_not_a_minute_later() {
    let moto = Moto::start().await;
    for fault in [Fault::Throttled, Fault::NotPlaced] {
        let world = world(&moto, &[]).await;
        moto.next_run_tasks([Some(fault), Some(fault)]);
        world.client("key-one").create().await;
        assert_eq!(reserved(&world).await.len(), 0);
        let invocation = |seconds: u64| Invocation { deadline_ms: now_ms() + seconds * 1_000, ..Invocation::default() };
        let schedule = include_bytes!("events/schedule.json");
        let hurried = take_event(&world.app, schedule, &invocation(3)).await.expect("done");
        assert_eq!(hurried, json!({"ok": true, "looks": 1, "undecided": true}));
        let done = take_event(&world.app, schedule, &invocation(30)).await.expect("done");
        assert!(done["looks"].as_u64().is_some_and(|looks| (3..=7).contains(&looks)), "{fault:?}: {done}");
        assert_eq!(done.get("undecided"), None);
        assert_eq!(reserved(&world).await.len(), 1, "{fault:?}: {done}");
    }
}

#[tokio::test]
async fn the_end_of_a_session_stops_no_task_while_others_are_on_it() {
    let moto = Moto::start().await;
    let world = world(&moto, &[("CONTAINER_IDLE_SECONDS", "1")]).await;
    let client = world.client("key-one");
    let (one, other) = (client.create().await, client.create().await);
    let id = moto.containers().await.remove(0);
    assert_eq!(claimed(&come(&world, &id, 20).await).len(), 2);
    client.delete(&format!("/sessions/{one}")).await;
    assert!(look(&world).await.drain.is_empty());
    assert_eq!(client.get(&format!("/sessions/{other}")).await.body["status"], "active");
    assert_eq!(moto.containers().await, std::slice::from_ref(&id));
    client.delete(&format!("/sessions/{other}")).await;
    // Nor is it stopped then: it is told to end when it has been idle for long enough.
    eventually(Duration::from_secs(10), async || {
        let drained = look(&world).await.drain;
        if drained.is_empty() { Err("it does not drain".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(moto.containers().await, [id]);
}

#[tokio::test]
async fn an_ecs_that_does_not_answer_holds_no_create_for_long_and_gets_no_reservation() {
    let moto = Moto::start().await;
    let world = world(&moto, &[]).await;
    moto.next_run_tasks([Some(Fault::Silence)]);
    let asked = Instant::now();
    world.client("key-one").create().await;
    assert!(asked.elapsed() < Duration::from_millis(3_500), "it took {:?}", asked.elapsed());
    assert_eq!(reserved(&world).await.len(), 0);
    assert_eq!(scaling::tick(&world.app).await.expect("redis answers").start, 0, "there is a pause");
    assert_eq!(look(&world).await.start, 1, "and then the next look is the retry");
    assert_eq!(moto.containers().await, reserved(&world).await.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_hangs_up_during_the_launch_leaves_no_reservation() {
    let moto = Moto::start().await;
    let world = world(&moto, &[]).await;
    moto.next_run_tasks([Some(Fault::Silence)]);
    let client = world.client("key-one");
    let hung_up = tokio::time::timeout(Duration::from_millis(500), client.create()).await;
    assert!(hung_up.is_err() && reserved(&world).await.len() == 1);
    let first = reserved(&world).await;
    look(&world).await;
    let second = reserved(&world).await;
    assert!(second.len() == 1 && second != first, "another is started");
    assert_eq!(contents(&world).await.queue().len(), 1, "its session is kept");
}

#[tokio::test]
async fn a_task_is_stopped_however_often_and_whether_or_not_its_name_is_known() {
    let moto = Moto::start().await;
    let redis = Redis::start();
    let config = config(&redis, &moto.vars());
    let fleet = fleet(&moto, &config);
    let specs: Vec<_> = (0..6).map(|_| spec()).collect();
    for spec in &specs {
        fleet.launch(spec).await.expect("started");
    }
    let listing = fleet.list().await.expect("listed");
    assert!(listing.whole && listing.tasks.len() == 6, "over all pages: {listing:?}");
    let one = &listing.tasks[0];
    for _ in 0..2 {
        fleet.stop(&one.container, one.task.as_deref(), "it was given up").await.expect("stopped");
    }
    let other = &listing.tasks[5];
    for _ in 0..2 {
        fleet.stop(&other.container, None, "it was given up").await.expect("stopped");
    }
    fleet.stop(&ContainerId::random(), None, "it was given up").await.expect("it is not there");
    for stopped in [one, other] {
        let task = moto.task(stopped.task.as_deref().expect("an arn")).await;
        assert_eq!(task.stopped_reason(), Some("stopped by wallcrawler: it was given up"));
    }
    let left: BTreeSet<_> = fleet.list().await.expect("listed").tasks.into_iter().map(|task| task.container).collect();
    let expected: BTreeSet<_> = listing.tasks[1..5].iter().map(|task| task.container.clone()).collect();
    assert_eq!(left, expected);
}

fn spec() -> LaunchSpec {
    LaunchSpec {
        container_id: ContainerId::random(),
        token: "a token".to_owned(),
        api_endpoint: "https://api.example.com".to_owned(),
        max_sessions: 1,
        warm_browsers: 0,
        heartbeat: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn a_task_that_nobody_knows_is_stopped_if_it_had_its_time_and_is_ours() {
    let moto = Moto::start().await;
    let world = world(&moto, &[]).await;
    let other = Redis::start();
    let of_others = fleet(&moto, &config(&other, &moto.vars()));
    let (stray, foreign) = (spec(), spec());
    world.app.fleet.launch(&stray).await.expect("started");
    of_others.launch(&foreign).await.expect("started");
    world.client("key-one").create().await;
    let ours: String = reserved(&world).await.into_iter().next().expect("reserved");
    come(&world, &ours, 20).await;
    let all = moto.containers().await;
    assert_eq!(all.len(), 3);

    unwatched_no_more(&world).await;
    assert!(look(&world).await.stop.is_empty(), "it is young");
    moto.age_tasks(Duration::from_secs(121));
    // Redis has lost its memory, or nobody has looked: who is known is not known yet.
    let redis = world.redis.client().await;
    redis_command(&redis, &["HSET", "fleet", "watchedSince", &now_ms().to_string()]).await;
    let plan = look(&world).await;
    assert!(plan.stop.is_empty() && plan.wants_watch(), "{plan:?}");
    assert_eq!(moto.containers().await, all);
    unwatched_no_more(&world).await;
    // Not asked anew: what the fleet said last is still to be judged.
    let plan = scaling::tick(&world.app).await.expect("redis answers");
    assert_eq!(plan.stop.iter().map(|task| &task.container).collect::<Vec<_>>(), [&stray.container_id]);
    let left: BTreeSet<_> = moto.containers().await.into_iter().collect();
    assert_eq!(left, [ours, foreign.container_id.to_string()].into());
}

#[tokio::test]
async fn who_waits_for_a_task_is_told_how_long_others_have_taken_to_come() {
    let moto = Moto::start().await;
    let world = world(&moto, &[("MAX_SESSIONS_PER_CONTAINER", "1")]).await;
    let client = world.client("key-one");
    let first = client.create().await;
    let estimate = async |id: &str| client.get(&format!("/sessions/{id}")).await.body["estimatedWaitMs"].as_u64();
    assert_eq!(estimate(&first).await, None, "none has come yet");
    // As if it had been asked for forty seconds ago.
    let id: String = reserved(&world).await.into_iter().next().expect("reserved");
    let redis = world.redis.client().await;
    let deadline = (now_ms() + 80_000).to_string();
    redis_command(&redis, &["ZADD", "containers-starting", &deadline, &id]).await;
    assert_eq!(claimed(&come(&world, &id, 1).await), std::slice::from_ref(&first));

    let second = client.create().await;
    let told = estimate(&second).await.expect("one has come");
    assert!((35_000..=41_000).contains(&told), "{told}");
    contents(&world).await.check();
}

/// Taken out: what `EcsFleet` keeps of its last listing, and there are eight for each that is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_that_fall_silent_together_are_looked_up_in_one_listing_and_stopped() {
    let moto = Moto::start().await;
    let world = world(&moto, &[("MAX_CONTAINERS", "30"), ("MAX_SESSIONS_PER_CONTAINER", "1")]).await;
    create_many(&world, 30).await;
    let ids = moto.containers().await;
    for id in &ids {
        come(&world, id, 1).await;
    }
    let redis = world.redis.client().await;
    let past = (now_ms() - 60_000).to_string();
    for id in &ids {
        redis_command(&redis, &["ZADD", "containers", &past, id]).await;
        redis_command(&redis, &["HSET", &format!("container:{id}"), "lastHeartbeat", &past]).await;
    }
    unwatched_no_more(&world).await;
    let before = moto.listings();
    assert_eq!(scaling::tick(&world.app).await.expect("redis answers").lose.len(), 30);
    // The look itself asks what runs, too; and thirty more are to be started then, by the next one.
    assert_eq!(moto.listings() - before, 16, "eight pages of four tasks each time");
    assert_eq!(moto.containers().await, Vec::<String>::new());
    assert_eq!(contents(&world).await.queue().len(), 30, "nobody had reached them");
    contents(&world).await.check();
}

/// Taken out: the turn in `listing`, and each asks.
#[tokio::test]
async fn of_several_processes_one_asks_what_runs() {
    let moto = Moto::start().await;
    let first = world(&moto, &[]).await;
    let mut apps = vec![first.app.clone()];
    for _ in 0..3 {
        let config = config(&first.redis, &moto.vars());
        let fleet = Box::new(fleet(&moto, &config));
        apps.push(App::boot(config, &first.redis.url(), String::new(), fleet, None).await.expect("boots"));
    }
    for plan in futures_util::future::join_all(apps.iter().map(scaling::tick)).await {
        plan.expect("redis answers");
    }
    assert_eq!(moto.listings(), 1);
}

#[tokio::test]
async fn a_container_whose_task_is_gone_is_lost_and_its_session_waits_again() {
    let moto = Moto::start().await;
    let world = world(&moto, &[]).await;
    let session = world.client("key-one").create().await;
    let id: String = reserved(&world).await.into_iter().next().expect("reserved");
    assert_eq!(claimed(&come(&world, &id, 20).await), std::slice::from_ref(&session));
    moto.end_task(&id).await;
    unwatched_no_more(&world).await;
    let redis = world.redis.client().await;
    let key = format!("container:{id}");
    let (registered, heard) = ((now_ms() - 120_000).to_string(), (now_ms() - 8_000).to_string());
    let hear = async |at: &str| {
        redis_command(&redis, &["ZADD", "containers", at, &id]).await;
        redis_command(&redis, &["HSET", &key, "lastHeartbeat", at]).await;
    };
    hear(&heard).await;
    assert!(look(&world).await.gone.is_empty(), "the listing may not have it yet");
    redis_command(&redis, &["HSET", &key, "startedAt", &registered]).await;
    hear(&now_ms().to_string()).await;
    assert!(look(&world).await.gone.is_empty(), "it is heard");
    hear(&heard).await;
    let plan = look(&world).await;
    assert_eq!(plan.gone.iter().map(ToString::to_string).collect::<Vec<_>>(), [id]);
    let contents = contents(&world).await;
    assert_eq!(contents.queue(), [session]);
    contents.check();
    assert_eq!(plan.start, 1, "and for it another is started");
    assert_eq!(moto.containers().await.len(), 1);
}

#[tokio::test]
async fn tasks_of_a_service_are_containers_too_and_counted_while_they_are_on_their_way() {
    let moto = Moto::start().await;
    let world = world(&moto, &[("ECS_SERVICE_NAME", "browsers"), ("MAX_CONTAINERS", "3")]).await;
    moto.run_service("browsers", 2).await;
    let seen = look(&world).await;
    assert_eq!((seen.expect.len(), seen.start, seen.stop.len()), (2, 0, 0));
    assert!(look(&world).await.is_idle(), "they are expected already");
    create_many(&world, 40).await;
    assert_eq!(moto.run_tasks().len(), 0, "there will be room for forty");
    world.client("key-one").create().await;
    assert_eq!(moto.run_tasks().len(), 1);

    // They are called after their tasks, and come by themselves.
    for task in &seen.expect {
        let arn = task.task.as_deref().expect("an arn");
        assert_eq!(Some(&task.container), ContainerId::of_task(arn).as_ref());
        let id = task.container.as_str();
        let request = json!({
            "containerId": id, "currentSessions": 0, "maxSessions": 20, "sessionIds": [], "address": "127.0.0.1:9",
            "taskArn": arn,
        });
        let answer = world.container(id).post("/sessions/claim", &request).await.body;
        assert_eq!(claimed(&answer).len(), 20);
    }
    assert_eq!(reserved(&world).await.len(), 1, "what was expected has come");
    moto.age_tasks(Duration::from_secs(121));
    unwatched_no_more(&world).await;
    let seen = look(&world).await;
    assert_eq!((seen.expect.len(), seen.stop.len(), seen.gone.len()), (0, 0, 0), "{seen:?}");
    contents(&world).await.check();
}

#[tokio::test]
async fn a_service_that_is_not_there_keeps_nobody_from_looking_after_the_rest() {
    let moto = Moto::start().await;
    let world = world(&moto, &[("ECS_SERVICE_NAME", "misspelt")]).await;
    world.client("key-one").create().await;
    let known = reserved(&world).await;
    moto.age_tasks(Duration::from_secs(121));
    unwatched_no_more(&world).await;
    // Redis has lost its memory: what runs is known to nobody.
    redis_command(&world.redis.client().await, &["DEL", "containers-starting"]).await;
    let seen = look(&world).await;
    assert_eq!(seen.stop.iter().map(|task| task.container.to_string()).collect::<BTreeSet<_>>(), known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_looks_at_the_same_moment_start_no_task_too_many() {
    let moto = Moto::start().await;
    let first = world(&moto, &[]).await;
    // All launches fail at first, so that everything is left to the looks.
    moto.next_run_tasks([Some(Fault::Throttled); 200]);
    create_many(&first, 90).await;
    moto.next_run_tasks([]);
    pause_over(&first).await;
    let before = moto.run_tasks().len();
    assert_eq!(reserved(&first).await.len(), 0);
    let config = config(&first.redis, &moto.vars());
    let fleet = Box::new(fleet(&moto, &config));
    let other = App::boot(config, &first.redis.url(), String::new(), fleet, None).await.expect("boots");
    let looks = (0..4).map(|number| if number % 2 == 0 { scaling::tick(&first.app) } else { scaling::tick(&other) });
    for plan in futures_util::future::join_all(looks).await {
        plan.expect("redis answers");
    }
    assert_eq!(moto.run_tasks().len() - before, 5, "90 sessions, 20 a container");
    assert_eq!(moto.containers().await.len(), 5);
}

/// The built program as Lambda starts it, which finds its way to ECS by the environment alone.
#[cfg(feature = "lambda")]
#[tokio::test(flavor = "multi_thread")]
async fn the_function_starts_tasks_and_never_says_their_tokens() {
    use std::process::Stdio;

    use crate::lambda::{HTTP_API, SCHEDULE, bootstrap, event};
    use crate::runtime_api::RuntimeApi;
    use crate::world::SECRET;

    let moto = Moto::start().await;
    let redis = Redis::start();
    let (api, address) = RuntimeApi::start().await;
    let (url, access) = (redis.url(), moto.access_vars());
    let own = [
        ("ENVIRONMENT", "prod"),
        ("REDIS_ENDPOINT", url.as_str()),
        ("API_KEYS", "key-one"),
        ("JWE_SECRET", SECRET),
        ("CDP_ENDPOINT", "cdp.example.com"),
        ("RUST_LOG", "trace"),
    ];
    let vars = [&own[..], &moto.vars(), &access].concat();
    let log = redis.dir.join("log");
    let stderr = std::fs::File::create(&log).expect("a file");
    let out = stderr.try_clone().expect("a file");
    let mut child = bootstrap::bootstrap(&address, &vars)
        .stdout(Stdio::from(out))
        .stderr(Stdio::from(stderr))
        .spawn()
        .expect("the program is built");
    moto.next_run_tasks([None, Some(Fault::Throttled)]);
    for _ in 0..25 {
        assert_eq!(api.invoke(&event(HTTP_API)).await.expect("an answer")["statusCode"], 201);
    }
    assert_eq!(moto.run_tasks().len(), 2, "the second was refused, and there is a pause");
    eventually(Duration::from_secs(10), async || {
        assert_eq!(api.invoke(&event(SCHEDULE)).await.expect("done")["ok"], true);
        let asked = moto.run_tasks().len();
        if asked == 3 { Ok(()) } else { Err(format!("{asked}")) }
    })
    .await;
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let tasks = moto.tasks().await;
    assert_eq!(tasks.len(), 2);
    let log = std::fs::read_to_string(&log).expect("a log");
    assert!(log.contains("task started") && log.contains("ThrottlingException"), "{log}");
    let told = log.lines().filter(|line| line.starts_with("{\"_aws\""));
    let told: Vec<Value> = told.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let (failures, fleet) = (&told[0], &told[1]);
    assert_eq!((&failures["Kind"], &failures["ContainerStartsFailed"]), (&json!("throttled"), &json!(1)));
    assert_eq!((&fleet["SessionsPending"], &fleet["FailedStartAttempts"]), (&json!(25), &json!(0)));
    for asked in moto.run_tasks() {
        let token = asked["overrides"]["containerOverrides"][0]["environment"][1]["value"].as_str().expect("a token");
        assert!(token.len() > 100 && !log.contains(token), "a token is in the log");
    }
    for task in tasks {
        assert!(!variable(&task, "CONTAINER_TOKEN").is_empty());
    }
}
