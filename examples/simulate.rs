//! A day of traffic over the real scaling plan, in virtual time: how long sessions wait, and what that costs.
//!
//!     cargo run --release --example simulate
//!     cargo run --release --example simulate -- --sessions 100000 --containers 500 --seed 7
//!
//! Sessions come as a Poisson process with the curve of a day, and in bursts. Tasks take 30 to 70 s to start, and one
//! in fifty never does. Containers crash once in two days, and are interrupted once in two, as Spot tasks are: with
//! two minutes' warning. The same arrivals, lengths and faults meet each rule. The same seed gives the same output.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use wallcrawler::container::{Container, FailedStarts, FleetPolicy, FleetSnapshot, Queue};
use wallcrawler::ids::ContainerId;
use wallcrawler::scaling::plan;

const DAY_MS: u64 = 86_400_000;
const SECOND_MS: u64 = 1_000;
const PER_CONTAINER: u64 = 20;
const IDLE_MS: u64 = 300_000;
/// A container that fell silent is given up after that.
const LOST_MS: u64 = 15_000;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// When each session comes, and how long it is used.
fn traffic(sessions: usize, random: &mut Random) -> Vec<(u64, u64)> {
    // A third of them in bursts.
    let mut arrivals: Vec<u64> = Vec::new();
    let mut in_bursts = sessions / 3;
    while in_bursts > 0 {
        let size = (random.between(0.002, 0.01) * sessions as f64) as usize;
        let size = size.clamp(1, in_bursts);
        let at = random.between(0.0, DAY_MS as f64);
        arrivals.extend((0..size).map(|_| at as u64 + random.between(0.0, 2_000.0) as u64));
        in_bursts -= size;
    }
    while arrivals.len() < sessions {
        let at = random.between(0.0, DAY_MS as f64);
        // Quiet at night, most of it in the afternoon.
        let share = 0.5 - 0.5 * (std::f64::consts::TAU * (at / DAY_MS as f64 + 0.08)).cos();
        if random.unit() < 0.1 + 0.9 * share {
            arrivals.push(at as u64);
        }
    }
    arrivals.sort_unstable();
    // Half of them are used for less than three minutes, one in a hundred for more than twenty-four.
    let length = |random: &mut Random| (180_000.0 * (0.9 * random.normal()).exp()).min(3_600_000.0) as u64;
    arrivals.into_iter().map(|at| (at, length(random))).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// What this control plane does.
    Plan {
        warm_slots: u64,
        /// Sessions go to whichever container asks first, and not to the fullest.
        spread: bool,
    },
    /// One task more whenever a session comes and as many are active as the running ones can hold.
    Naive,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival(usize),
    /// A session in a container, under the lease it had then.
    SessionEnd(usize, usize, u32),
    Ready(usize),
    Warned(usize),
    Crash(usize),
    /// The silence of a container is noticed.
    Lost(usize),
    Look,
}

struct Running {
    id: ContainerId,
    sessions: Vec<usize>,
    idle_since: u64,
    started: u64,
    draining: bool,
    dead: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Result {
    waits: Vec<u64>,
    container_ms: u64,
    used_ms: u64,
    tasks: usize,
    peak: usize,
    cut_off: usize,
}

struct Simulation<'a> {
    rule: Rule,
    policy: FleetPolicy,
    traffic: &'a [(u64, u64)],
    random: Random,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    queue: VecDeque<usize>,
    leases: Vec<u32>,
    /// By number, which is also the order in which they were started. Those that are over are gone from it.
    running: HashMap<usize, Running>,
    starting: Vec<(usize, u64, u64)>,
    began: HashMap<usize, u64>,
    next: usize,
    result: Result,
}

impl Simulation<'_> {
    fn at(&mut self, when: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count, event)));
    }

    fn snapshot(&self) -> FleetSnapshot {
        let open = || self.running.values().filter(|container| !container.draining);
        FleetSnapshot {
            watched_since_ms: 0,
            looked_at_ms: 0,
            mended: false,
            failed_starts: FailedStarts::default(),
            queue: Queue { length: self.queue.len() as u64, ..Queue::default() },
            slots: open().count() as u64 * PER_CONTAINER,
            used: open().map(|container| container.sessions.len() as u64).sum(),
            containers: self
                .running
                .values()
                .map(|container| Container {
                    id: container.id.clone(),
                    active_sessions: container.sessions.len() as u64,
                    max_sessions: PER_CONTAINER,
                    // Who has crashed is found by `Lost`, in its time.
                    last_heartbeat_ms: self.now,
                    idle_since_ms: container.idle_since,
                    started_at_ms: container.started,
                    draining: container.draining,
                    launched: true,
                    task_arn: None,
                })
                .collect(),
            starting: self.starting.iter().map(|(number, deadline, _)| (name(*number), *deadline)).collect(),
            servers: Vec::new(),
        }
    }

    /// What create.lua reckons: how many containers are short at this moment.
    fn short(&self) -> u64 {
        let open = self.running.values().filter(|container| !container.draining);
        let free: u64 = open.map(|container| PER_CONTAINER - container.sessions.len() as u64).sum();
        let coming = free + self.starting.len() as u64 * PER_CONTAINER;
        let wanted = self.queue.len() as u64 + self.policy.warm_slots;
        let allowed = self.policy.max_containers.saturating_sub((self.starting.len() + self.running.len()) as u64);
        wanted.saturating_sub(coming).div_ceil(PER_CONTAINER).min(allowed)
    }

    fn launch(&mut self) {
        let there = self.starting.len() + self.running.len();
        assert!((there as u64) < self.policy.max_containers, "never more than there may be");
        let number = self.next;
        self.next += 1;
        self.result.tasks += 1;
        self.result.peak = self.result.peak.max(there + 1);
        let fails = self.random.unit() < 0.02;
        let takes = self.random.between(30.0, 70.0) * 1_000.0;
        self.starting.push((number, self.now + self.policy.start_wait_ms, self.now));
        if !fails {
            self.at(self.now + takes as u64, Event::Ready(number));
        }
    }

    fn claim(&mut self, number: usize) {
        while let Some(container) = self.running.get_mut(&number) {
            if container.draining || container.dead || container.sessions.len() as u64 >= PER_CONTAINER {
                return;
            }
            let Some(session) = self.queue.pop_front() else { return };
            container.sessions.push(session);
            let (came, length) = self.traffic[session];
            self.leases[session] += 1;
            self.began.insert(session, self.now);
            self.result.waits.push(self.now - came);
            self.at(self.now + length, Event::SessionEnd(number, session, self.leases[session]));
        }
    }

    /// Whoever has room asks for work, and the fullest is served first; or whoever happens to ask first.
    fn claim_all(&mut self) {
        let mut open: Vec<usize> =
            self.running.iter().filter(|(_, it)| !it.draining && !it.dead).map(|(n, _)| *n).collect();
        open.sort_unstable();
        while !self.queue.is_empty() && !open.is_empty() {
            let chosen = match self.rule {
                Rule::Plan { spread: false, .. } => {
                    let held = |at: &usize| self.running[&open[*at]].sessions.len();
                    (0..open.len()).max_by_key(held).expect("not empty")
                }
                _ => (self.random.next() % open.len() as u64) as usize,
            };
            let number = open.swap_remove(chosen);
            self.claim(number);
        }
    }

    fn end_session(&mut self, session: usize) {
        let began = self.began.remove(&session).expect("it is served");
        self.result.used_ms += self.now - began;
    }

    fn remove(&mut self, number: usize) {
        if let Some(container) = self.running.remove(&number) {
            self.result.container_ms += self.now - container.started;
            for session in container.sessions {
                self.result.cut_off += 1;
                self.end_session(session);
            }
        }
    }

    fn look(&mut self) {
        let plan = plan(&self.snapshot(), None, &self.policy, self.now);
        for id in &plan.give_back {
            let at = self.starting.iter().position(|(number, ..)| name(*number) == *id).expect("it was reserved");
            let (.., since) = self.starting.remove(at);
            self.result.container_ms += self.now - since;
        }
        if self.rule != Rule::Naive {
            for _ in 0..plan.start {
                self.launch();
            }
        }
        for id in &plan.drain {
            let container = self.running.values_mut().find(|it| it.id == *id).expect("it runs");
            assert!(container.sessions.is_empty(), "a busy container is never drained");
            container.draining = true;
        }
        // Drained and idle: it leaves.
        let mut idle: Vec<usize> = self
            .running
            .iter()
            .filter(|(_, it)| it.draining && !it.dead && it.sessions.is_empty())
            .map(|(n, _)| *n)
            .collect();
        idle.sort_unstable();
        for number in idle {
            self.remove(number);
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrival(session) => {
                let active: u64 = self.running.values().map(|it| it.sessions.len() as u64).sum();
                self.queue.push_back(session);
                match self.rule {
                    Rule::Plan { .. } if self.short() > 0 => self.launch(),
                    Rule::Naive => {
                        let there = (self.running.len() + self.starting.len()) as u64;
                        let full = active >= self.running.len() as u64 * PER_CONTAINER;
                        if full && there < self.policy.max_containers {
                            self.launch();
                        }
                    }
                    Rule::Plan { .. } => {}
                }
                self.claim_all();
            }
            Event::SessionEnd(number, session, lease) => {
                let Some(container) = self.running.get_mut(&number).filter(|it| !it.dead) else { return };
                if self.leases[session] != lease {
                    return;
                }
                container.sessions.retain(|held| *held != session);
                if container.sessions.is_empty() {
                    container.idle_since = self.now;
                }
                self.end_session(session);
                self.claim(number);
            }
            Event::Ready(number) => {
                let Some(at) = self.starting.iter().position(|(starting, ..)| *starting == number) else { return };
                let (.., since) = self.starting.remove(at);
                let container = Running {
                    id: name(number),
                    sessions: Vec::new(),
                    idle_since: self.now,
                    started: since,
                    draining: false,
                    dead: false,
                };
                self.running.insert(number, container);
                let (crash, warned) = (self.random.exponential(2.0), self.random.exponential(2.0));
                self.at(self.now + (crash * DAY_MS as f64) as u64, Event::Crash(number));
                self.at(self.now + (warned * DAY_MS as f64) as u64, Event::Warned(number));
                self.claim(number);
            }
            Event::Warned(number) => {
                if let Some(container) = self.running.get_mut(&number) {
                    container.draining = true;
                    self.at(self.now + 120_000, Event::Lost(number));
                }
            }
            Event::Crash(number) => {
                if let Some(container) = self.running.get_mut(&number).filter(|it| !it.dead) {
                    container.dead = true;
                    self.at(self.now + LOST_MS, Event::Lost(number));
                }
            }
            Event::Lost(number) => self.remove(number),
            Event::Look => {
                self.look();
                self.claim_all();
                let busy = !self.queue.is_empty() || !self.running.is_empty() || !self.starting.is_empty();
                if self.now < DAY_MS || busy {
                    self.at(self.now + SECOND_MS, Event::Look);
                }
            }
        }
    }
}

fn name(number: usize) -> ContainerId {
    format!("ctr-{number:07}").parse().expect("an id")
}

fn run(rule: Rule, traffic: &[(u64, u64)], max_containers: u64, seed: u64) -> Result {
    let warm_slots = if let Rule::Plan { warm_slots, .. } = rule { warm_slots } else { 0 };
    let policy = FleetPolicy {
        sessions_per_container: PER_CONTAINER,
        warm_slots,
        min_containers: 0,
        max_containers,
        start_wait_ms: 120_000,
        idle_ms: IDLE_MS,
        lost_after_ms: LOST_MS,
        blind_after_ms: 5_000,
    };
    let mut simulation = Simulation {
        rule,
        policy,
        traffic,
        random: Random(seed),
        now: 0,
        events: BinaryHeap::new(),
        count: 0,
        queue: VecDeque::new(),
        leases: vec![0; traffic.len()],
        running: HashMap::new(),
        starting: Vec::new(),
        began: HashMap::new(),
        next: 0,
        result: Result::default(),
    };
    for (session, (came, _)) in traffic.iter().enumerate() {
        simulation.at(*came, Event::Arrival(session));
    }
    simulation.at(0, Event::Look);
    // With warm slots something always runs: what is still there when all sessions are over is not counted on.
    while let Some(Reverse((when, _, event))) = simulation.events.pop() {
        if when > DAY_MS && simulation.queue.is_empty() && simulation.began.is_empty() {
            break;
        }
        simulation.now = when;
        simulation.step(event);
    }
    let left: Vec<usize> = simulation.running.keys().copied().collect();
    left.into_iter().for_each(|number| simulation.remove(number));
    assert_eq!(simulation.result.waits.len(), traffic.len(), "everybody was served");
    simulation.result
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments.get(at + 1).and_then(|value| value.parse().ok()).expect("a number"))
    };
    let (sessions, containers, seed) = (given("--sessions", 10_000), given("--containers", 50), given("--seed", 1));
    let traffic = traffic(usize::try_from(sessions).expect("fewer"), &mut Random(seed));
    println!("{sessions} sessions in a day, at most {containers} containers of {PER_CONTAINER}, seed {seed}\n");
    println!(
        "| rule | waited p50 | p95 | p99 | longest | container-hours | used | tasks started | most at once | cut off |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (name, rule) in [
        ("the plan", Rule::Plan { warm_slots: 0, spread: false }),
        ("the plan, `WARM_SLOTS=20`", Rule::Plan { warm_slots: 20, spread: false }),
        ("the plan, `WARM_SLOTS=100`", Rule::Plan { warm_slots: 100, spread: false }),
        ("the plan, `WARM_SLOTS=200`", Rule::Plan { warm_slots: 200, spread: false }),
        ("the plan, not filling the fullest first", Rule::Plan { warm_slots: 0, spread: true }),
        ("one more when full", Rule::Naive),
    ] {
        let mut result = run(rule, &traffic, containers, seed);
        result.waits.sort_unstable();
        let wait = |share: f64| result.waits[((result.waits.len() - 1) as f64 * share) as usize] as f64 / 1_000.0;
        println!(
            "| {name} | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {:.0} | {:.0} % | {} | {} | {} |",
            wait(0.5),
            wait(0.95),
            wait(0.99),
            wait(1.0),
            result.container_ms as f64 / 3_600_000.0,
            100.0 * result.used_ms as f64 / (result.container_ms * PER_CONTAINER) as f64,
            result.tasks,
            result.peak,
            result.cut_off,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Rule = Rule::Plan { warm_slots: 0, spread: false };

    fn day(rule: Rule, seed: u64) -> Result {
        run(rule, &traffic(2_000, &mut Random(seed)), 20, seed)
    }

    /// That everybody was served, and that there were never more containers than there may be, it checks itself.
    #[test]
    fn a_day_repeats_itself_by_its_seed() {
        assert_eq!(day(PLAN, 7), day(PLAN, 7));
        assert_ne!(day(PLAN, 7), day(PLAN, 8));
    }

    #[test]
    fn the_plan_costs_less_than_starting_one_more_when_full_and_the_fullest_first_less_than_spreading() {
        for seed in 1..4 {
            let (plan, naive) = (day(PLAN, seed), day(Rule::Naive, seed));
            assert!(plan.container_ms < naive.container_ms && plan.peak <= naive.peak, "seed {seed}");
            let spread = day(Rule::Plan { warm_slots: 0, spread: true }, seed);
            assert!(plan.container_ms < spread.container_ms, "seed {seed}");
        }
    }
}
