//! Puts the messages of one client back in the order in which it sent them. Pure: now is a parameter.
//!
//! The messages of one client are carried by Lambdas that run at the same time and overtake each other. Playwright,
//! Puppeteer and Stagehand number the commands on a socket 1, 2, 3, ...; so one that comes too early waits for those
//! before it, but not for ever: a client may number as it likes, and Chrome does not mind.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

/// How long a missing message is waited for, from when the first beyond it came: the cold start of a Lambda.
pub const GAP_WAIT: Duration = Duration::from_secs(2);
/// After so many gaps in a row that nothing ever filled, the client does not number 1, 2, 3.
const GAPS_BEFORE_IMPATIENCE: u32 = 3;
/// What may wait behind a gap. Beyond it the gap is not waited for any longer.
const HELD_MESSAGES: usize = 256;
const HELD_BYTES: usize = 1 << 20;
/// How many messages are known again. A message is brought again within seconds.
const REMEMBERED: usize = 4_096;
/// How many skipped gaps are remembered.
const SKIPPED: usize = 64;

struct Early {
    text: String,
    came: Instant,
}

pub struct Resequencer {
    /// The number of the command that is to come next.
    next: i64,
    early: BTreeMap<i64, Early>,
    early_bytes: usize,
    skipped: VecDeque<RangeInclusive<i64>>,
    /// Gaps that were skipped since one was last filled.
    unfilled: u32,
    seen: HashSet<String>,
    seen_in_order: VecDeque<String>,
}

impl Default for Resequencer {
    fn default() -> Self {
        Self::new()
    }
}

impl Resequencer {
    pub fn new() -> Self {
        Self {
            next: 1,
            early: BTreeMap::new(),
            early_bytes: 0,
            skipped: VecDeque::new(),
            unfilled: 0,
            seen: HashSet::new(),
            seen_in_order: VecDeque::new(),
        }
    }

    /// Takes a message and returns what is to go to the browser now. `number` is the command's `id`, if it has one.
    pub fn take(&mut self, message_id: &str, number: Option<i64>, text: String, now: Instant) -> Vec<String> {
        if !self.is_new(message_id) {
            return Vec::new();
        }
        let Some(number) = number.filter(|&number| number >= self.next && !self.early.contains_key(&number)) else {
            // No number, one that was passed over, or one that was there already: nothing to wait for. What the
            // client meant by it is Chrome's to judge.
            if number.is_some_and(|number| self.skipped.iter().any(|gap| gap.contains(&number))) {
                self.unfilled = 0;
            }
            return vec![text];
        };
        let fills_a_gap = number == self.next && !self.early.is_empty();
        if fills_a_gap {
            self.unfilled = 0;
        }
        self.early_bytes += text.len();
        self.early.insert(number, Early { text, came: now });
        let mut out = self.in_order();
        while self.must_not_wait() {
            self.skip_gap();
            out.append(&mut self.in_order());
        }
        out
    }

    /// When [`Self::overdue`] has something to say, if nothing comes before.
    pub fn due(&self) -> Option<Instant> {
        self.early.values().map(|early| early.came).min().map(|came| came + GAP_WAIT)
    }

    /// What has waited long enough.
    pub fn overdue(&mut self, now: Instant) -> Vec<String> {
        let mut out = Vec::new();
        while self.due().is_some_and(|due| due <= now) {
            self.skip_gap();
            out.append(&mut self.in_order());
        }
        out
    }

    /// All that waits, in order: nothing more will come.
    pub fn give_up(&mut self) -> Vec<String> {
        self.early_bytes = 0;
        std::mem::take(&mut self.early).into_values().map(|early| early.text).collect()
    }

    fn in_order(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(early) = self.early.remove(&self.next) {
            self.early_bytes -= early.text.len();
            self.next = self.next.saturating_add(1);
            out.push(early.text);
        }
        out
    }

    fn must_not_wait(&self) -> bool {
        !self.early.is_empty()
            && (self.unfilled >= GAPS_BEFORE_IMPATIENCE
                || self.early.len() > HELD_MESSAGES
                || self.early_bytes > HELD_BYTES)
    }

    fn skip_gap(&mut self) {
        let Some((&first, _)) = self.early.first_key_value() else { return };
        self.skipped.push_back(self.next..=first - 1);
        if self.skipped.len() > SKIPPED {
            self.skipped.pop_front();
        }
        self.next = first;
        self.unfilled = self.unfilled.saturating_add(1);
    }

    fn is_new(&mut self, message_id: &str) -> bool {
        if !self.seen.insert(message_id.to_owned()) {
            return false;
        }
        self.seen_in_order.push_back(message_id.to_owned());
        if self.seen_in_order.len() > REMEMBERED
            && let Some(oldest) = self.seen_in_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn send(order: &mut Resequencer, number: i64, now: Instant) -> Vec<String> {
        order.take(&format!("m{number}"), Some(number), number.to_string(), now)
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn what_comes_in_order_goes_at_once_and_what_comes_too_early_waits() {
        let (mut order, now) = (Resequencer::new(), Instant::now());
        assert_eq!(send(&mut order, 1, now), ["1"]);
        assert_eq!(send(&mut order, 4, now), [""; 0]);
        assert_eq!(send(&mut order, 3, now), [""; 0]);
        assert_eq!(send(&mut order, 2, now), ["2", "3", "4"]);
        assert_eq!(order.due(), None);
        assert_eq!(send(&mut order, 5, now), ["5"]);
    }

    #[test]
    fn a_gap_is_waited_for_from_the_first_message_beyond_it_and_then_skipped() {
        let (mut order, start) = (Resequencer::new(), Instant::now());
        send(&mut order, 1, start);
        send(&mut order, 3, start);
        send(&mut order, 4, start + seconds(1.9));
        send(&mut order, 6, start + seconds(1.9));
        assert_eq!(order.due(), Some(start + GAP_WAIT));
        assert_eq!(order.overdue(start + seconds(1.999)), [""; 0]);
        assert_eq!(order.overdue(start + GAP_WAIT), ["3", "4"]);
        assert_eq!(order.due(), Some(start + seconds(3.9)), "the next gap has a wait of its own");
        assert_eq!(send(&mut order, 2, start + seconds(3.0)), ["2"], "late, and not lost");
        assert_eq!(order.overdue(start + seconds(3.9)), ["6"]);
    }

    #[test]
    fn a_message_that_is_brought_again_is_dropped() {
        let (mut order, now) = (Resequencer::new(), Instant::now());
        assert_eq!(send(&mut order, 1, now), ["1"]);
        assert_eq!(send(&mut order, 1, now), [""; 0]);
        assert_eq!(send(&mut order, 3, now), [""; 0]);
        assert_eq!(send(&mut order, 3, now), [""; 0]);
        assert_eq!(send(&mut order, 2, now), ["2", "3"]);
        for n in 0..2 * REMEMBERED {
            order.take(&format!("n{n}"), None, String::new(), now);
        }
        assert_eq!((order.seen.len(), order.seen_in_order.len()), (REMEMBERED, REMEMBERED), "bounded");
    }

    #[test]
    fn what_has_no_number_or_one_that_is_taken_waits_for_nothing() {
        let (mut order, now) = (Resequencer::new(), Instant::now());
        send(&mut order, 2, now);
        assert_eq!(order.take("a", None, "no JSON".into(), now), ["no JSON"]);
        assert_eq!(order.take("b", Some(0), "zero".into(), now), ["zero"]);
        assert_eq!(order.take("c", Some(-7), "negative".into(), now), ["negative"]);
        assert_eq!(order.take("d", Some(2), "two again".into(), now), ["two again"]);
        assert_eq!(send(&mut order, 1, now), ["1", "2"]);
        assert_eq!(order.take("e", Some(i64::MAX), "last".into(), now), [""; 0]);
        assert_eq!(order.overdue(now + GAP_WAIT), ["last"]);
    }

    #[test]
    fn a_client_that_numbers_in_its_own_way_is_soon_not_waited_for_until_a_late_message_shows_that_it_matters() {
        let (mut order, mut now) = (Resequencer::new(), Instant::now());
        for number in [10, 20, 30] {
            assert_eq!(send(&mut order, number, now), [""; 0]);
            now += GAP_WAIT;
            assert_eq!(order.overdue(now), [number.to_string()]);
        }
        assert_eq!(send(&mut order, 40, now), ["40"], "not waited for");
        assert_eq!(send(&mut order, 35, now), ["35"], "it was passed over");
        assert_eq!(send(&mut order, 50, now), [""; 0], "so it is waited for again");
    }

    #[test]
    fn a_gap_that_is_filled_in_time_shows_that_the_client_numbers_as_expected() {
        let (mut order, mut now) = (Resequencer::new(), Instant::now());
        for first in [1, 5, 9, 13] {
            for number in [first + 1, first] {
                send(&mut order, number, now);
            }
            assert_eq!(send(&mut order, first + 3, now), [""; 0], "one before it never comes");
            now += GAP_WAIT;
            assert_eq!(order.overdue(now), [(first + 3).to_string()]);
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let (mut order, now) = (Resequencer::new(), Instant::now());
        let waiting = i64::try_from(HELD_MESSAGES).expect("few");
        for number in 2..=waiting + 1 {
            assert_eq!(send(&mut order, number, now), [""; 0]);
        }
        assert_eq!(send(&mut order, waiting + 2, now).len(), HELD_MESSAGES + 1);
        let half = "x".repeat(HELD_BYTES / 2 + 1);
        assert!(order.take("large", Some(1_000), half.clone(), now).is_empty());
        assert_eq!(order.take("larger", Some(1_002), half, now).len(), 1, "only as many as must");
        assert_eq!(order.early.len(), 1);
        assert_eq!(order.give_up().len(), 1);
        assert_eq!(order.early_bytes, 0);
    }

    proptest! {
        #[test]
        fn any_order_within_the_wait_comes_out_as_it_was_sent(
            arrivals in Just((1..=40i64).collect::<Vec<_>>()).prop_shuffle(),
            millis in prop::collection::vec(0..49u64, 40),
        ) {
            // 40 steps of at most 49 ms: nothing has to wait for two seconds.
            let (mut order, mut now, mut out) = (Resequencer::new(), Instant::now(), Vec::new());
            for (&number, &pause) in arrivals.iter().zip(&millis) {
                now += Duration::from_millis(pause);
                out.append(&mut order.overdue(now));
                out.append(&mut send(&mut order, number, now));
            }
            prop_assert_eq!(out, (1..=40).map(|number| number.to_string()).collect::<Vec<_>>());
        }

        #[test]
        fn nothing_is_lost_or_doubled_and_nothing_waits_too_long_whatever_comes(
            arrivals in prop::collection::vec((0..60i64, 0..80u32, 0..3_000u64, 0..8u8), 1..120),
        ) {
            let (mut order, mut now) = (Resequencer::new(), Instant::now());
            let (mut sent, mut out) = (HashSet::new(), Vec::new());
            for (number, name, pause, kind) in arrivals {
                now += Duration::from_millis(pause);
                out.append(&mut order.overdue(now));
                let number = (kind > 0).then_some(number);
                let text = name.to_string();
                sent.insert(text.clone());
                out.append(&mut order.take(&format!("m{name}"), number, text, now));
                prop_assert!(order.due().is_none_or(|due| due <= now + GAP_WAIT && due > now));
                prop_assert_eq!(order.early_bytes, order.early.values().map(|early| early.text.len()).sum::<usize>());
            }
            out.append(&mut order.overdue(now + GAP_WAIT));
            prop_assert_eq!(order.due(), None, "nothing is left");
            let once: HashSet<String> = out.iter().cloned().collect();
            prop_assert_eq!(once.len(), out.len(), "none twice");
            prop_assert_eq!(once, sent, "none lost");
        }
    }
}
