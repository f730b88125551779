//! Two hundred sessions, and everything that can happen to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::{Mutex, Notify, Semaphore};
use wallcrawler::app::App;
use wallcrawler::clock::now_ms;
use wallcrawler::ids::SessionId;
use wallcrawler::lifecycle;
use wallcrawler::server::Server;
use wallcrawler::session::NewSession;
use wallcrawler::store;

use crate::cdp::Cdp;
use crate::processes;
use crate::scene::{CROWD, PATIENCE, PROGRAM, Scene};
use crate::world::eventually;

const SESSIONS: usize = 200;
/// More than four containers of ten can take, so that there always is a queue.
const AT_ONCE: usize = 50;
/// Those whose clients stay until their containers are killed.
const STAYING: [usize; 2] = [60, 130];
/// For a session's whole life. A browser has 60 s to start (a start that hangs is tried again after 20), then nobody
/// connects for 20, and before all that it may have waited in the queue: what takes longer than this is stuck.
const LIFE: Duration = Duration::from_secs(120);
/// How often a session is looked at until it has ended.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Released,
    Disconnects,
    Crashes,
    NeverConnected,
    TimesOut,
    Abandoned,
    /// Until its container is killed.
    Stays,
}

impl Fate {
    const USUAL: [Fate; 6] =
        [Fate::Released, Fate::Disconnects, Fate::Abandoned, Fate::Crashes, Fate::NeverConnected, Fate::TimesOut];

    fn reason(self) -> &'static str {
        match self {
            Fate::Released | Fate::Abandoned => "released",
            Fate::Disconnects => "disconnected",
            Fate::Crashes => "browser_crashed",
            Fate::NeverConnected => "never_connected",
            Fate::TimesOut => "timeout",
            Fate::Stays => "container_lost",
        }
    }
}

async fn create(app: &App, fate: Fate) -> String {
    let new = NewSession {
        id: SessionId::random(),
        user_id: app.api_keys.get(now_ms()).await.expect("keys").find("key-one").expect("a key").user.clone(),
        project: None,
        timeout_ms: if fate == Fate::TimesOut { 2_000 } else { 600_000 },
        keep_alive: false,
        extension: None,
        browser_settings: serde_json::Map::new(),
        proxy_credentials: None,
        user_metadata: [("stays".to_owned(), Value::from(fate == Fate::Stays))].into_iter().collect(),
    };
    // On two cores full of browsers Redis may be too slow for once. That is a 503, and a client comes again; what
    // the first try may have left is for the server to undo.
    for _ in 0..10 {
        match lifecycle::create(app, &NewSession { id: SessionId::random(), ..new.clone() }, None, &app.limits).await {
            Ok(store::Created::New { session, .. }) => return session.id.to_string(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => println!("a create is tried again: {error}"),
        }
    }
    panic!("ten creates in a row were refused");
}

/// What the client does. An error: its container was killed under it.
async fn client(scene: &Scene, id: &str, fate: Fate, stays: &Notify) -> Result<(), String> {
    let url = scene.get(id).await["connectUrl"].as_str().map(str::to_owned);
    let idle = matches!(fate, Fate::NeverConnected | Fate::TimesOut | Fate::Abandoned);
    let Some(url) = url.filter(|_| !idle) else {
        return Ok(());
    };
    let mut cdp = Cdp::connect_patiently(&url).await.map_err(|error| error.to_string())?;
    let browser = cdp.browser_process().await?;
    cdp.try_evaluate("6 * 7").await?;
    match fate {
        Fate::Crashes => processes::kill(browser),
        Fate::Released => scene.release(id).await,
        Fate::Stays => stays.notify_one(),
        _ => return Ok(()),
    }
    let (code, reason) = cdp.closed(PATIENCE).await;
    let expected = if fate == Fate::Released { 4002 } else { 4003 };
    if code == expected && reason.starts_with(fate.reason()) {
        Ok(())
    } else {
        Err(format!("closed with {code} {reason}"))
    }
}

async fn live(scene: &Scene, app: &App, fate: Fate, stays: &Notify) -> (Fate, Value, Result<(), String>) {
    let id = create(app, fate).await;
    if fate == Fate::Abandoned {
        scene.release(&id).await;
    }
    let heard = client(scene, &id, fate, stays).await;
    let deadline = Instant::now() + LIFE;
    loop {
        let session = scene.get(&id).await;
        if session["status"] == "ended" {
            return (fate, session, heard);
        }
        if Instant::now() >= deadline {
            let mut hashes = scene.contents().await.hashes;
            panic!("{fate:?}: {:?}, {heard:?}, at {}", hashes.remove(&format!("session:{id}")), now_ms());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The container of the session whose client stays.
async fn staying(scene: &Scene) -> String {
    eventually(PATIENCE, async || {
        tokio::time::sleep(LOOK).await;
        let active = scene.api("GET", "/sessions?status=active&limit=100", &Value::Null).await.body;
        let sessions = active["sessions"].as_array().expect("a list").iter();
        let stays = |session: &&Value| session["userMetadata"]["stays"] == true && session["activeConnections"] == 1;
        let container = sessions.filter(stays).find_map(|session| session["containerId"].as_str().map(str::to_owned));
        container.ok_or_else(|| "nobody stays".to_owned())
    })
    .await
}

/// The containers' directories, and their processes.
fn containers(root: &Path) -> BTreeMap<String, u32> {
    let owner = |dir: std::fs::DirEntry| {
        let text = std::fs::read_to_string(dir.path().join("owner.pid")).ok()?;
        Some((dir.file_name().into_string().ok()?, text.split_whitespace().next()?.parse().ok()?))
    };
    std::fs::read_dir(root).into_iter().flatten().flatten().filter_map(owner).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_sessions_leave_nothing_behind_whatever_became_of_them() {
    let _crowd = CROWD.lock().await;
    let scene = Arc::new(
        Scene::empty(&[
            ("MAX_CONTAINERS", "4"),
            ("MAX_SESSIONS_PER_CONTAINER", "10"),
            ("NEVER_CONNECTED_SECONDS", "20"),
            ("SESSION_RETENTION_SECONDS", "10"),
            ("CONTAINER_IDLE_SECONDS", "2"),
            ("RUST_LOG", "error"),
        ])
        .await,
    );
    let server = Server::start(scene.config(), PROGRAM.into()).await.expect("it starts");
    let app = server.app.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { stopped.await.expect("asked") }));

    let root = scene.tmp().join("wallcrawler");
    let began = Instant::now();
    let (stays, places, turn) = (Notify::new(), Semaphore::new(AT_ONCE), Mutex::new(()));
    let sessions = join_all((0..SESSIONS).map(async |number| {
        let _place = places.acquire().await.expect("never closed");
        if STAYING.contains(&number) {
            let _turn = turn.lock().await;
            return live(&scene, &app, Fate::Stays, &stays).await;
        }
        live(&scene, &app, Fate::USUAL[number % Fate::USUAL.len()], &stays).await
    }));
    let killing = async {
        let mut killed = Vec::new();
        for _ in STAYING {
            stays.notified().await;
            let victim = staying(&scene).await;
            let mut all = containers(&root).into_iter();
            let (name, process) = all.find(|(name, _)| victim.ends_with(name.as_str())).expect("its directory");
            processes::kill(process);
            killed.push(name);
        }
        killed
    };
    let (lives, killed) = tokio::join!(sessions, killing);
    println!("{} sessions ended after {:?}; killed: {killed:?}", lives.len(), began.elapsed());

    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (fate, session, heard) in &lives {
        let reason = session["endReason"].as_str().expect("a reason");
        *reasons.entry(reason).or_default() += 1;
        let container = session["containerId"].as_str().unwrap_or("none");
        if reason == "container_lost" {
            assert!(killed.iter().any(|name| container.ends_with(name.as_str())), "{fate:?} in {container}: {session}");
            assert!(*fate != Fate::Stays || *heard == Ok(()), "{session}, {heard:?}");
        } else {
            assert_eq!(reason, fate.reason(), "{fate:?} in {container}: {session}, {heard:?}");
            assert_eq!(*heard, Ok(()), "{fate:?}: {session}");
        }
    }
    println!("{reasons:?}");
    assert_eq!(lives.len(), SESSIONS);
    assert_eq!(killed.len(), 2);

    // Idle containers are drained, and what is kept for a while is forgotten.
    let drained = Instant::now();
    eventually(PATIENCE, async || {
        let contents = scene.contents().await;
        let keys: Vec<&String> = contents
            .hashes
            .keys()
            .chain(contents.sets.keys())
            .chain(contents.sorted.keys())
            .chain(contents.lists.keys())
            .chain(&contents.texts)
            .collect();
        let left = processes::browsers(&root).len();
        tokio::time::sleep(LOOK).await;
        // What a user has used up is never forgotten. The server that still runs is one of `servers`; what looks have
        // decided can be asked for a week.
        if keys == ["fleet", "usage", "servers", "fleet-decisions"] && left == 0 {
            Ok(())
        } else {
            Err(format!("{keys:?}, {left} browsers"))
        }
    })
    .await;
    scene.contents().await.check();
    eventually(PATIENCE, async || {
        let left = containers(&root);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    println!("all was gone after another {:?}", drained.elapsed());
    assert_eq!(app.fleet.list().await.expect("it is known").tasks, []);
    stop.send(()).expect("it runs");
    running.await.expect("no panic").expect("a clean end");
    Arc::into_inner(scene).expect("nobody else has it").finish().await;
}
