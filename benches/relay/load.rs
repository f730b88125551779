//! The load, and what it costs the process in between.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use wallcrawler::upgrade::{Leg, dial};

use super::endpoint::{CLIENT_FRAME, LARGE_FRAME, MESSAGE, SERVER_FRAME};

const CONNECTIONS: usize = 16;
/// What `/proc` counts processor time in; the same on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
const IDLE_CONNECTIONS: usize = 1_000;
const PING_PONG: Duration = Duration::from_secs(3);
const DOWNLOAD: Duration = Duration::from_secs(2);
const CONNECTING: Duration = Duration::from_millis(1_500);

/// One round's. `NaN` where there is no relay whose cost could be measured.
pub struct Figures {
    pub messages_per_s: f64,
    pub mb_per_s: f64,
    pub connections_per_s: f64,
    /// Of the relay's processor time, user and system.
    pub cpu_per_100k: f64,
    pub cpu_per_gb: f64,
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

async fn open(address: SocketAddr, path: &str) -> Leg {
    dial(&address.to_string(), path, &[], Duration::from_secs(10)).await.expect("a WebSocket")
}

/// Each connection sends its next message when the last one was answered. Messages count in both directions.
pub async fn ping_pong(address: SocketAddr, process: Option<u32>) -> (f64, f64) {
    let mut frame = [0; CLIENT_FRAME];
    frame[..2].copy_from_slice(&[0x81, 0x80 | MESSAGE as u8]);
    let mut legs = Vec::new();
    for _ in 0..CONNECTIONS {
        legs.push(open(address, "/echo").await);
    }
    let (started, cpu) = (Instant::now(), cpu_seconds(process));
    let until = started + PING_PONG;
    let mut clients = JoinSet::new();
    for mut leg in legs {
        clients.spawn(async move {
            let (mut messages, mut answer) = (0u64, [0; SERVER_FRAME]);
            while Instant::now() < until {
                leg.stream.write_all(&frame).await.expect("open");
                leg.stream.read_exact(&mut answer).await.expect("open");
                messages += 2;
            }
            messages
        });
    }
    let messages = clients.join_all().await.into_iter().sum::<u64>() as f64;
    let cpu = cpu_seconds(process) - cpu;
    (messages / started.elapsed().as_secs_f64(), cpu / messages * 100_000.0)
}

/// One connection, as many large messages as it takes.
pub async fn download(address: SocketAddr, process: Option<u32>) -> (f64, f64) {
    let mut leg = open(address, "/source").await;
    let mut buffer = vec![0; 256 * 1024];
    let (started, cpu) = (Instant::now(), cpu_seconds(process));
    let mut received = leg.read_ahead.len();
    while started.elapsed() < DOWNLOAD || !received.is_multiple_of(LARGE_FRAME) {
        let room = (LARGE_FRAME - received % LARGE_FRAME).min(buffer.len());
        received += leg.stream.read(&mut buffer[..room]).await.expect("open");
    }
    let cpu = cpu_seconds(process) - cpu;
    (received as f64 / 1e6 / started.elapsed().as_secs_f64(), cpu / received as f64 * 1e9)
}

/// Opened, shaken hands, and dropped.
pub async fn new_connections(address: SocketAddr) -> f64 {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut opened = 0u64;
            while started.elapsed() < CONNECTING {
                let leg = open(address, "/echo").await;
                // With a reset, or the ports would run out while they wait.
                let _ = socket2::SockRef::from(&leg.stream).set_linger(Some(Duration::ZERO));
                opened += 1;
            }
            opened
        });
    }
    clients.join_all().await.into_iter().sum::<u64>() as f64 / started.elapsed().as_secs_f64()
}

/// What each of many idle connections adds to a relay that has just started.
pub async fn idle_memory_kb(address: SocketAddr, process: Option<u32>) -> Option<f64> {
    process?;
    drop(open(address, "/echo").await);
    let before = resident_kb(process);
    let mut idle = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        idle.push(open(address, "/echo").await);
    }
    Some((resident_kb(process) - before) / IDLE_CONNECTIONS as f64)
}

/// The process and its children: nginx and HAProxy work in those.
fn family(process: Option<u32>) -> Vec<u32> {
    let Some(parent) = process else { return Vec::new() };
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([parent]).collect()
}

fn cpu_seconds(process: Option<u32>) -> f64 {
    if process.is_none() {
        return f64::NAN;
    }
    let ticks = family(process).into_iter().filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): after the command in brackets come the 3rd and further fields; 14 and 15 are the times.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
    });
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

fn resident_kb(process: Option<u32>) -> f64 {
    let sizes = family(process).into_iter().filter_map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse::<f64>().ok()
    });
    sizes.sum()
}
