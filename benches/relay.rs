//! The splice against nginx, HAProxy and no relay at all: one hop on loopback, all of them up at once, measured in
//! turns so that a noisy machine is noisy for everybody. `cargo bench --bench relay`; about a minute and a half.
//!
//! The WebSocket server and our relay are this same program run again, so that the relay's processor time and
//! memory are those of a process that does nothing else.

#[path = "relay/endpoint.rs"]
mod endpoint;
#[path = "relay/load.rs"]
mod load;
#[path = "relay/rivals.rs"]
mod rivals;

use std::net::SocketAddr;

use load::Figures;
use rivals::Contender;

const ROUNDS: usize = 3;
/// Tells a copy of this program what to be.
const ROLE: &str = "RELAY_BENCH_ROLE";
/// Where the copy that relays finds the server.
const UPSTREAM: &str = "RELAY_BENCH_UPSTREAM";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    rivals::allow_many_files();
    match wallcrawler::config::env(ROLE).as_deref() {
        Some("server") => endpoint::serve().await,
        Some("relay") => endpoint::relay(wallcrawler::config::env(UPSTREAM).expect("an upstream")).await,
        _ => compare().await,
    }
}

async fn compare() {
    let (_server, upstream) = rivals::copy_of_this("server", None);
    let contenders = rivals::all(upstream).await;
    let mut results: Vec<Vec<Figures>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut idle_kb = Vec::new();
    for contender in &contenders {
        idle_kb.push(match contender {
            Contender::Running { address, process, .. } => load::idle_memory_kb(*address, *process).await,
            Contender::Missing { .. } => None,
        });
    }
    for round in 0..ROUNDS {
        for (contender, results) in contenders.iter().zip(&mut results) {
            if let Contender::Running { address, process, name, .. } = contender {
                eprintln!("round {} of {ROUNDS}: {name}", round + 1);
                results.push(measure(*address, *process).await);
            }
        }
    }
    print_table(&contenders, &results, &idle_kb);
}

async fn measure(address: SocketAddr, process: Option<u32>) -> Figures {
    let (messages_per_s, cpu_per_100k) = load::ping_pong(address, process).await;
    let (mb_per_s, cpu_per_gb) = load::download(address, process).await;
    let connections_per_s = load::new_connections(address).await;
    Figures { messages_per_s, mb_per_s, connections_per_s, cpu_per_100k, cpu_per_gb }
}

/// Which figure, whether more of it is better, and how many decimals it is told with.
type Column = (fn(&Figures) -> f64, bool, usize);

fn print_table(contenders: &[Contender], results: &[Vec<Figures>], idle_kb: &[Option<f64>]) {
    println!("\nmedians of {ROUNDS} rounds, one hop on loopback; in brackets the ratio to the best relay\n");
    println!(
        "| {:<10} | {:>16} | {:>14} | {:>15} | {:>17} | {:>13} | {:>16} |",
        "", "messages/s", "1 MiB, MB/s", "connections/s", "CPU s/100k msgs", "CPU s/GB", "KB/idle conn."
    );
    println!("|{:-<12}|{:->18}|{:->16}|{:->17}|{:->19}|{:->15}|{:->18}|", "", ":", ":", ":", ":", ":", ":");
    let columns: [Column; 5] = [
        (|figures| figures.messages_per_s, true, 0),
        (|figures| figures.mb_per_s, true, 0),
        (|figures| figures.connections_per_s, true, 0),
        (|figures| figures.cpu_per_100k, false, 2),
        (|figures| figures.cpu_per_gb, false, 2),
    ];
    let medians: Vec<Vec<f64>> = results
        .iter()
        .map(|rounds| columns.iter().filter_map(|(figure, ..)| load::median(rounds.iter().map(figure))).collect())
        .collect();
    let is_relay = |index: usize| matches!(contenders[index], Contender::Running { process: Some(_), .. });
    let best = |more_is_better: bool, values: &mut dyn Iterator<Item = f64>| {
        values.reduce(if more_is_better { f64::max } else { f64::min }).unwrap_or(f64::NAN)
    };
    for (index, contender) in contenders.iter().enumerate() {
        match contender {
            Contender::Missing { name } => println!("| {name:<10} | not installed |"),
            Contender::Running { name, .. } => {
                let mut row = format!("| {name:<10} |");
                for (column, (_, more_is_better, decimals)) in columns.iter().enumerate() {
                    let value = medians[index][column];
                    let mut relays = (0..contenders.len()).filter(|i| is_relay(*i)).map(|i| medians[i][column]);
                    let ratio = value / best(*more_is_better, &mut relays);
                    row += &match (is_relay(index), *more_is_better) {
                        (false, false) => format!(" {:>12} |", ""),
                        _ => format!(" {value:>9.decimals$} ({ratio:.2}) |"),
                    };
                }
                if let Some(kb) = idle_kb[index] {
                    let ratio = kb / best(false, &mut idle_kb.iter().flatten().copied());
                    row += &format!(" {kb:>9.1} ({ratio:.2}) |");
                }
                println!("{row}");
            }
        }
    }
}
