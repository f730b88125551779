//! Everything at once: sessions come and go while servers, containers, browsers and Redis are killed, frozen, cut off
//! and replaced. Afterwards every session must have been served or ended with a reason, by one container at a
//! time, and nothing may be left of anything.
//!
//!     make chaos                      5 minutes, another seed each time
//!     SECONDS=30 SEED=7 make chaos
//!
//! The faults and what the clients do are drawn from the seed before the run begins ([`plan`]). How a dozen processes
//! on a few cores interleave is not: the same seed repeats the same storm, not the same instructions.

#[path = "../common/audit.rs"]
#[allow(dead_code)]
mod audit;
#[path = "../common/cdp.rs"]
#[allow(dead_code)]
mod cdp;
mod client;
mod forwarder;
mod plan;
#[path = "../common/processes.rs"]
#[allow(dead_code)]
mod processes;
mod stage;
mod stand_in;
mod verdict;
#[path = "../common/world.rs"]
#[allow(dead_code)]
mod world;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::time::sleep;
use wallcrawler::clock::now_ms;

use crate::client::{Client, KEYS, Ledger};
use crate::plan::{Act, Random, SCENES};
use crate::stage::{Stage, StandBy};
use crate::verdict::Verdict;

/// As part of the tests.
const SHORT_SECONDS: u64 = 20;
const CLIENTS: u64 = 20;
/// What the second user asks for at once, every few seconds.
const BURST: u64 = 8;
const BETWEEN_BURSTS: Duration = Duration::from_secs(6);
const BETWEEN_LISTS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if stand_in::is_meant(std::env::args()) {
        stand_in::run();
        return ExitCode::SUCCESS;
    }
    // Processes are read from /proc.
    if !cfg!(target_os = "linux") {
        return ExitCode::SUCCESS;
    }
    // `cargo test NAME` runs what is called so, in every target.
    if std::env::args().skip(1).any(|arg| !arg.starts_with('-') && !"chaos".contains(&arg)) {
        return ExitCode::SUCCESS;
    }
    let number = |name: &str| wallcrawler::config::env(name).and_then(|text| text.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or_else(|| now_ms() % 1_000_000);
    let length = Duration::from_secs(number("SECONDS").unwrap_or(SHORT_SECONDS));
    plan::check(seed);
    let StandBy { containers, slots } = StandBy::of(seed);
    println!(
        "chaos for {length:?}, with {containers} containers and {slots} slots to stand by; SECONDS={} SEED={seed} make chaos repeats it",
        length.as_secs()
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let unscathed = runtime.block_on(run(seed, length));
    runtime.shutdown_background();
    if unscathed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(seed: u64, length: Duration) -> bool {
    let (stage, ledger) = (Arc::new(Stage::set(StandBy::of(seed)).await), Arc::new(Ledger::default()));
    let began = Instant::now();
    let goes_on = || began.elapsed() < length && !ledger.has_seen_enough();

    // On a thread of their own: they block now and then, and what clients wait for is measured.
    let (striking, noting, handle) = (Arc::clone(&stage), Arc::clone(&ledger), Handle::current());
    let faults = tokio::task::spawn_blocking(move || {
        handle.block_on(join_all(SCENES.map(async |scene| {
            for fault in scene.schedule(seed, length) {
                sleep(fault.pause).await;
                if began.elapsed() >= length || noting.has_seen_enough() {
                    break;
                }
                survived(&noting, &format!("{fault}"), striking.strike(&fault)).await;
            }
        })))
    });
    let clients = join_all((0..CLIENTS).map(async |number| {
        let mut client = Client::new(&stage, &ledger, seed, number, KEYS[0]);
        while goes_on() {
            let act = Act::draw(&mut client.random);
            let name = format!("{} with {act:?}", client.name);
            survived(&ledger, &name, client.act(&act)).await;
            sleep(act.rests).await;
        }
    }));
    let bursts = async {
        let mut random = Random::new(seed, 100);
        while goes_on() {
            let acts: Vec<(u64, Act)> = (0..BURST).map(|_| (random.next(), Act::draw(&mut random))).collect();
            let wave = join_all(acts.into_iter().map(async |(number, act)| {
                let mut client = Client::new(&stage, &ledger, seed, number, KEYS[1]);
                survived(&ledger, &format!("{} with {act:?}", client.name), client.act(&act)).await;
            }));
            tokio::join!(wave, sleep(BETWEEN_BURSTS));
        }
    };
    let lists = join_all(KEYS.iter().zip(50..).map(async |(key, number)| {
        let mut client = Client::new(&stage, &ledger, seed, number, key);
        while goes_on() {
            client.list().await;
            sleep(BETWEEN_LISTS).await;
        }
    }));
    let storm = async { tokio::join!(faults, clients, bursts, lists) };
    tokio::select! {
        (faults, ..) = storm => drop(faults.expect("no panic")),
        () = stage.keep_by_hand() => unreachable!("it goes on for ever"),
    }
    stage.note("the storm is over".to_owned());
    println!("the storm was over, and the last client done, after {:.1} s", began.elapsed().as_secs_f64());
    survived(&ledger, "the calm after it", settle(&stage, StandBy::of(seed))).await;

    let verdict = Verdict::new(&stage, &ledger, stage.contents().await);
    verdict.reach();
    verdict.print();
    let violations = ledger.violations.lock().expect("not poisoned");
    println!(
        "\n{} after {:.1} s",
        if violations.is_empty() { "all is well" } else { "NOT WELL" },
        began.elapsed().as_secs_f64()
    );
    let log = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos.log");
    if std::fs::write(&log, stage.log_lines().join("\n")).is_ok() {
        println!("what all processes have logged: {}", log.display());
    }
    if !violations.is_empty() {
        report(&stage, &verdict, &violations, seed, length);
    }
    violations.is_empty()
}

/// What must come by itself once nothing is done any more; then all is ended in order.
async fn settle(stage: &Stage, stand_by: StandBy) {
    let calm = Instant::now();
    if stand_by.containers > 0 {
        stands_by(stage, stand_by).await;
        let StandBy { containers, slots } = stand_by;
        println!(
            "every session had ended, and {containers} containers stood by with {slots} slots or more, {:.1} s later",
            calm.elapsed().as_secs_f64()
        );
        stage.stand_down().await;
    }
    world::eventually(stage::PATIENCE, async || {
        sleep(Duration::from_millis(250)).await;
        let contents = stage.contents().await;
        let sessions = contents.sessions();
        let live: Vec<_> = sessions.iter().filter(|(_, hash)| hash["status"] != "ended").collect();
        let containers = stage.containers().into_iter().filter(|(name, _)| !name.starts_with("ctr-real"));
        let containers: Vec<_> = containers.collect();
        let servers = &contents.sorted["servers"];
        if live.is_empty() && containers.is_empty() && servers.len() == stage::SERVERS {
            return Ok(());
        }
        Err(format!("sessions {live:?}, containers {containers:?}, servers {servers:?}"))
    })
    .await;
    println!(
        "every session had ended, and every container that was started, {:.1} s later",
        calm.elapsed().as_secs_f64()
    );
    stage.end_by_hand().await;
    stage.end_servers().await;
    stage.sweep_orphans().await;
    world::eventually(stage::PATIENCE, async || {
        let (processes, files) = stage.left();
        if processes.is_empty() && files.is_empty() {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
        Err(format!("processes {processes:#?}, files {files:#?}"))
    })
    .await;
}

/// As many containers as are to stand by, no more, and all of them there.
async fn stands_by(stage: &Stage, stand_by: StandBy) {
    world::eventually(stage::PATIENCE, async || {
        sleep(Duration::from_millis(250)).await;
        let contents = stage.contents().await;
        let live = contents.sessions().values().filter(|hash| hash["status"] != "ended").count();
        let registered: Vec<String> = contents.members("containers").into_iter().collect();
        let slots: usize = registered
            .iter()
            .map(|id| contents.hashes[&format!("container:{id}")]["maxSessions"].parse::<usize>().expect("a number"))
            .sum();
        let starting = contents.members("containers-starting").len();
        let running: BTreeSet<String> = stage.containers().into_iter().map(|(directory, _)| directory).collect();
        let all_run = running == registered.iter().map(|id| stage::directory(id).to_owned()).collect();
        if live == 0 && starting == 0 && registered.len() == stand_by.containers && slots >= stand_by.slots && all_run {
            return Ok(());
        }
        Err(format!("{live} sessions, containers {registered:?} and {starting} that start, processes {running:?}"))
    })
    .await;
}

/// A panic is a violation, not the end of the run.
async fn survived(ledger: &Ledger, what: &str, doing: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(doing).catch_unwind().await {
        let text = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        ledger.violation(None, format!("{what}: {}", text.unwrap_or_default()));
    }
}

fn report(stage: &Stage, verdict: &Verdict<'_>, violations: &[(Option<String>, String)], seed: u64, length: Duration) {
    const SHOWN: usize = 5;
    println!("\nwhat was done:");
    for event in stage.events.lock().expect("not poisoned").iter() {
        println!("  {:>8.3} s  {}", event.at.as_secs_f64(), event.what);
    }
    let mut sessions: Vec<&String> = violations.iter().filter_map(|(id, _)| id.as_ref()).collect();
    sessions.dedup();
    sessions.iter().take(SHOWN).for_each(|id| verdict.history(id));
    println!("\n{} violations:", violations.len());
    for (id, what) in violations {
        println!("  {}{what}", id.as_ref().map(|id| format!("{id}: ")).unwrap_or_default());
    }
    println!("SECONDS={} SEED={seed} make chaos repeats it", length.as_secs());
}
