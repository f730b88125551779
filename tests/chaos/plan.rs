//! What will happen, drawn from the seed before anything does: which fault strikes when and how hard, and what
//! each client is going to do. How the threads of a dozen processes interleave is not in anybody's hand.

use std::fmt;
use std::time::Duration;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// One stream for each purpose, so that a longer one does not change another.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut random = Self(seed ^ purpose.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn between(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(low_ms + self.below(high_ms - low_ms))
    }

    /// One of them, as often as it weighs.
    fn weighed<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let mut at = self.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in choices {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        unreachable!("it is below the sum")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    RedisKilled,
    RedisRestarted,
    RedisSilent,
    /// Only for writes, and for as long as it takes to audit all that is in it.
    RedisPaused,
    RedisFailover,
    RedisConnectionsCut,
    ServerPartitioned,
    ServerKilled,
    ServerStopped,
    AllServersKilled,
    ContainerKilled,
    ContainerStopped,
    ContainerFrozenBriefly,
    ContainerFrozenTooLong,
    BrowserKilled,
}

/// Faults of one scene follow each other; those of different scenes overlap.
#[derive(Debug, Clone, Copy)]
pub enum Scene {
    Redis,
    Servers,
    Containers,
}

pub const SCENES: [Scene; 3] = [Scene::Redis, Scene::Servers, Scene::Containers];

#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub scene: Scene,
    /// After the end of the fault before it.
    pub pause: Duration,
    pub kind: Kind,
    /// How long it lasts, where it does.
    pub lasts: Duration,
    /// Which of those that it could strike, by their number at that time.
    pub victim: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {:?}, victim {}", self.kind, self.lasts, self.victim % 100)
    }
}

impl Scene {
    fn draw(self, random: &mut Random) -> Fault {
        use Kind::*;
        let (pauses, kinds): (_, &[(u64, Kind)]) = match self {
            Scene::Redis => (
                (1_500, 4_500),
                &[
                    (2, RedisKilled),
                    (1, RedisRestarted),
                    (2, RedisSilent),
                    (2, RedisPaused),
                    (3, RedisFailover),
                    (2, RedisConnectionsCut),
                    (2, ServerPartitioned),
                ],
            ),
            Scene::Servers => ((3_000, 7_000), &[(4, ServerKilled), (3, ServerStopped), (1, AllServersKilled)]),
            Scene::Containers => (
                (600, 2_400),
                &[
                    (3, ContainerKilled),
                    (1, ContainerStopped),
                    (3, ContainerFrozenBriefly),
                    (2, ContainerFrozenTooLong),
                    (4, BrowserKilled),
                ],
            ),
        };
        let kind = random.weighed(kinds);
        let lasts = match kind {
            RedisKilled | RedisRestarted => random.between(50, 2_500),
            RedisSilent => random.between(300, 4_500),
            ServerPartitioned => random.between(300, 6_000),
            ServerKilled | ServerStopped | AllServersKilled => random.between(50, 5_000),
            ContainerFrozenBriefly => random.between(200, 1_500),
            ContainerFrozenTooLong => random.between(4_000, 8_000),
            RedisPaused | RedisFailover | RedisConnectionsCut | ContainerKilled | ContainerStopped | BrowserKilled => {
                Duration::ZERO
            }
        };
        Fault { scene: self, pause: random.between(pauses.0, pauses.1), kind, lasts, victim: random.next() }
    }

    /// The faults of a run of that length. A longer run begins with the same ones.
    pub fn schedule(self, seed: u64, length: Duration) -> Vec<Fault> {
        let mut random = Random::new(seed, 1_000 + self as u64);
        let (mut faults, mut at) = (Vec::new(), Duration::ZERO);
        loop {
            let fault = self.draw(&mut random);
            at += fault.pause;
            if at >= length {
                return faults;
            }
            // A container sleeps while others are struck.
            if !matches!(self, Scene::Containers) {
                at += fault.lasts;
            }
            faults.push(fault);
        }
    }
}

/// What a client does with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Script {
    /// Works, and releases it.
    Releases,
    /// Works, and has the browser close itself.
    ClosesBrowser,
    /// Works, and goes without a word.
    HangsUp,
    /// Works, goes, comes back to the same page (the session is kept alive), and releases it.
    ComesBack,
    /// Creates it, and is never seen again.
    NeverConnects,
    /// Releases it at once.
    ThinksBetter,
    /// Begins to connect, and does not wait for the answer.
    Impatient,
}

#[derive(Debug, Clone, Copy)]
pub struct Act {
    pub script: Script,
    /// Whether the create carries an `Idempotency-Key`.
    pub idempotent: bool,
    /// Whether the first try hangs up before it can have an answer.
    pub hasty: bool,
    pub works: Duration,
    pub away: Duration,
    /// Before the next session.
    pub rests: Duration,
}

impl Act {
    pub fn draw(random: &mut Random) -> Self {
        use Script::*;
        let choices = [
            (6, Releases),
            (2, ClosesBrowser),
            (4, HangsUp),
            (3, ComesBack),
            (1, NeverConnects),
            (1, ThinksBetter),
            (1, Impatient),
        ];
        let script = random.weighed(&choices);
        Self {
            script,
            // One that is kept alive, and that nobody knows of because the answer was lost, would outlive the run.
            idempotent: random.below(3) == 0 || script == ComesBack,
            hasty: random.below(8) == 0,
            works: random.between(100, 2_500),
            away: random.between(100, 3_000),
            rests: random.between(0, 500),
        }
    }
}

/// What a plan is for.
pub fn check(seed: u64) {
    let plan = |seed, seconds| SCENES.map(|scene| format!("{:?}", scene.schedule(seed, Duration::from_secs(seconds))));
    assert_ne!(plan(seed, 60), plan(seed + 1, 60), "another seed is another plan");
    for (short, long) in plan(seed, 60).iter().zip(plan(seed, 90)) {
        assert!(long.starts_with(short.trim_end_matches(']')), "the same seed is the same plan, however long");
    }
}
